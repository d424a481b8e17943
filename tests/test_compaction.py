"""The dangers of compaction: a lost change, another order, a stale answer, disk that does not come back."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from databases import DIMENSION, filled, intact, snapshot, vectors
from nearfield import compaction, transaction
from nearfield.errors import Corrupt, Locked, NotFound


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)
    monkeypatch.setattr(compaction, "PIECE_ROWS", 5)
    monkeypatch.setattr(compaction, "_FEW", 3)


def churn(collection: nf.Collection, steps: int, seed: int) -> None:
    """Random changes of every kind to the records "0" … "59"."""
    choice = random.Random(seed)
    for step in range(steps):
        ids = [str(i) for i in choice.sample(range(60), choice.randint(1, 9))]
        kind = choice.randrange(4)
        if kind == 0:
            collection.delete(ids)
        elif kind == 1 and (there := [r.id for r in collection.get() if r.id in ids]):
            collection.update(
                there, documents=[f"changed {step}"] * len(there), metadatas=[{"step": step}] * len(there)
            )
        elif kind == 2 and (there := [r.id for r in collection.get() if r.id in ids]):
            collection.update(there, embeddings=vectors(len(there), seed=step))
        else:
            texts = [f"text {id} of {step}" for id in ids]
            collection.upsert(texts, ids=ids, embeddings=vectors(len(ids), seed=step + 1000))


def consistent(path: Path) -> None:
    """What must hold in a catalog at rest after a compaction."""
    catalog = sqlite3.connect(path / "catalog.sqlite")
    assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []
    assert catalog.execute("SELECT count(*) FROM collections WHERE origin IS NULL").fetchone() == (0,)
    assert catalog.execute("PRAGMA freelist_count").fetchone() == (0,)
    named = {f"{number:06d}.npy" for (number,) in catalog.execute("SELECT number FROM segments")}
    catalog.close()
    assert {file.name for file in path.glob("vectors/*/*")} == named


@pytest.mark.parametrize("path", [None, "x.nf"])
@pytest.mark.parametrize("seed", range(4))
def test_compaction_changes_nothing_that_can_be_seen(tmp_path: Path, path: str | None, seed: int) -> None:
    with nf.open(tmp_path / path if path else None) as db:
        collection = db.collection("c", embedder=None)
        churn(collection, 60, seed)
        before = snapshot(collection)
        hits = [h.to_dicts() for h in collection.search(vectors(20), k=9)]
        assert collection.compact()
        assert snapshot(collection) == before
        assert [h.to_dicts() for h in collection.search(vectors(20), k=9)] == hits
        assert not collection.compact()  # there is nothing to gain any more
        state = collection._state()
        assert state.next_row == state.live
        churn(collection, 20, seed + 100)  # and it goes on
        assert collection.search(collection.get(include=["embeddings"])[0].embedding, k=1).ids == [
            collection.peek(1)[0].id
        ]
    if path:
        with nf.open(tmp_path / path) as db:
            db.compact()
        consistent(tmp_path / path)


@pytest.mark.parametrize("seed", range(6))
def test_what_changes_behind_the_back_of_a_compaction_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Between any two of its transactions others change records that it has copied, and some that it has not."""
    monkeypatch.setattr(compaction, "PIECE_ROWS", 4)
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other, nf.open() as model:
        collection, theirs = db.collection("c", embedder=None), other.collection("c", embedder=None)
        wanted = model.collection("c", embedder=None)
        for one in (collection, wanted):
            churn(one, 80, seed)
        step = compaction._Copy._step
        count = 0

        def watched(self: Any) -> int:
            nonlocal count
            count += 1
            left = step(self)
            if count < 40:
                for one in (theirs, wanted):
                    churn(one, 1, seed * 1000 + count)
                assert theirs.search(vectors(1)[0], k=60).ids == wanted.search(vectors(1)[0], k=60).ids
            return left

        monkeypatch.setattr(compaction._Copy, "_step", watched)
        assert collection.compact()
        assert count >= 4
        assert snapshot(collection) == snapshot(wanted) == snapshot(theirs)
        for one in (theirs, collection):
            assert one.search(vectors(1)[0], k=60).ids == wanted.search(vectors(1)[0], k=60).ids
    consistent(tmp_path / "x.nf")


def test_readers_and_writers_go_on_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 100)
    monkeypatch.setattr(compaction, "PIECE_ROWS", 40)
    made = vectors(600)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[f"kept {i}" for i in range(300)], embeddings=made[:300])
        collection.add(ids=[f"gone {i}" for i in range(300)], embeddings=made[300:])
        stop, errors = threading.Event(), []

        def read() -> None:
            with nf.open(tmp_path / "x.nf") as mine:
                handles = [collection, mine.collection("c", embedder=None)]
                while not stop.is_set():
                    for handle in handles:
                        assert handle.search(made[7], k=1).ids == ["kept 7"]
                        assert handle.get("kept 9", include=["embeddings"])[0].embedding.tolist() == made[9].tolist()

        def write() -> None:
            i = 0
            while not stop.is_set():
                collection.add(ids=f"new {i}", embeddings=made[i % 300] + 1)
                assert collection.search(made[i % 300] + 1, k=1).scores[0] > 0.999
                collection.delete(f"gone {i}")
                i += 1
            written.append(i)

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        written: list[int] = []
        threads = [threading.Thread(target=run, args=(work,)) for work in (read, read, write)]
        for thread in threads:
            thread.start()
        collection.delete([f"gone {i}" for i in range(150, 300)])
        for _ in range(2):
            collection.compact()
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert collection.count() == 450 + written[0] - min(written[0], 150)
        collection.compact()
    consistent(tmp_path / "x.nf")


def size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):  # a thread in the background may remove one
            total += file.lstat().st_size if file.is_file() else 0
    return total


def test_after_replacing_every_record_it_is_as_small_as_a_fresh_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as fast, by what it reads, and as exact."""
    monkeypatch.setattr(compaction, "PIECE_ROWS", 500)
    made = np.random.default_rng(1).standard_normal((3000, 64), dtype=np.float32)
    texts = [f"{i} " + "x" * 300 for i in range(3000)]
    ids = [str(i) for i in range(3000)]

    def asked(collection: nf.Collection) -> tuple[Any, int]:
        hits = collection.search(made[::300] - 0.1, k=5, where={"n": {"$lt": 2000}}, explain=True)
        report = hits[0].report
        assert report is not None
        work = report.rows_scanned, report.rows_reread, report.exact
        return ([(one.ids, one.scores) for one in hits], work, collection.facet("kind")), report.bytes_read

    metadatas = [{"n": i, "kind": i % 7} for i in range(3000)]
    with nf.open(tmp_path / "fresh.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(texts, ids=ids, embeddings=made, metadatas=metadatas)
        wanted, fresh_bytes = asked(collection)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(texts, ids=ids, embeddings=made + 1)
        for part in np.array_split(np.random.default_rng(2).permutation(3000), 30):
            some: list[dict[str, Any]] = [metadatas[i] for i in part]
            collection.upsert(
                [texts[i] for i in part], ids=[ids[i] for i in part], embeddings=made[part], metadatas=some
            )
        assert size(tmp_path / "x.nf") > 1.5 * size(tmp_path / "fresh.nf")
        db.compact()
        assert [collection.search(made[i], k=1).ids for i in range(0, 3000, 300)] == [
            [ids[i]] for i in range(0, 3000, 300)
        ]
        found, compacted_bytes = asked(collection)
        assert found == wanted
        # How many rows are looked at twice depends on their order and on how threads share them.
        assert compacted_bytes < 1.1 * fresh_bytes
    with nf.open(tmp_path / "x.nf") as db:
        assert asked(db.collection("c", embedder=None))[0] == wanted
    assert size(tmp_path / "x.nf") < 1.1 * size(tmp_path / "fresh.nf")
    consistent(tmp_path / "x.nf")


def test_it_holds_one_piece_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    piece = transaction.Transaction.piece

    def watched(*arguments: Any) -> Any:
        records = piece(*arguments)
        seen.append(sum(len(record.document or "") for record in records))
        return records

    monkeypatch.setattr(transaction.Transaction, "piece", watched)
    monkeypatch.setattr(compaction, "PIECE_BYTES", 1000)
    monkeypatch.setattr(compaction, "SEGMENT_BYTES", 40 * 4 * DIMENSION)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(["x" * 400] * 100, embeddings=vectors(100))
        collection.delete([record.id for record in collection.peek(10)])
        before = snapshot(collection)
        collection.compact()
        assert max(seen) <= 1000 + 400
        assert sum(seen) == 90 * 400
        assert snapshot(collection) == before
    assert len(list((tmp_path / "x.nf" / "vectors" / "c").iterdir())) == 3  # of about 40 rows each


def test_a_damaged_segment_is_not_copied_as_if_it_were_good(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf", 20)
    file = tmp_path / "x.nf" / "vectors" / "c" / "000001.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 8
    file.write_bytes(data)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.delete("3")
        for _ in range(2):
            with pytest.raises(Corrupt, match=r"000001\.npy"):
                collection.compact()
        assert collection.count() == 19
    assert sorted(file.name for file in (tmp_path / "x.nf" / "vectors" / "c").iterdir()) == ["000001.npy"]


def test_a_collection_dropped_while_it_is_compacted_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "x.nf", 30)
    step = compaction._Copy._step
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other:
        collection = db.collection("c", embedder=None)
        collection.delete("1")

        def dropped(self: Any) -> int:
            left = step(self)
            if other.collections():
                threading.Thread(target=other.drop, args=("c",)).start()
                while other.collections():
                    time.sleep(0.01)
            return left

        monkeypatch.setattr(compaction._Copy, "_step", dropped)
        with pytest.raises(NotFound, match="was dropped"):
            collection.compact()
    with nf.open(tmp_path / "x.nf") as db:
        assert db.collections() == []
        db.compact()
        compaction.tidy(db._store)
    consistent(tmp_path / "x.nf")


def test_only_one_compacts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(tmp_path / "x.nf")
    monkeypatch.setattr("nearfield.schema.TIMEOUT", 0.2)
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other:
        collection = db.collection("c", embedder=None)
        with other._store.maintaining() as held:
            assert held
            with pytest.raises(Locked, match="another process is compacting"):
                collection.compact()
            collection.add(ids="x", embeddings=made[0])  # nobody else waits for it
            collection.delete("x")
        assert collection.compact()
    intact(tmp_path / "x.nf", made)


def test_it_begins_by_itself_when_more_is_dead_than_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "DUE_ROWS", 50)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        ids = [str(i) for i in range(49)]
        for seed in range(2):
            collection.upsert(ids=ids, embeddings=vectors(49, seed))
        assert db._store._thread is None  # 49 dead, 49 alive
        collection.upsert(ids=["0", "1"], embeddings=vectors(2, 7))
        assert db._store._thread is not None
        db._store._thread.join()
        assert collection._state().next_row == 49
        assert collection.get("0", include=["embeddings"])[0].embedding.tolist() == vectors(2, 7)[0].tolist()
    consistent(tmp_path / "x.nf")


def test_closing_ends_a_compaction_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "DUE_ROWS", 1)
    started = threading.Event()
    step = compaction._Copy._step

    def endless(self: Any) -> int:
        started.set()
        time.sleep(0.01)
        step(self)
        return 10**6

    monkeypatch.setattr(compaction._Copy, "_step", endless)
    db = nf.open(tmp_path / "x.nf")
    collection = db.collection("c", embedder=None)
    collection.add(ids=["a", "b", "c"], embeddings=vectors(3))
    collection.delete(["a", "b"])
    assert started.wait(60)
    db.close()
    assert db._store._thread is not None
    assert not db._store._thread.is_alive()
    with nf.open(tmp_path / "x.nf") as db:
        assert db._store._thread is not None  # what is left of it is cleared away at the next opening
        db._store._thread.join()
        assert [record.id for record in db.collection("c", embedder=None).get()] == ["c"]
    consistent(tmp_path / "x.nf")
