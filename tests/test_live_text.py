"""The danger: a keyword index that has not heard of what happened to the records, or heard it twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from nearfield import live, live_text, transaction
from nearfield.beside import prefetched
from nearfield.errors import Corrupt, InvalidInput
from nearfield.live import consistent
from nearfield.live_text import LiveText

WORDS = ["ant", "bee", "cat", "dog"]
texts = st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join))
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "upsert", "update", "metadata", "vector", "delete", "compact", "search", "other"]),
        st.integers(0, 9),
        texts,
    ),
    min_size=1,
    max_size=14,
)


def answers(collection: nf.Collection, text: LiveText, query: str) -> dict[str, float]:
    """The scores of all answers, by id."""

    origin, name = collection._state().origin, collection.name

    def work(transaction: object) -> dict[str, float]:
        state = transaction.state(origin, name)  # type: ignore[attr-defined]
        rows, scores, report = text.search(transaction, state, [query], max(1, state.live))  # type: ignore[arg-type]
        assert report.exact
        found = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
        records = transaction.records(state.id, [row for row in found if row >= 0])  # type: ignore[attr-defined]
        return {records[row].id: score for row, score in found.items() if row >= 0}

    return consistent(collection._store, (text.gate,), work)


def expected(collection: nf.Collection, query: str) -> dict[str, float]:
    """The same of an index built just now."""
    records = [record for record in collection.get() if record.document is not None]
    index = nf.SparseIndex()
    index.add([record.document for record in records])
    ids, scores = index.search(query, max(1, len(records)))
    return {records[i].id: score for i, score in zip(ids.tolist(), scores.tolist(), strict=True) if i >= 0}


def step(collection: nf.Collection, what: str, number: int, text: str | None) -> None:
    id, vector = f"r{number}", np.full((1, 2), number, np.float32)
    there = bool(collection.count()) and id in {record.id for record in collection.get()}
    if (what == "add" and not there) or what == "upsert":
        collection.upsert(documents=[text], ids=[id], embeddings=vector)
    elif what == "update" and there and text is not None:
        collection.update(id, documents=[text])
    elif what == "metadata" and there:
        collection.update(id, metadatas=[{"n": number}])
    elif what == "vector" and there:
        collection.update(id, embeddings=vector + 1)
    elif what == "delete":
        collection.delete(id)
    elif what == "compact":
        collection.compact()


@settings(max_examples=40)
@given(steps)
def test_answers_are_those_of_an_index_built_of_the_documents_of_now(
    changes: list[tuple[str, int, str | None]],
) -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None, dimension=2)
        text = LiveText(collection._store)
        for what, number, document in changes:
            if what == "search":
                assert answers(collection, text, "cat dog") == expected(collection, "cat dog")
            step(collection, what, number, document)
        for query in ("cat", "ant bee dogs"):
            assert answers(collection, text, query) == expected(collection, query)


def filled(db: nf.Database) -> nf.Collection:
    collection = db.collection("c", embedder=None, dimension=2)
    collection.add(
        documents=["a cat", "two dogs", "cats and dogs", None],
        ids=list("abcd"),
        embeddings=np.ones((4, 2), np.float32),
    )
    return collection


def test_a_published_index_is_read_by_the_next_process_and_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 1)
    with nf.open(tmp_path / "x.nf") as db:
        collection = filled(db)
        text = LiveText(collection._store)
        assert not text.publish()  # nothing was searched yet
        answers(collection, text, "cat")
        assert text.publish()
        assert not text.publish()  # nothing has changed
        collection.delete("a")
        collection.update("d", documents=["a third cat"])
        collection.update("b", metadatas=[{"x": 1}])
        collection.add(documents=["catty"], ids=["e"], embeddings=np.ones((1, 2), np.float32))
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        loaded: list[Path] = []
        text = LiveText(collection._store)
        read = text.loaded
        monkeypatch.setattr(text, "loaded", lambda path, state: loaded.append(path) or read(path, state))
        assert answers(collection, text, "cat dog") == expected(collection, "cat dog")
        assert len(loaded) == 1
        assert text.highlights("Cats!", "cat") == [(0, 4)]


def test_a_damaged_published_index_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 1)
    with nf.open(tmp_path / "x.nf") as db:
        collection = filled(db)
        text = LiveText(collection._store)
        answers(collection, text, "cat")
        assert text.publish()
    (path,) = (tmp_path / "x.nf").glob("indexes/**/text*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        with pytest.warns(UserWarning, match="made again"):
            assert answers(collection, LiveText(collection._store), "cat") == expected(collection, "cat")
    with nf.open(tmp_path / "x.nf") as db:  # it is forgotten: nobody is warned twice
        collection = db.collection("c", embedder=None)
        assert answers(collection, LiveText(collection._store), "cat") == expected(collection, "cat")


def test_a_collection_keeps_the_language_of_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """German endings and stop words, in this process and the next, from a published index and after a compaction."""
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 1)
    texts = ["Die Katzen schlafen im Garten.", "Der Hund bellt.", "The cats sleep."]

    def found(docs: nf.Collection, query: str) -> list[str]:
        return [hit.id for hit in docs.search(query, mode="lexical")]

    with nf.open(tmp_path / "x.nf") as db:
        vectors = np.ones((3, 2), np.float32)
        docs = db.collection("texte", embedder=None, dimension=2, language="german")
        docs.add(texts, ids=["katzen", "hund", "cats"], embeddings=vectors)
        english = db.collection("texts", embedder=None, dimension=2)
        english.add(texts, ids=["katzen", "hund", "cats"], embeddings=vectors)
        plain = db.collection("plain", embedder=None, dimension=2, language="none")
        plain.add(texts, ids=["katzen", "hund", "cats"], embeddings=vectors)
        assert found(docs, "eine Katze schläft") == ["katzen"]
        assert docs.search("Katze", mode="lexical")[0].highlights == ((4, 10),)
        assert found(docs, "die der im") == []
        assert found(english, "eine Katze") == []
        assert found(english, "a sleeping cat") == ["cats"]
        assert found(docs, "sleeping cats, кошки 猫 \u200f") == ["cats"]  # another language: its words, no error
        assert found(plain, "katze") == []
        assert found(plain, "der") == ["hund"]
    with nf.open(tmp_path / "x.nf") as db:
        docs = db.collection("texte", embedder=None)
        assert found(docs, "Katze") == ["katzen"]
        assert docs.search("Katze", mode="lexical")[0].highlights == ((4, 10),)
        docs.compact()
        docs.add(["Eine Katze."], ids=["neu"], embeddings=[[1, 1]])
        assert sorted(found(docs, "Katzen")) == ["katzen", "neu"]
        assert db.collection("texte", embedder=None, language="german").count() == 4
        assert not db.verify()
        with pytest.raises(InvalidInput, match="has the language 'german', not 'english'"):
            db.collection("texte", embedder=None, language="english")
        with pytest.raises(InvalidInput, match=r"unknown language 'klingon'; there are .*german.*none"):
            db.collection("new", embedder=None, language="klingon")
        assert "new" not in db.collections()
        db.rename("texte", "sammlung")
        assert db.collection("sammlung", embedder=None, language="german").count() == 4
        db.backup(tmp_path / "copy.nf")
        db.drop("sammlung")
        assert found(db.collection("sammlung", embedder=None, dimension=2), "Katze") == []
    with nf.open(tmp_path / "copy.nf") as db:
        assert sorted(found(db.collection("sammlung", embedder=None), "Katze")) == ["katzen", "neu"]


def test_documents_that_are_read_while_others_are_taken_in_are_lost_or_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_text, "_RECORDS", 5)
    monkeypatch.setattr(transaction, "_PIECE", 20)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        documents = [None if n % 7 == 0 else f"{WORDS[n % 4]} {n}" for n in range(200)]
        collection.add(documents, ids=[f"r{n}" for n in range(200)], embeddings=np.ones((200, 1), np.float32))
        collection.delete([f"r{n}" for n in range(40, 80)])
        text = collection._derived.text
        assert answers(collection, text, "bee") == pytest.approx(expected(collection, "bee"))
        assert list(answers(collection, text, "197")) == ["r197"]


@pytest.mark.parametrize("damage", ["'cat 6'", "NULL", "x'00ff'", "7"])
def test_a_document_that_changed_on_the_disk_is_searched_as_if_it_were_good(tmp_path: Path, damage: str) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add([f"dog {n}" for n in range(9)], ids=[f"r{n}" for n in range(9)], embeddings=np.ones((9, 1)))
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    catalog.execute(f"UPDATE records SET document = {damage} WHERE id = 'r6'")
    catalog.commit()
    catalog.close()
    with nf.open(tmp_path / "x.nf") as db, pytest.raises(Corrupt, match="'r6' is damaged"):
        db.collection("c", embedder=None).search("dog", mode="lexical")


def test_words_that_cannot_be_made_leave_a_thread_that_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def seen(items: Any) -> Any:
        begun.append(prefetched(items))
        return begun[-1]

    def failing(*_: Any) -> None:
        raise MemoryError("no room for words")

    monkeypatch.setattr(live_text, "_RECORDS", 5)
    monkeypatch.setattr(transaction, "_PIECE", 20)
    monkeypatch.setattr(live_text, "prefetched", seen)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(["dog"] * 200, embeddings=np.ones((200, 1)))
        with monkeypatch.context() as patch:
            patch.setattr(nf.SparseIndex, "add", failing)
            with pytest.raises(MemoryError) as error:  # which keeps what was under way alive
                collection.search("dog", mode="lexical")
        assert error.value.__traceback__ is not None
        assert [items.gi_frame for items in begun] == [None]  # closed, and closing waits for the thread
        assert len(collection.search("dog", mode="lexical")) == 10
