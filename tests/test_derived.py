"""The danger: columns or words that were made while somebody wrote, and say something else than the records; or waiting
for them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from nearfield import derived, live
from nearfield.columns import LiveColumns
from nearfield.given import Given
from nearfield.live_text import LiveText
from nearfield.transaction import Transaction

WORDS = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows are worth a thread, and a file."""
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 10)
    monkeypatch.setattr(derived, "_MANY", 10)
    monkeypatch.setattr(LiveColumns, "far", 10)
    monkeypatch.setattr(LiveText, "far", 10)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first rows of what was read from the catalog to make columns or words."""
    rows: list[int] = []
    metadata, texts = Transaction.metadata, Transaction.texts

    def counted(self: Transaction, id: int, row: int) -> Any:
        found = list(metadata(self, id, row))
        rows.extend(int(first[0]) for first, _ in found)
        return iter(found)

    def counted_texts(self: Transaction, state: Any, row: int) -> Any:
        for first, documents in texts(self, state, row):
            rows.append(int(first[0]))
            yield first, documents

    monkeypatch.setattr(Transaction, "metadata", counted)
    monkeypatch.setattr(Transaction, "texts", counted_texts)
    return rows


def add(collection: nf.Collection, first: int, count: int) -> None:
    numbers = range(first, first + count)
    collection.add(
        [f"{WORDS[n % 4]} {n}" for n in numbers],
        ids=[str(n) for n in numbers],
        embeddings=np.ones((count, 2), dtype=np.float32),
        metadatas=[{"n": n, "word": WORDS[n % 4]} for n in numbers],
    )


# -- who waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True])
def test_after_a_bulk_load_a_filter_reads_the_catalog(
    tmp_path: Path, eager: None, read: list[int], in_memory: bool
) -> None:
    with nf.open(None if in_memory else tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for first in range(0, 200, 20):
            add(collection, first, 20)
        collection._derived.wait()
        assert collection.count({"n": {"$lt": 77}}) == 77
        assert read == []
        add(collection, 200, 5)  # too few for a thread, and at hand all the same
        assert collection.count({"word": "cat", "n": {"$gte": 196}}) == 2
        assert read == []
        collection.delete(["3", "204"])
        collection.update("5", metadatas={"n": 1000})
        assert collection.count({"n": {"$lt": 300}}) == 202
        assert read == []


def test_the_first_search_after_a_bulk_load_reads_all_vectors(tmp_path: Path, eager: None) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for first in range(0, 5200, 1300):
            add(collection, first, 1300)
        collection._derived.wait()
        add(collection, 5200, 20)  # no thread is there that might just end: this begins one
        collection._derived.wait()
        index = collection._derived.index
        assert index._version is not None
        assert index._version.next_row == 5220
        collection.delete(["7"])
        assert collection.search([1, 1], k=9).ids == [str(n) for n in (0, 1, 2, 3, 4, 5, 6, 8, 9)]


def test_who_adds_to_a_large_collection_now_and_then_holds_an_index_of_all_of_it(tmp_path: Path, eager: None) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        add(db.collection("c", embedder=None), 0, 500)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, 500, 100)
        collection._derived.wait()
        assert collection._derived._thread is not None  # it has looked
        assert collection._derived.index._thing is None
        assert collection.search([1, 1], k=600).ids[-1] == "599"


def test_words_follow_what_is_written_once_somebody_searched_for_one(
    tmp_path: Path, eager: None, read: list[int]
) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, 0, 40)
        collection._derived.wait()
        assert collection._derived.text._thing is None  # dense searches alone must not pay for words
        assert not collection._derived.text.given._pieces  # nor keep their documents
        assert collection.search("17", mode="lexical").ids == ["17"]
        read.clear()
        for first in range(40, 200, 40):
            add(collection, first, 40)
        collection._derived.wait()
        assert collection.search("150", mode="lexical").ids == ["150"]
        assert read == []
    with nf.open(tmp_path / "x.nf") as db:  # a process that only writes does so too: the words are in use somewhere
        collection = db.collection("c", embedder=None)
        add(collection, 200, 100)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        read.clear()
        assert collection.search("299", mode="lexical").ids == ["299"]
        assert collection.count({"n": 299}) == 1
        assert read == []


def test_a_process_that_ends_leaves_its_columns_to_the_next(tmp_path: Path, eager: None, read: list[int]) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        add(db.collection("c", embedder=None), 0, 100)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for first in range(100, 130, 2):  # each of them, and all of them, too few to be published by themselves
            add(collection, first, 2)
    with nf.open(tmp_path / "x.nf") as db:
        assert db.collection("c", embedder=None).count({"n": {"$gte": 99}}) == 31
    assert read == [100]  # the second process read none of what the first left: it wrote too little for that


def test_a_reader_takes_what_the_writer_published_instead_of_reading_all_itself(
    tmp_path: Path, eager: None, read: list[int]
) -> None:
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other:
        reader, writer = db.collection("c", embedder=None), other.collection("c", embedder=None)
        add(writer, 0, 5)
        assert reader.count({"n": 3}) == 1
        assert reader.search("3", mode="lexical").ids == ["3"]
        assert writer.search("3", mode="lexical", where={"n": 3}).ids == ["3"]
        read.clear()
        add(writer, 5, 100)
        writer._derived.finish()
        writer.delete(["50"])
        add(writer, 105, 1)
        assert reader.count({"n": {"$gte": 40}}) == 65
        assert reader.search("105", mode="lexical").ids == ["105"]
        assert read == [105, 105]


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch, eager: None) -> tuple[threading.Event, threading.Event]:
    """Columns are written down between two events: begun, and may end."""
    begun, go, whole = threading.Event(), threading.Event(), LiveColumns.saving

    def slow(self: LiveColumns, thing: Any) -> Callable[[Path], None]:
        def save(path: Path) -> None:
            begun.set()
            assert go.wait(30)
            whole(self, thing)(path)

        return save

    monkeypatch.setattr(LiveColumns, "saving", slow)
    return begun, go


def test_somebody_waits_while_columns_are_written_down(
    tmp_path: Path, saving: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = saving
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, 0, 40)
        assert begun.wait(30)
        assert collection.count({"n": {"$lt": 7}}) == 7
        assert collection.search([1, 1], k=3, where={"word": "cat"}).ids == ["2", "6", "10"]
        add(collection, 40, 40)
        assert collection.search([1, 1], k=50).ids[-1] == "49"
        go.set()
        assert collection.count({"n": {"$gte": 7}}) == 73
    assert list((tmp_path / "x.nf").glob("indexes/c/columns-*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_inherits_columns_that_are_locked_because_they_were_being_written_down(
    tmp_path: Path, saving: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = saving
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, 0, 40)
        assert begun.wait(30)
        threading.Timer(0.3, go.set).start()
        child = os.fork()
        if not child:
            signal.alarm(120)
            add(collection, 40, 3)
            os._exit(int(collection.count({"n": {"$gte": 30}}) != 13))
        assert os.waitpid(child, 0)[1] == 0
        assert collection.count({"n": {"$gte": 30}}) == 13


# -- what is right ---------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "add", "upsert", "update", "document", "delete", "follow", "filter", "search", "lose", "compact"]
        ),
        st.integers(0, 30),
        st.integers(1, 6),
    ),
    min_size=3,
    max_size=20,
)


def answers(collection: nf.Collection) -> Any:
    return (
        collection.facet("word"),
        [record.id for record in collection.get(where={"n": {"$gte": 5}}, order_by="n")],
        collection.count({"seen": {"$exists": True}}),
        [(sorted(hits.ids), hits.scores) for hits in collection.search(WORDS, k=99, mode="lexical")],
    )


def step(collection: nf.Collection, what: str, number: int, count: int) -> None:
    numbers = range(number, number + count)
    ids = [str(n) for n in numbers]
    there = [id for id in ids if collection.known([id])]
    if what in ("add", "upsert"):
        numbers = [n for n in numbers if what == "upsert" or str(n) not in there]
        if numbers:
            collection.upsert(
                [WORDS[n * count % 4] if n % 5 else None for n in numbers],
                ids=[str(n) for n in numbers],
                embeddings=np.ones((len(numbers), 2), dtype=np.float32),
                metadatas=[{"n": n * count, "word": WORDS[n * count % 4]} for n in numbers],
            )
    elif what == "update" and there:
        collection.update(there, metadatas=[{"n": number, "seen": True}] * len(there))
    elif what == "document" and there:
        collection.update(there, documents=[WORDS[number % 4]] * len(there))
    elif what == "delete":
        collection.delete(ids)
    elif what == "follow":
        for thing in (collection._derived.columns, collection._derived.text):
            thing.follow(collection._id)
    elif what == "filter":
        collection.count({"n": number})
    elif what == "search":
        collection.search(WORDS[number % 4], mode="lexical")
    elif what == "lose":  # too much at once, or two threads: some pieces are not at hand
        for given_ in (collection._derived.columns.given, collection._derived.text.given):
            for key in list(given_._pieces)[:: count % 3 + 1]:
                given_._pieces.pop(key)
    elif what == "compact":
        collection.compact()


def test_what_is_at_hand_is_taken_as_far_as_it_goes_and_no_further() -> None:
    at_hand: Given[str] = Given()
    for first, values in ((0, "ab"), (2, "c"), (3, "de"), (9, "j")):
        at_hand.put(7, first, list(values), 1)
    at_hand.put(8, 0, ["other"], 1)
    assert list(at_hand.taken(7, 0, 4)) == [(0, ["a", "b"]), (2, ["c"])]
    assert list(at_hand.taken(7, 3, 9)) == [(3, ["d", "e"])]  # it was not lost when it was too far
    assert list(at_hand.taken(7, 10, 20)) == []
    assert list(at_hand.taken(8, 0, 1)) == [(0, ["other"])]
    assert at_hand._pieces == {}
    at_hand.put(7, 0, ["a"], 1 << 27)
    at_hand.put(7, 1, ["b"], 1 << 27)
    assert at_hand._pieces == {}  # too much to keep


@settings(max_examples=40)
@given(steps)
def test_what_followed_the_writers_answers_as_what_is_made_of_the_records(changes: list[tuple[str, int, int]]) -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None, dimension=2)
        for change in changes:
            step(collection, *change)
        found = answers(collection)
        db._derived.clear()
        assert answers(db.collection("c", embedder=None)) == found


def test_many_threads_write_and_filter_and_columns_follow_them(tmp_path: Path, eager: None) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, 0, 20)

        def work(n: int) -> None:
            for i in range(12):
                first = 1000 * (n + 1) + 20 * i
                add(collection, first, 20)
                assert collection.count({"n": {"$gte": first, "$lt": first + 20}}) == 20
                assert collection.delete(str(first)) == 1
                assert collection.search(str(first + 1), mode="lexical", k=1).ids == [str(first + 1)]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = answers(collection)
        assert collection.count({"n": {"$gte": 1000}}) == 4 * 12 * 19
    with nf.open(tmp_path / "x.nf") as db:
        assert answers(db.collection("c", embedder=None)) == found
        assert db.verify() == []
