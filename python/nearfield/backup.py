"""Copies of a database as it was at one moment, taken while others go on writing: backups and snapshots.

One view of the catalog is copied by SQLite. Its segments are never changed, and while the view is open none is removed:
they are copied after it (backup), or linked (snapshot, at no cost of time or room). A copy is made under another name
and renamed when all of it is on the disk.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from nearfield import schema
from nearfield.catalog import HIDDEN
from nearfield.errors import AlreadyExists, InvalidInput, Locked, NotFound
from nearfield.schema import CATALOG, translated
from nearfield.segments import INDEXES, VECTORS, make_folder, sync, sync_folder
from nearfield.store import Store
from nearfield.transaction import Transaction

SNAPSHOTS = "snapshots"
_CHUNK = 1 << 22


def backup(store: Store, target: Path) -> None:
    """Copy the database into a new folder.

    Raises:
        AlreadyExists: there is something at `target`.
        Corrupt: a segment is damaged; no backup was made.
        DiskFull, ReadOnly, StorageError: what the disk says of the target; nothing is left there.
    """
    if os.path.lexists(target):
        raise AlreadyExists(f"there is something at {target}: give a new path for the backup, or remove what is there")
    if store.path is not None and target.is_relative_to(store.path):
        raise InvalidInput(f"{target} is inside the database {store.path}: a backup belongs somewhere else")
    _copy(store, target, _copied)


def take_snapshot(store: Store, name: str) -> None:
    """Keep the database as it is now under a name, sharing the files of its segments.

    Raises:
        AlreadyExists: there is a snapshot of this name. InvalidInput: the database is in memory.
        Locked: another process is maintaining the database.
    """
    folder = _folder(store)
    store.check_writable()
    with store.maintaining(schema.TIMEOUT) as held:
        if not held:
            raise Locked(f"{store.path}: another process is compacting or repairing it; try again when it has finished")
        if name in snapshots(store):
            raise AlreadyExists(f"there is a snapshot {name!r}; choose another name, or drop it first")
        with translated(store.path, "taking a snapshot of"):
            if not folder.is_dir():
                folder.mkdir()
                sync_folder(folder.parent)
            _clear(folder)
        _copy(store, folder / name, _linked)


def snapshots(store: Store) -> list[str]:
    """The names of the snapshots, sorted."""
    folder = _folder(store)
    return sorted(path.name for path in folder.iterdir() if HIDDEN not in path.name) if folder.is_dir() else []


def drop_snapshot(store: Store, name: str) -> None:
    """Remove a snapshot.

    Raises:
        NotFound: there is no snapshot of this name.
    """
    store.check_writable()
    with store.maintaining(schema.TIMEOUT) as held, translated(store.path, "dropping a snapshot of"):
        if not held:
            raise Locked(f"{store.path}: another process is compacting or repairing it; try again when it has finished")
        path = find_snapshot(_folder(store).parent, name)
        path.rename(path.with_name(f"{name}{HIDDEN}{uuid.uuid4().hex}"))  # gone as a whole, or not at all
        sync_folder(path.parent)
        _clear(path.parent)


def find_snapshot(root: Path, name: str) -> Path:
    """The folder of a snapshot of the database at `root`.

    Raises:
        NotFound: there is none of this name.
    """
    path = root / SNAPSHOTS / name
    if not path.is_dir():
        folder = root / SNAPSHOTS
        names = sorted(entry.name for entry in folder.iterdir() if HIDDEN not in entry.name) if folder.is_dir() else []
        raise NotFound(f"{root} has no snapshot {name!r}; it has: {', '.join(map(repr, names)) or 'none'}")
    return path


def rename(store: Store, old: str, new: str) -> None:
    """Give a collection another name. Its files are linked under it first, so at no moment is one missing.

    Raises:
        NotFound: there is no collection `old`. AlreadyExists: there is one `new`, perhaps in other capitals.
        Locked: another process is maintaining the database.
    """
    store.check_writable()
    with store.maintaining(schema.TIMEOUT) as held:
        if not held and store.path is not None:
            raise Locked(f"{store.path}: another process is compacting or repairing it; try again when it has finished")
        store.remove_orphans()
        with store.writing() as transaction:
            state = transaction.known(old)
            if (taken := transaction.find(new)) is not None:
                raise AlreadyExists(f"there is a collection {taken.name!r}; choose another name, or drop it first")
            if store.path is not None:
                for file in transaction.files_of(state):
                    twin = file.parent.with_name(new) / file.name
                    make_folder(twin.parent)
                    if twin.exists():
                        raise Locked(f"{twin} is still in use, of an earlier collection {new!r}; try again later")
                    _linked(file, twin)
                    transaction.fresh.append(twin)
                for top in (VECTORS, INDEXES):
                    if (folder := store.path / top / new).is_dir():
                        sync_folder(folder)
            transaction.settle(state.id, name=new)
        store.remove_orphans()


def _folder(store: Store) -> Path:
    if store.path is None:
        raise InvalidInput("a database in memory has no snapshots: give it a path, or make a backup of it")
    return store.path / SNAPSHOTS


def _copy(store: Store, target: Path, put: Callable[[Path, Path], None]) -> None:
    """One view of the store as a database at `target`, its other files put there by `put`."""
    temporary = target.with_name(f"{target.name}{HIDDEN}{uuid.uuid4().hex}")
    with translated(target, "copying the database to"):
        try:
            temporary.mkdir(parents=True)
            with store.reading() as transaction:
                with closing(sqlite3.connect(temporary / CATALOG)) as copy:
                    transaction.copy_to(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # a copy can be read where nothing can be written
                _sync(temporary / CATALOG)
                if store.path is not None:
                    _copy_files(transaction, store.path, temporary, put)
            for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
                sync_folder(folder)
            temporary.rename(target)
            sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _copy_files(transaction: Transaction, root: Path, to: Path, put: Callable[[Path, Path], None]) -> None:
    for name in transaction.names():
        state = transaction.known(name)
        for segment in transaction.segments(state):
            twin = to / segment.path.relative_to(root)
            twin.parent.mkdir(parents=True, exist_ok=True)
            segment.checked(state.dimension or 0, transaction.checked)
            put(segment.path, twin)
        for file in transaction.files_of(state):
            if file.suffix == ".nfi":  # derived: one that cannot be copied is made again
                twin = to / file.relative_to(root)
                twin.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    put(file, twin)


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        while data := old.read(_CHUNK):
            new.write(data)
        new.flush()
        sync(new.fileno())


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        _copied(source, target)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        sync(file.fileno())


def _clear(folder: Path) -> None:
    """Remove what is half made or half removed. The caller holds the maintenance lock."""
    for path in folder.iterdir():
        if HIDDEN in path.name:
            shutil.rmtree(path, ignore_errors=True)
