"""The danger: a process dies, and acknowledged records are gone, torn, or no longer found."""

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

import crash_writer
import nearfield as nf

Model = dict[str, tuple[str, dict[str, Any], bytes]]


def run_and_kill(path: Path, life: int, mode: str, count: int, seconds: float) -> int:
    """Start a writer, kill it `seconds` after its first acknowledgement; return how many changes were acknowledged."""
    command = [sys.executable, crash_writer.__file__, str(path), str(life), mode, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        timer = threading.Timer(seconds, writer.kill)  # SIGKILL: no handler, no flush, no close
        timer.start()
        acknowledged = [first, *writer.stdout]
        timer.cancel()
    assert writer.returncode in (-9, 0, 1 if sys.platform == "win32" else -9)
    lines = [line for line in acknowledged if line.endswith("\n")]  # a torn last line was not acknowledged
    assert [int(line) for line in lines] == list(range(len(lines)))
    return len(lines)


def apply(model: Model, life: int, number: int, mixed: bool) -> Model:
    ids, vectors = crash_writer.change(life, number, mixed)
    kept = {id: entry for id, entry in model.items() if id not in set(ids)}
    if vectors is not None:
        for id, vector in zip(ids, vectors, strict=True):
            kept[id] = (crash_writer.document(id, number), {"number": number, "id": id}, vector.tobytes())
    return kept


def contents(path: Path) -> Model:
    """What a fresh process would find, checked for everything that must hold whatever happened."""
    with nf.open(path) as db:
        if db._store._thread is not None:  # it clears away what is left of a compaction
            db._store._thread.join()
        assert db.verify() == []
        collection = db.collection("c", embedder=None)
        records = collection.get(include=["documents", "metadatas", "embeddings"])
        model: Model = {}
        vectors = np.empty((len(records), crash_writer.DIMENSION), dtype=np.float32)
        for row, record in enumerate(records):
            assert record.embedding is not None
            assert record.document is not None
            vectors[row] = record.embedding
            model[record.id] = (record.document, record.metadata, record.embedding.tobytes())
        assert collection.count() == len(records) == len(model)
        if records:  # every record is found by its own vector
            assert [hits.ids for hits in collection.search(vectors, k=1)] == [[record.id] for record in records]
    catalog = sqlite3.connect(path / "catalog.sqlite")
    assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []
    registered = {f"{number:06d}.npy" for (number,) in catalog.execute("SELECT number FROM segments")}
    catalog.close()
    assert {file.name for file in path.glob("vectors/*/*")} == registered  # no orphan, nothing missing
    return model


def check_life(path: Path, before: Model, life: int, mixed: bool, acknowledged: int) -> Model:
    """After a kill there is what was acknowledged and, as a whole or not at all, the change that was under way."""
    model = before
    for number in range(acknowledged):
        model = apply(model, life, number, mixed)
    found = contents(path)
    under_way = apply(model, life, acknowledged, mixed)
    assert found in (model, under_way)
    assert list(found) in (list(model), list(under_way))  # and in the same order
    return found


def test_kill_in_the_middle_of_adds_updates_deletes_and_sealing(tmp_path: Path) -> None:
    """20 lives of one database, each ended at a random moment."""
    random.seed(20)
    model: Model = {}
    changes = 0
    for life in range(20):
        acknowledged = run_and_kill(tmp_path / "x.nf", life, "mixed", 10_000, random.uniform(0, 0.3))
        model = check_life(tmp_path / "x.nf", model, life, True, acknowledged)
        changes += acknowledged
    assert changes > 200
    assert len(list((tmp_path / "x.nf" / "vectors" / "c").iterdir())) > 5


def kill_while_compacting(path: Path, lives: range) -> int:
    """How many indexes were found published."""
    model: Model = {}
    published = numbers = 0
    for life in lives:
        acknowledged = run_and_kill(path, life, "upkeep", 10_000, random.uniform(0, 1))
        published += len(list(path.glob("indexes/*/hnsw-*")))
        numbers = max([numbers, *(int(file.name[:6]) for file in path.glob("vectors/*/*"))])
        model = check_life(path, model, life, True, acknowledged)
    assert numbers > len(lives) // 4  # each compaction writes a segment of a new number; a busy machine makes few
    return published


def test_kill_in_the_middle_of_compaction_and_publication(tmp_path: Path) -> None:
    """Compaction and publication of an index take most of the time of each of these lives."""
    random.seed(21)
    assert kill_while_compacting(tmp_path / "x.nf", range(8)) > 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kill_200_times_while_compacting_and_publishing(tmp_path: Path) -> None:
    parts = [range(start, start + 20) for start in range(0, 200, 20)]
    assert sum(kill_while_compacting(tmp_path / f"{part.start}.nf", part) for part in parts) > 0


def test_kill_in_the_middle_of_single_adds(tmp_path: Path) -> None:
    for life in range(3):
        acknowledged = run_and_kill(tmp_path / f"{life}.nf", life, "adds", 10_000, random.uniform(0.1, 1.0))
        check_life(tmp_path / f"{life}.nf", {}, life, False, acknowledged)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kill_in_the_middle_of_10_000_single_adds_20_times(tmp_path: Path) -> None:
    for life in range(20):
        acknowledged = run_and_kill(tmp_path / f"{life}.nf", life, "adds", 10_000, random.uniform(0, 6))
        check_life(tmp_path / f"{life}.nf", {}, life, False, acknowledged)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kill_200_times_while_sealing(tmp_path: Path) -> None:
    for start in range(0, 200, 20):  # a fresh database now and then keeps the checking short
        model: Model = {}
        for life in range(start, start + 20):
            path = tmp_path / f"{start}.nf"
            acknowledged = run_and_kill(path, life, "mixed", 10_000, random.uniform(0, 0.5))
            model = check_life(path, model, life, True, acknowledged)


@pytest.mark.parametrize("name", ["before any page", "before the tables"])
def test_a_crash_while_the_database_is_made_leaves_something_that_opens(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.nf"
    path.mkdir()
    (path / "catalog.sqlite").touch()
    if name == "before the tables":
        catalog = sqlite3.connect(path / "catalog.sqlite")
        catalog.execute("PRAGMA journal_mode = WAL")
        catalog.close()
    with nf.open(path) as db:
        db.collection("c", embedder=None).add(embeddings=np.ones((1, 2)))
    with nf.open(path) as db:
        assert db.collection("c").count() == 1
