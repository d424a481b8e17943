"""The danger: the power fails, and what was acknowledged is gone, because it was written but never synced."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import nearfield as nf
import powercut
import powercut_writer


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfield.transaction.SEAL_ROWS", 8)
    monkeypatch.setattr("nearfield.compaction.PIECE_ROWS", 6)


pytestmark = pytest.mark.skipif(not powercut.can_trace(), reason="strace is not there, or may not watch")


def contents(db: nf.Database) -> Any:
    names = db.collections()
    collections = [db.collection(name, embedder=None) for name in names]
    records = [c.get(include=["documents", "metadatas", "embeddings"]) for c in collections]
    return names, [[record.to_dict() for record in found] for found in records]


def wanted() -> list[Any]:
    """What a database holds after each change."""
    with nf.open() as db:
        states = [contents(db)]
        for change in powercut_writer.changes(db):
            change()
            states.append(contents(db))
    return states


def power_fails(tmp_path: Path, durability: str, tries: int) -> list[tuple[int, int]]:
    """Cut at every sync, once losing all that was not synced and `tries` times keeping some of it; returns how many
    changes were acknowledged, and how many were found, each time."""
    trace, states = tmp_path / "trace", wanted()
    command = [powercut_writer.__file__, str(tmp_path / "x.nf"), durability]
    powercut.traced(command, trace)
    disk = powercut.Disk(tmp_path)
    outcome = []
    for printed, syncs in disk.moments(trace):
        for n in range(tries + 1):
            after = tmp_path / "after"
            disk.cut(after, random.Random(1000 * syncs + n) if n else None)
            acknowledged = max(0, len(printed) - 1)
            with nf.open(after / "x.nf", durability="relaxed") as db:  # the power fails no second time
                found = contents(db)
                there = [i for i, state in enumerate(states) if state == found and i <= acknowledged + 1]
                assert there, f"after sync {syncs}: {len(printed)} acknowledged, and what is there never was"
                if durability == "full":
                    assert there[-1] >= acknowledged, f"after sync {syncs}: acknowledged changes are gone"
                outcome.append((acknowledged, there[-1]))
                db.compact()
                assert contents(db) == found
                assert db.verify() == []
            shutil.rmtree(after)
    return outcome


def test_power_may_fail_at_every_sync(tmp_path: Path) -> None:
    outcome = power_fails(tmp_path, "full", 0)
    assert len(outcome) > 60
    assert outcome[-1] == (len(wanted()) - 1, len(wanted()) - 1)


def test_relaxed_loses_at_most_the_last_writes(tmp_path: Path) -> None:
    outcome = power_fails(tmp_path, "relaxed", 0)
    assert any(found < acknowledged for acknowledged, found in outcome)  # or the test could not tell


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_power_may_fail_and_keep_some_of_what_was_not_synced(tmp_path: Path, durability: str) -> None:
    power_fails(tmp_path, durability, 20)
