"""The danger: a large fill that is slow, takes memory twice, or is wrong because it was made fast."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from nearfield.index import Index
from nearfield.store import Store
from nearfield.types import FileRows

DIMENSION = 8


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)


def held(collection: nf.Collection) -> Index:
    collection.search(np.ones(DIMENSION), k=1)
    index = collection._derived.index._thing
    assert index is not None
    return index


def test_vectors_that_are_sealed_are_held_a_second_time_in_memory(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for seed in range(3):
            collection.add(embeddings=vectors(5000, seed))
        collection.add(embeddings=vectors(10, 3))
        index = held(collection)
        assert index.mapped == 3 * 5000 * 4 * DIMENSION
        assert collection.count() == len(index) == 15_010


@pytest.mark.parametrize("seed", range(4))
def test_an_index_on_sealed_files_misses_or_mixes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Adds of all sizes, deletions before and after rows are sealed, compaction by another handle, late handles: each
    answer is that of brute force."""
    monkeypatch.setattr("nearfield.transaction.SEAL_ROWS", 16)
    monkeypatch.setattr("nearfield.compaction.PIECE_ROWS", 24)
    choose, there = random.Random(seed), dict[str, Any]()
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other:
        ours, theirs = (one.collection("c", embedder=None, metric="l2") for one in (db, other))
        for step in range(40):
            made = vectors(choose.choice([1, 3, 15, 16, 40]), 1000 * seed + step)
            new = dict(zip([f"{step} {i}" for i in range(len(made))], made, strict=True))
            choose.choice([ours, theirs]).add(ids=list(new), embeddings=made)
            there |= new
            if gone := choose.sample(list(there), choose.choice([0, 0, 1, len(there) // 3])):
                choose.choice([ours, theirs]).delete(gone)
                for id in gone:
                    del there[id]
            if choose.random() < 0.1:
                theirs.compact()
            asking = choose.choice([ours, theirs])
            if choose.random() < 0.2:
                asking._derived.index._thing = asking._derived.index._version = None  # as if it had just come
            query = vectors(1, step)[0] / 3
            if choose.random() < 0.5 and there:
                wanted = sorted(there, key=lambda id: float(np.sum((there[id] - query).astype(np.float64) ** 2)))[:5]
                assert [hit.id for hit in asking.search(query, k=5)] == wanted
        assert db.verify() == []


def test_rows_of_a_file_that_is_too_short_are_taken_in(tmp_path: Path) -> None:
    index = Index(DIMENSION)
    path = tmp_path / "rows"
    vectors(4).tofile(path)
    for rows in (FileRows(path, 0, 5), FileRows(path, 4 * DIMENSION, 4), FileRows(tmp_path / "none", 0, 1)):
        with pytest.raises(nf.errors.StorageError):
            index.add_files([FileRows(path, 0, 4), rows], range(4 + rows.rows))
    with pytest.raises(nf.errors.InvalidInput):
        index.add_files([FileRows(path, 0, 4)], [1, 2, 3])
    assert len(index) == 0
    index.add_files([FileRows(path, 4 * DIMENSION, 3, np.array([0, 2], dtype=np.uint32))], [5, 6])
    assert index.search(vectors(4)[3], k=1)[0].tolist() == [6]


def test_a_write_waits_until_the_log_has_moved_into_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, go, moved = Store._move_log, threading.Event(), threading.Event()

    def waiting(store: Store) -> None:
        assert go.wait(30)
        move(store)
        moved.set()

    monkeypatch.setattr(Store, "_move_log", waiting)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for seed in range(3):  # the second finds the thread still there
            collection.add(ids=[f"{seed} {i}" for i in range(3000)], embeddings=vectors(3000, seed))
        collection.delete([f"0 {i}" for i in range(2000)])
        assert collection.count() == 7000
        size = (tmp_path / "x.nf" / "catalog.sqlite").stat().st_size
        go.set()
        assert moved.wait(30)
        assert (tmp_path / "x.nf" / "catalog.sqlite").stat().st_size > size
    assert not (tmp_path / "x.nf" / "catalog.sqlite-wal").exists()


def test_a_log_grows_without_end_while_somebody_writes_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfield.checkpoint.CHANGES", 10)
    monkeypatch.setattr("nearfield.checkpoint.LIMIT", 1 << 18)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        sizes = []
        for seed in range(60):
            collection.add(["x" * 500] * 50, embeddings=vectors(50, seed))
            sizes.append((tmp_path / "x.nf" / "catalog.sqlite-wal").stat().st_size)
        assert max(sizes) < 3 << 18  # a limit, a transaction, and what came while the log was moved


def test_a_log_that_cannot_be_moved_is_an_error_for_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def failing(store: Store, mode: str = "FULL") -> bool:
        tried.append(mode)
        raise sqlite3.OperationalError("disk I/O error")

    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        monkeypatch.setattr(Store, "_checkpoint", failing)
        monkeypatch.setattr("nearfield.checkpoint.LIMIT", 1)
        for seed in range(2):
            collection.add(embeddings=vectors(3000, seed))
        assert collection.count() == 6000
    assert "PASSIVE" in tried


LEFT_OPEN = """
import sys, numpy as np, nearfield as nf
from nearfield import live
from nearfield.index import Index
from nearfield.store import Store
live.LiveIndex.kind, live._WORTH_PUBLISHING = "hnsw", 10
docs = nf.open(sys.argv[1]).collection("docs", embedder=None)
for seed in range(4):
    docs.add(embeddings=np.random.default_rng(seed).standard_normal((10_000, 64), dtype=np.float32))
docs.search(np.ones(64))  # begins to build a graph
assert docs._derived.index._builder.is_alive()
print("ready", flush=True)
"""


def test_a_process_that_ends_while_it_builds_and_moves_makes_noise_or_leaves_damage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", LEFT_OPEN, str(tmp_path / "x.nf")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("docs", embedder=None)
        assert collection.count() == 40_000
        assert len(collection.search(np.ones(64), k=3)) == 3
        assert db.verify() == []
