"""The danger: somebody waits for a graph, or gets a stale answer because one was built beside him."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from nearfield.index import Index
from nearfield.live import LiveIndex

ROWS = 6000


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Graphs of some thousand rows are built, and not before the event."""
    go, settle = threading.Event(), Index.settle

    def waiting(index: Index) -> None:
        if threading.current_thread().name == "nearfield index":
            assert go.wait(60)
        settle(index)

    monkeypatch.setattr(LiveIndex, "kind", "hnsw")
    monkeypatch.setattr("nearfield.live.WORTH_PUBLISHING", 10)
    monkeypatch.setattr(Index, "settle", waiting)
    yield go
    go.set()


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 8), dtype=np.float32)


def finished(collection: nf.Collection) -> None:
    builder = collection._derived.index._builder
    assert builder is not None
    builder.join(60)
    assert not builder.is_alive()


@pytest.mark.parametrize("in_memory", [False, True])
def test_searches_wait_for_a_graph_or_miss_what_was_written_meanwhile(
    tmp_path: Path, paused: threading.Event, in_memory: bool
) -> None:
    with nf.open(None if in_memory else tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        made = vectors(ROWS)
        collection.add(ids=[str(i) for i in range(ROWS)], embeddings=made)
        hits = collection.search(made[17], k=3, recall=0.9, explain=True)
        assert hits.report is not None
        assert hits.report.exact  # nothing else is there yet
        collection.delete(["17"])
        late = vectors(900, 1)
        collection.add(ids=[f"late {i}" for i in range(len(late))], embeddings=late)
        assert collection.search(late[5], k=1)[0].id == "late 5"
        assert collection._derived.index._thing is not None
        assert not collection._derived.index._thing.built
        paused.set()
        finished(collection)
        hits = collection.search(late[6], k=1, recall=0.9, explain=True)
        assert hits.report is not None
        assert not hits.report.exact
        assert hits[0].id == "late 6"
        assert collection.search(made[17], k=1, exact=True)[0].id != "17"
        queries = vectors(50, 2)
        everything = np.concatenate([np.delete(made, 17, 0), late])
        names = [str(i) for i in range(ROWS) if i != 17] + [f"late {i}" for i in range(900)]
        unit = everything / np.linalg.norm(everything, axis=1, keepdims=True)
        best = np.argmax(queries @ unit.T, axis=1)
        assert [hits[0].id for hits in collection.search(queries, k=1, exact=True)] == [names[at] for at in best]
        assert collection._derived.index._thing is not None
        assert collection._derived.index._thing.built
    if not in_memory:
        assert list((tmp_path / "x.nf" / "indexes" / "c").glob("hnsw-*"))  # and the next process has it
        with nf.open(tmp_path / "x.nf") as db:
            hits = db.collection("c", embedder=None).search(late[7], k=1, recall=0.9, explain=True)
            assert hits.report is not None
            assert (hits[0].id, hits.report.exact) == ("late 7", False)


def test_searches_wait_for_an_index_to_be_written_down(
    tmp_path: Path, paused: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused.set()
    writing, answered, save = threading.Event(), threading.Event(), Index.save
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        made, late = vectors(ROWS), vectors(900, 1)
        collection.add(ids=[str(i) for i in range(ROWS)], embeddings=made)
        collection.search(made[0])
        finished(collection)
        collection.search(made[0])  # with the graph from now on

        def slow(index: Index, path: Path) -> None:
            writing.set()
            answered.wait(20)
            save(index, path)

        monkeypatch.setattr(Index, "save", slow)
        live = collection._derived.index
        live._published = 0
        writer = threading.Thread(target=live.publish)
        writer.start()
        try:
            assert writing.wait(60)
            collection.delete(["17"])
            collection.add(ids=[f"late {i}" for i in range(len(late))], embeddings=late)
            assert collection.search(late[5], k=1, exact=True)[0].id == "late 5"
            assert collection.search(made[17], k=1, exact=True)[0].id != "17"
            assert writer.is_alive()  # it has not been waited for
        finally:
            answered.set()
            writer.join(60)
        # And it wrote what it began to write.
        newest = max((tmp_path / "x.nf" / "indexes" / "c").glob("hnsw-*"))
        index = nf.Index.load(newest, verify=True)
        assert len(index) == ROWS
        assert index.search(made[17], k=1, exact=True)[0][0] == 17
        assert index.search(made[18], k=1, recall=0.9)[0][0] == 18
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        assert collection.search(late[5], k=1, exact=True)[0].id == "late 5"
        assert collection.search(made[17], k=1, exact=True)[0].id != "17"


def test_a_database_is_closed_or_a_collection_dropped_while_a_graph_is_built(
    tmp_path: Path, paused: threading.Event
) -> None:
    for end in ("close", "drop"):
        db = nf.open(tmp_path / f"{end}.nf")
        collection = db.collection("c", embedder=None)
        collection.add(embeddings=vectors(ROWS))
        collection.search(vectors(1))
        db.drop("c") if end == "drop" else db.close()
        paused.set()
        finished(collection)
        assert not list((tmp_path / f"{end}.nf").glob("indexes/*/hnsw*"))
        db.close()


def test_compacting_leaves_a_graph_to_be_built_by_others(tmp_path: Path, paused: threading.Event) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[str(i) for i in range(ROWS)], embeddings=vectors(ROWS))
        assert not collection.compact()  # there is nothing to give back
    assert list((tmp_path / "x.nf" / "indexes" / "c").glob("hnsw-*"))
    with nf.open(tmp_path / "x.nf") as db:
        hits = db.collection("c", embedder=None).search(vectors(1)[0], k=5, recall=0.9, explain=True)
        assert hits.report is not None
        assert not hits.report.exact


def test_a_small_collection_gets_the_graph_that_its_searches_have_paid_for(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        made = vectors(1500)
        collection.add(ids=[str(i) for i in range(len(made))], embeddings=made)
        hits = collection.search(made[3], recall=0.9, explain=True)
        assert hits.report is not None
        assert hits.report.exact
        thing = collection._derived.index._thing
        assert thing is not None
        assert not thing.due
        thing.demand()  # as searches would have, in the end
        collection.search(made[3], recall=0.9)
        finished(collection)
        hits = collection.search(made[3], recall=0.9, explain=True)
        assert hits.report is not None
        assert not hits.report.exact
        assert hits[0].id == "3"


def test_an_index_builds_its_graph_once_searches_have_paid_for_it_and_not_for_who_tends_it() -> None:
    made = np.cumsum(vectors(1100 * 80).reshape(1100, 640), axis=1)  # few directions hold most of it
    index, tended = nf.Index(640, threads=1), nf.Index(640, threads=1)
    index.add(made)
    tended.add(made, settle=False)
    for one in (index, tended):
        for searches in range(100_000):
            one.search(made[searches % 1100], 1, recall=0.9)
            if searches % 1000 == 0 and (one.due or one.built):
                break
        assert searches > 5000
    assert index.built
    assert not tended.built
    tended.settle()
    assert tended.built
    assert not tended.search(made[5], recall=0.9, report=True)[2].exact
