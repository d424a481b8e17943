"""The danger: a process dies, and acknowledged records are gone, torn, or no longer found."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash_writer
import nearfield as nf

Model = dict[str, tuple[str, dict[str, Any], bytes]]


def live_and_die(
    path: Path, life: int, mode: str, *, within: str = "", call: int = 0, steps: int = 0, after: int = 0
) -> int:
    """Start a writer and let it be killed: in the middle of a function, see `crash_writer.Fate`; or from outside, at a
    random moment after its acknowledgement of this number. Returns how many changes were acknowledged.
    """
    command = [sys.executable, crash_writer.__file__, str(path), str(life), mode, "1000000", within]
    command += [str(call), str(steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = []
        for line in writer.stdout:
            said.append(line)
            if not within and len(said) == after + 1:
                threading.Timer(random.uniform(0, 0.02), writer.kill).start()
    assert writer.returncode == (1 if sys.platform == "win32" else -signal.SIGKILL), "it was not killed"
    assert len(said) > after
    died = [line for line in said if line.startswith("died")]
    assert not within or int(died[0].split()[-1]) >= call
    lines = [line for line in said if line.endswith("\n") and line not in died]  # a torn last line was not acknowledged
    assert [int(line) for line in lines] == list(range(len(lines)))
    return len(lines)


def apply(model: Model, life: int, number: int, mixed: bool) -> None:
    ids, vectors = crash_writer.change(life, number, mixed)
    for id in ids:
        model.pop(id, None)
    if vectors is not None:
        for id, vector in zip(ids, vectors, strict=True):
            model[id] = (crash_writer.document(id, number), {"number": number, "id": id}, vector.tobytes())


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
    model = dict(before)
    for number in range(acknowledged):
        apply(model, life, number, mixed)
    found = contents(path)
    under_way = dict(model)
    apply(under_way, life, acknowledged, mixed)
    assert found in (model, under_way)
    assert list(found) in (list(model), list(under_way))  # and in the same order
    return found


# How many steps are taken within about two calls, when there is something to do.
STEPS = {"write": 1_500, "seal": 2_500, "compact": 40_000, "publish": 5_000, "checkpoint": 100}


def kill_within(path: Path, within: str, lives: range) -> None:
    """Lives of one database, each ended in the middle of what is done within this function, wherever that is."""
    mode = "upkeep" if within in ("compact", "publish") else "mixed"
    model: Model = {}
    for life in lives:
        call, steps = random.randint(1, 4), random.randint(1, STEPS[within])
        model = check_life(
            path, model, life, True, live_and_die(path, life, mode, within=within, call=call, steps=steps)
        )


def kill_between(path: Path, mode: str, lives: range, most: int) -> int:
    """Lives of one database, each ended at a random moment; how many changes were acknowledged."""
    model: Model = {}
    changes = 0
    for life in lives:
        acknowledged = live_and_die(path, life, mode, after=random.randint(0, most))
        model = check_life(path, model, life, True, acknowledged)
        changes += acknowledged
    return changes


def test_kill_in_the_middle_of_adds_updates_deletes_and_sealing(tmp_path: Path) -> None:
    random.seed(20)
    assert kill_between(tmp_path / "x.nf", "mixed", range(8), 60) > 100
    assert len(list((tmp_path / "x.nf" / "vectors" / "c").iterdir())) > 2
    kill_within(tmp_path / "write.nf", "write", range(4))
    kill_within(tmp_path / "seal.nf", "seal", range(4))
    kill_within(tmp_path / "checkpoint.nf", "checkpoint", range(3))


def test_kill_in_the_middle_of_compaction_and_publication(tmp_path: Path) -> None:
    random.seed(21)
    kill_within(tmp_path / "compact.nf", "compact", range(4))
    kill_within(tmp_path / "publish.nf", "publish", range(4))
    assert kill_between(tmp_path / "x.nf", "upkeep", range(4), 20) > 20


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("within", ["write", "seal", "compact", "publish", "checkpoint"])
def test_kill_50_times_in_the_middle_of(tmp_path: Path, within: str) -> None:
    random.seed(within)
    for start in range(0, 50, 25):  # a fresh database now and then keeps the checking short
        kill_within(tmp_path / f"{start}.nf", within, range(start, start + 25))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "most"), [("mixed", 150), ("upkeep", 40)])
def test_kill_50_times_at_a_random_moment(tmp_path: Path, mode: str, most: int) -> None:
    random.seed(mode)
    for start in range(0, 50, 25):
        kill_between(tmp_path / f"{start}.nf", mode, range(start, start + 25), most)


def kill_among_single_adds(tmp_path: Path, lives: int, most: int) -> None:
    """Each life has a database of its own. Several at a time: they do little but wait for the disk."""

    def live(life: int, after: int) -> None:
        path = tmp_path / f"{life}.nf"
        check_life(path, {}, life, False, live_and_die(path, life, "adds", after=after))

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(live, range(lives), [random.randint(0, most) for _ in range(lives)]))


def test_kill_in_the_middle_of_single_adds(tmp_path: Path) -> None:
    random.seed(22)
    kill_among_single_adds(tmp_path, 3, 200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kill_in_the_middle_of_10_000_single_adds_20_times(tmp_path: Path) -> None:
    random.seed(23)
    kill_among_single_adds(tmp_path, 20, 10_000)


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
