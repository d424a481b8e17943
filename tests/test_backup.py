"""The dangers of copies: one that mixes two moments, half of one, one that changes, one that cannot be opened."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from databases import filled, intact, snapshot, vectors
from nearfield import backup, live, transaction
from nearfield.errors import AlreadyExists, Corrupt, DiskFull, InvalidInput, NotFound, ReadOnly


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)


# -- backup ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_the_database_as_it_was_at_one_moment_while_writing_goes_on(tmp_path: Path) -> None:
    """Pairs are added and removed together: a copy of two moments would have half of one. Compaction goes on too."""
    with nf.open(tmp_path / "x.nf") as db:
        one, two = (db.collection(name, embedder=None) for name in ("one", "two"))
        stop = threading.Event()

        def write() -> None:
            i = 0
            while not stop.is_set():
                two.add(ids=[f"{i} {j}" for j in range(5)], embeddings=vectors(5, i))
                one.add(ids=[f"{i} {j}" for j in range(5)], embeddings=vectors(5, i))
                if i > 3:
                    one.delete([f"{i - 3} {j}" for j in range(5)])
                    two.delete([f"{i - 3} {j}" for j in range(5)])
                if i % 20 == 19:
                    two.compact()
                i += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for n in range(8):
                db.backup(tmp_path / f"{n}.nf")
        finally:
            stop.set()
            writer.join()
    for n in range(8):
        with nf.open(tmp_path / f"{n}.nf") as copy:
            assert copy.verify() == []
            if "one" not in copy.collections():
                continue
            ones, twos = (
                {r.id: r.embedding.tolist() for r in copy.collection(name).get(include=["embeddings"])}  # type: ignore[union-attr]
                for name in ("one", "two")
            )
            assert len(ones) % 5 == len(twos) % 5 == 0
            assert set(ones) - set(twos) <= {id for id in ones if id not in twos}
            assert len(set(ones) ^ set(twos)) <= 5
            copy.collection("new", embedder=None).add(embeddings=vectors(1))  # a database like any other
            copy.compact()
            assert copy.verify() == []


def test_a_backup_is_restored_and_neither_is_touched_by_the_other(tmp_path: Path) -> None:
    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        db.backup(tmp_path / "deep" / "backup.nf")
        db.drop("c")
    nf.restore(tmp_path / "deep" / "backup.nf", tmp_path / "again.nf")
    with nf.open(tmp_path / "again.nf") as db:
        db.collection("c", embedder=None).delete("1")
    intact(tmp_path / "deep" / "backup.nf", made)
    with pytest.raises(AlreadyExists, match="there is something at"):
        nf.restore(tmp_path / "deep" / "backup.nf", tmp_path / "again.nf")
    with pytest.raises(NotFound, match="there is no backup at"):
        nf.restore(tmp_path / "nowhere", tmp_path / "new.nf")
    with nf.open(tmp_path / "x.nf") as db, pytest.raises(InvalidInput, match="inside the database"):
        db.backup(tmp_path / "x.nf" / "vectors" / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nf", "deep", "x.nf"]


def test_a_database_in_memory_can_be_kept(tmp_path: Path) -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        collection.add(["a", "b"], ids=["a", "b"], embeddings=vectors(2), metadatas=[{"n": 1}, {}])
        collection.delete("b")
        db.backup(tmp_path / "x.nf")
        with nf.open(tmp_path / "x.nf") as kept:
            assert snapshot(kept.collection("c", embedder=None)) == snapshot(collection)
            kept.collection("c", embedder=None).add(embeddings=vectors(20))
            assert kept.verify() == []
        with pytest.raises(InvalidInput, match="in memory has no snapshots"):
            db.snapshot("s")
        assert db.snapshots() == []


@pytest.mark.parametrize("damage", ["corrupt", "full"])
def test_a_backup_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db, monkeypatch.context() as patch:
        if damage == "corrupt":
            file = tmp_path / "x.nf" / "vectors" / "c" / "000001.npy"
            good = file.read_bytes()
            file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        else:

            def full(*_: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(backup, "sync", full)
        with pytest.raises(Corrupt if damage == "corrupt" else DiskFull):
            db.backup(tmp_path / "backup.nf")
    if damage == "corrupt":
        file.write_bytes(good)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.nf"]
    intact(tmp_path / "x.nf", made)


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_stays_what_it_was_and_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "x.nf", 20)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        before = snapshot(collection)
        db.snapshot("monday")
        collection.delete([str(i) for i in range(15)])
        collection.add(ids="new", embeddings=vectors(1))
        db.compact()
        db.snapshot("tuesday")
        assert db.snapshots() == ["monday", "tuesday"]
        with pytest.raises(AlreadyExists, match="'monday'"):
            db.snapshot("monday")
        for bad in ("", "a/b", "..", "x~y"):
            with pytest.raises(InvalidInput):
                db.snapshot(bad)
        with nf.open(tmp_path / "x.nf", snapshot="monday") as old:
            assert old.path == db.path
            then = old.collection("c", embedder=None)
            assert snapshot(then) == before
            assert then.search(vectors(20)[3], k=1).ids == ["3"]
            assert old.verify() == []
            for write in (
                lambda: then.add(embeddings=vectors(1)),
                lambda: then.delete("1"),
                lambda: old.drop("c"),
                lambda: old.collection("new"),
                old.compact,
                old.repair,
                lambda: old.snapshot("x"),
            ):
                with pytest.raises(ReadOnly, match="is a snapshot, which never changes"):
                    write()
            again = pickle.loads(pickle.dumps(then))
            assert snapshot(again) == before
            old.backup(tmp_path / "monday.nf")
        with pytest.raises(NotFound, match="no snapshot 'sunday'; it has: 'monday', 'tuesday'"):
            nf.open(tmp_path / "x.nf", snapshot="sunday")
        db.drop_snapshot("monday")
        with pytest.raises(NotFound):
            db.drop_snapshot("monday")
        assert db.snapshots() == ["tuesday"]
        assert collection.count() == 6
    with nf.open(tmp_path / "monday.nf") as db:
        assert snapshot(db.collection("c", embedder=None)) == before
    assert os.listdir(tmp_path / "x.nf" / "snapshots") == ["tuesday"]


def test_a_snapshot_shares_the_vectors_and_gives_them_back(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        db.collection("c", embedder=None).add(embeddings=vectors(50_000))
        db.snapshot("s")
        (file,) = (tmp_path / "x.nf" / "vectors" / "c").iterdir()
        assert file.stat().st_nlink == 2
        db.drop_snapshot("s")
        assert file.stat().st_nlink == 1


def test_where_files_cannot_be_linked_a_snapshot_copies_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    filled(tmp_path / "x.nf", 20)
    with nf.open(tmp_path / "x.nf") as db:
        before = snapshot(db.collection("c", embedder=None))
        db.snapshot("s")
        db.rename("c", "d")
        assert snapshot(db.collection("d", embedder=None)) == before
        db.drop("d")
    with nf.open(tmp_path / "x.nf", snapshot="s") as old:
        assert snapshot(old.collection("c", embedder=None)) == before


KILLED = """
import os, sys
import nearfield as nf
from nearfield import backup
def dead(*_):
    os._exit(9)
setattr(backup, sys.argv[2], dead)
with nf.open(sys.argv[1]) as db:
    db.snapshot("half")
"""


@pytest.mark.parametrize("step", ["_sync", "_linked", "sync_folder"])
def test_a_crash_while_a_snapshot_is_taken_leaves_none(tmp_path: Path, step: str) -> None:
    made = filled(tmp_path / "x.nf")
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x.nf"), step], timeout=60)
    assert run.returncode == 9
    with nf.open(tmp_path / "x.nf") as db:
        assert db.snapshots() == []
        with pytest.raises(NotFound):
            nf.open(tmp_path / "x.nf", snapshot="half")
        db.snapshot("whole")
        assert os.listdir(tmp_path / "x.nf" / "snapshots") == ["whole"]
    intact(tmp_path / "x.nf", made)


# -- renaming --------------------------------------------------------------------------------------------------------


def test_a_renamed_collection_is_the_same_for_every_handle(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db, nf.open(tmp_path / "x.nf") as other:
        mine = db.collection("old", embedder=None)
        mine.add(ids=[str(i) for i in range(20)], embeddings=vectors(20))
        db.collection("taken")
        theirs = other.collection("old", embedder=None)
        theirs.search(vectors(1)[0])
        before = snapshot(mine)
        for new in ("taken", "TAKEN", "Old"):
            with pytest.raises(AlreadyExists):
                db.rename("old", new)
        with pytest.raises(NotFound, match="no collection 'nothing'; there are: 'old', 'taken'"):
            db.rename("nothing", "new")
        with pytest.raises(InvalidInput):
            db.rename("old", "a/b")
        db.rename("old", "new")
        assert db.collections() == other.collections() == ["new", "taken"]
        for handle in (mine, theirs, db.collection("new", embedder=None), pickle.loads(pickle.dumps(mine))):
            assert handle.name == "new"
            assert snapshot(handle) == before
            assert handle.search(vectors(20)[7], k=1).ids == ["7"]
        theirs.add(ids=[f"n {i}" for i in range(20)], embeddings=vectors(20, 5))
        assert mine.count() == 40
        assert db.verify() == []
        assert sorted(file.name for file in (tmp_path / "x.nf" / "vectors").iterdir()) == ["new"]
        db.collection("old", embedder=None).add(embeddings=np.ones((20, 3)))  # the name is free
        db.drop("old")
        assert mine.count() == 40
    with nf.open() as memory:
        memory.collection("a", embedder=None).add(embeddings=vectors(2))
        memory.rename("a", "b")
        assert memory.collection("b").count() == 2


def test_a_rename_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(tmp_path / "x.nf")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with nf.open(tmp_path / "x.nf") as db:
        with monkeypatch.context() as patch:
            patch.setattr(backup, "sync_folder", full)
            with pytest.raises(DiskFull):
                db.rename("c", "new")
        assert db.collections() == ["c"]
    intact(tmp_path / "x.nf", made)
    assert [path.name for path in (tmp_path / "x.nf" / "vectors").rglob("*.npy")] == ["000001.npy"]


def test_a_copy_takes_the_published_indexes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.LiveIndex, "kind", "hnsw")
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 10)
    made = filled(tmp_path / "x.nf", 20)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.search(made[0])
        collection._derived.finish()
        db.backup(tmp_path / "y.nf")
        db.rename("c", "d")
        assert db._store.newest(db.collection("d")._state(), "hnsw") is not None
    assert (tmp_path / "y.nf" / "indexes" / "c" / "hnsw-000001.nfi").exists()
    intact(tmp_path / "y.nf", made)
