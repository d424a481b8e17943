"""The dangers of the machine: a full disk, no permission, an fsync that never happens."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
import powercut
from databases import DIMENSION, files, filled, intact, vectors
from nearfield import _native, schema, segments, transaction
from nearfield.errors import AlreadyExists, DiskFull, ReadOnly, StorageError

TRACED = pytest.mark.skipif(not powercut.can_trace(), reason="strace is not there, or may not watch")


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)


# -- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("step", ["write", "rows", "sync", "rename", "sync_folder"])
def test_a_disk_that_is_full_while_sealing_changes_nothing(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch, step: str, beside: bool
) -> None:
    monkeypatch.setattr(segments, "_BESIDE", 0 if beside else 10**9)  # bytes that are written by a thread

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = filled(tmp_path / "x.nf")
    db = nf.open(tmp_path / "x.nf")
    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "replace", full)
        elif step == "write":
            patch.setattr(np.lib.format, "write_array_header_1_0", full)
        elif step == "rows":
            patch.setattr(segments._native, "write_rows", full)
        else:
            patch.setattr(segments, step, full)
        with pytest.raises(DiskFull, match="make room"):
            db.collection("c", embedder=None).add(embeddings=vectors(10, 1))
    assert files(tmp_path / "x.nf") == ["000001.npy"]
    intact(tmp_path / "x.nf", made)
    db.collection("c", embedder=None).add(embeddings=vectors(10, 1))  # there is room again
    assert db.collection("c", embedder=None).count() == 20
    assert files(tmp_path / "x.nf") == ["000001.npy", "000002.npy"]
    db.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device on which nothing finds room")
def test_the_core_says_of_a_full_disk_that_it_cannot_be_written() -> None:
    with pytest.raises(OSError, match="No space left") as error:
        _native.write_rows("/dev/full", 0, vectors(10), 0)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("beside", [False, True])
def test_an_id_that_is_taken_leaves_a_segment_behind(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr(segments, "_BESIDE", 0 if beside else 10**9)
    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        with pytest.raises(AlreadyExists, match="'3'"):
            db.collection("c", embedder=None).add(ids=[f"new {i}" for i in range(9)] + ["3"], embeddings=vectors(10, 1))
        assert files(tmp_path / "x.nf") == ["000001.npy"]
    intact(tmp_path / "x.nf", made)


def test_ctrl_c_between_the_segment_and_the_commit_changes_nothing(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = filled(tmp_path / "x.nf")
    seal = transaction.Transaction._seal

    def interrupted(*arguments: Any) -> None:
        seal(*arguments)
        raise KeyboardInterrupt

    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        monkeypatch.setattr(transaction.Transaction, "_seal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collection.add(embeddings=vectors(10, 1))
        assert files(tmp_path / "x.nf") == ["000001.npy"]
        assert collection.count() == 10
    intact(tmp_path / "x.nf", made)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_catalog_that_cannot_grow_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8 if sealed else 10**6)
    made = filled(tmp_path / "x.nf")
    connect = schema.connect

    def cramped(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    before = files(tmp_path / "x.nf") if sealed else []
    with monkeypatch.context() as patch, nf.open(tmp_path / "x.nf") as db:
        patch.setattr(schema, "connect", cramped)
        collection = db.collection("c", embedder=None)
        for documents in (["x" * 1000] * 200, ["x" * 300_000]):
            with pytest.raises(DiskFull, match="make room"):
                collection.add(documents, embeddings=vectors(len(documents), 1))
        assert collection.count() == 10
        collection.delete("9")  # it goes on working
        collection.add("text 9", ids="9", embeddings=made[9], metadatas={"n": 9})
    if sealed:
        assert files(tmp_path / "x.nf") == before
    intact(tmp_path / "x.nf", made)


FULL = """
import errno, os, sys
import numpy as np
import nearfield as nf
from nearfield import compaction, live, transaction
sys.path.insert(0, sys.argv[3])
import databases
transaction.SEAL_ROWS, compaction.PIECE_ROWS = 8, 6
live.LiveIndex.kind, live.WORTH_PUBLISHING = "hnsw", 10

def opened():
    db = nf.open(sys.argv[1])
    return db, db.collection("c", embedder=None)

try:
    db, collection = opened()
except nf.errors.DiskFull:
    db, collection = opened()
made = databases.vectors(40)
steps = [
    lambda: collection.add(ids=["x", "y"], embeddings=made[:2]),
    lambda: collection.add(["t" * 9000] * 30, ids=[f"n {i}" for i in range(30)], embeddings=made[:30]),
    lambda: collection.search(made[0]),  # publishes an index
    lambda: collection.delete(["x", *(f"n {i}" for i in range(20))]),
    lambda: collection.compact(),
    lambda: db.snapshot("s"),
    lambda: db.backup(sys.argv[2]),
    lambda: db.rename("c", "d"),
    lambda: db.rename("d", "c"),
]
for step in steps:
    before = databases.snapshot(collection)
    try:
        step()
    except nf.errors.DiskFull as error:
        assert "make room" in str(error), error
        assert databases.snapshot(collection) == before or step is steps[4], "something was changed"
        step()  # there is room again
db.drop_snapshot("s")
assert len(collection.get(include=["documents", "embeddings"])) == 21, collection.count()
assert db.verify() == [], db.verify()
db.close()
print("good", flush=True)
"""


@TRACED
def test_a_disk_that_is_full_at_any_write(tmp_path: Path) -> None:
    """The system refuses one write, in every kind of work that writes, and no other."""
    full_at_writes(tmp_path, {"pwrite64": range(1, 760, 150), "write": (2, 5), "ftruncate": (1,)})


@TRACED
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_disk_that_is_full_at_every_write(tmp_path: Path) -> None:
    full_at_writes(tmp_path, {"pwrite64": range(1, 760, 3), "write": range(1, 9), "ftruncate": range(1, 9)})


def full_at_writes(tmp_path: Path, calls: dict[str, Iterable[int]]) -> None:
    refused = 0
    for call, number in [(call, number) for call, numbers in calls.items() for number in numbers]:
        path = tmp_path / f"{call}-{number}"
        path.mkdir()
        made = filled(path / "x.nf")
        strace = ["strace", "-f", "--seccomp-bpf", "-e", f"trace={call}", "-o", str(path / "trace")]
        strace += ["-e", f"inject={call}:error=ENOSPC:when={number}"]
        command = [sys.executable, "-c", FULL, str(path / "x.nf"), str(path / "b.nf"), str(Path(__file__).parent)]
        run = subprocess.run(
            [*strace, *command],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert run.stdout.endswith("good\n"), (call, number, run.stdout, run.stderr)
        refused += "INJECTED" in (path / "trace").read_text()
        with nf.open(path / "x.nf") as db:
            assert db.verify() == []
            assert db.collection("c", embedder=None).count() == 21
            np.testing.assert_array_equal(
                db.collection("c", embedder=None).get("9", include=["embeddings"])[0].embedding, made[9]
            )
        shutil.rmtree(path)
    assert refused


def may_mount() -> bool:
    """Whether this is root on a system that lets root mount; containers often do not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], stderr=subprocess.DEVNULL).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.skipif(not may_mount(), reason="only root can mount, not everywhere; the tests above simulate a full disk")
def test_a_really_full_disk_keeps_what_was_acknowledged(tiny_disk: Path) -> None:
    made = filled(tiny_disk / "x.nf")
    db = nf.open(tiny_disk / "x.nf")
    collection = db.collection("c", embedder=None)
    with pytest.raises(DiskFull, match="make room"):  # a segment that does not fit
        collection.add(embeddings=np.ones((200_000, DIMENSION)))
    assert files(tiny_disk / "x.nf") == []
    acknowledged: list[str] = []
    with pytest.raises(DiskFull, match="make room"):  # noqa: PT012  (a catalog that grows step by step)
        while len(acknowledged) < 10_000:
            acknowledged += collection.add("x" * 5000, embeddings=np.ones(DIMENSION))
    assert len(acknowledged) > 10
    assert collection.count() == 10 + len(acknowledged)
    assert len(collection.search(made[3], k=10_000)) == 10 + len(acknowledged)
    db.close()
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    with nf.open(tiny_disk / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        assert [record.id for record in collection.get()][10:] == acknowledged
        collection.add("x" * 5000, embeddings=np.ones(DIMENSION))
        collection.delete(acknowledged)
        collection.delete(where={"n": {"$exists": False}})
    intact(tiny_disk / "x.nf", made)


# -- no permission ---------------------------------------------------------------------------------------------------

READER = """
import mmap, os, sys
import numpy, nearfield as nf, nearfield.database, nearfield.index
if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
db = nf.open(sys.argv[1])
collection = db.collection("c", embedder=None)
assert collection.count() == 10, collection.count()
assert collection.search([1.0, 2.0, 3.0, 4.0], k=3).ids == sys.argv[2].split(), "search"
for write in (
    lambda: collection.add(embeddings=[[1, 2, 3, 4]]),
    lambda: db.collection("new"),
    lambda: collection.delete("1"),
    lambda: nf.open(sys.argv[1] + "/new.nf"),
):
    try:
        write()
    except nf.errors.ReadOnly as error:
        assert "cannot be written" in str(error) or "no permission" in str(error), error
    else:
        raise AssertionError("it was written")
print("read only")
"""


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_a_folder_without_write_permission_can_be_read(tmp_path: Path, small_segments: None, in_use: bool) -> None:
    filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        wanted = db.collection("c", embedder=None).search([1.0, 2.0, 3.0, 4.0], k=3).ids
        if not in_use:
            db.close()
        for folder in tmp_path.parents:
            if folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o055)
            if folder.name.startswith("pytest-of"):
                break
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", READER, str(tmp_path / "x.nf"), " ".join(wanted)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert (run.stderr, run.stdout) == ("", "read only\n")


def test_a_read_only_database_with_unmerged_changes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        db.collection("c", embedder=None).add(embeddings=vectors(1))
        copy = tmp_path / "copy.nf"
        shutil.copytree(tmp_path / "x.nf", copy, ignore=shutil.ignore_patterns("*-shm"))
    monkeypatch.setattr(os, "access", lambda *_: False)

    def no_shared_memory(*_: Any) -> int:  # what SQLite does when it cannot make the -shm file
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(schema, "version", no_shared_memory)
    with pytest.raises(ReadOnly, match=r"last changes are still in catalog\.sqlite-wal"):
        nf.open(copy)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ReadOnly, match="no permission to write"):
        nf.open(tmp_path / "x.nf")


# -- syncing ---------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
import numpy as np
import nearfield as nf, nearfield.transaction
nearfield.transaction.SEAL_ROWS = 50
db = nf.open(sys.argv[1], durability=sys.argv[2])
collection = db.collection("c", embedder=None, dimension=4)
os.write(1, b"BEGIN")
for i in range(20):
    collection.add(embeddings=np.ones((1, 4)), ids=str(i))
    os.write(1, b"ADDED")
collection.add(embeddings=np.ones((50, 4)))
os.write(1, b"SEALED")
os._exit(0)
"""


@TRACED
@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_the_disk_is_synced_before_a_write_is_acknowledged(tmp_path: Path, durability: str) -> None:
    """Counted in the system calls, not assumed."""
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-e", "trace=fsync,fdatasync,write,rename", "-o", str(trace)]
    command = [*strace, sys.executable, "-c", WRITER, str(tmp_path / "x.nf"), durability]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    calls = trace.read_text().split('"BEGIN"', 1)[1]
    *adds, bulk = calls.split('"ADDED"')
    assert len(adds) == 20
    synced = [bool(re.search(r"(fsync|fdatasync)\(\d+<[^>]*catalog\.sqlite-wal>\) += 0", add)) for add in adds]
    assert all(synced) if durability == "full" else not any(synced[1:])
    # Whatever the durability: a segment is on the disk, then named, then its name is on the disk, then it counts.
    events = re.findall(r"f(?:data)?sync\(\d+<[^>]*/x\.nf/([^>]*)>\)|(rename)\(", bulk.split('"SEALED"')[0])
    names = [name or rename for name, rename in events]
    sealing = ["vectors/c/000001.npy.tmp", "rename", "vectors/c"]
    at = names.index(sealing[0])
    assert names[at : at + 3] == sealing
    if durability == "full":
        assert names[at + 3 :] == ["catalog.sqlite-wal"]


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("relaxed", 1)])
def test_every_connection_syncs_as_was_asked(tmp_path: Path, durability: Any, level: int) -> None:
    with nf.open(tmp_path / "x.nf", durability=durability) as db:
        db.collection("c")
        assert db._store._writer is not None
        for connection in (*db._store._idle, db._store._writer):
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_an_error_of_the_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db, monkeypatch.context() as patch:
        patch.setattr(transaction, "SEAL_ROWS", 1)
        patch.setattr(segments, "sync", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            db.collection("c", embedder=None).add(embeddings=vectors(1))
    intact(tmp_path / "x.nf", made)
