"""The store: a catalog and its segments, opened, locked, and closed. What happens in between is in `transaction.py`.

One `writing()` is one SQLite transaction: when it returns, its changes are on the disk (durability "full"); when it
raises, there are none. Any number of processes and threads may read and write.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from nearfield import schema, segments
from nearfield.errors import Closed, Corrupt, InvalidInput, Locked, NotADatabase, ReadOnly
from nearfield.schema import CATALOG, Durability, translated
from nearfield.transaction import Transaction

_MAGIC = b"SQLite format 3\0"


class Store:
    """A database folder (or, with path=None, the same in memory).

    Two connections, each behind its lock: while one thread waits for another process's write to end, the other
    threads go on reading. In memory there is one connection, because it is the database.
    """

    def __init__(self, path: Path | None, durability: Durability = "full") -> None:
        if durability not in ("full", "relaxed"):
            raise InvalidInput(f"durability must be 'full' or 'relaxed', got {durability!r}")
        self.path = path
        self.durability: Durability = durability
        self._closed = True  # until everything below has worked
        self._mode: Literal["rwc", "ro", "immutable"] = "rwc"
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._read_lock = threading.RLock()
        self._write_lock = threading.RLock() if path is not None else self._read_lock
        with translated(path, "opening"):
            if path is None:
                self._reader = self._writer = schema.connect(None, durability=durability)
                schema.create(self._reader, None)
            else:
                self._open(path)
        self._closed = False
        _register(self)
        self.remove_orphans()

    @property
    def read_only(self) -> bool:
        """True when the folder can be read but not written."""
        return self._mode != "rwc"

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A consistent view of everything acknowledged so far, by any process.

        Raises:
            Closed: the store was closed.
            StorageError: the files cannot be read.
        """
        with self._read_lock, translated(self.path, "reading"):
            self._check_open()
            if self._reader is None:
                self._reader = self._connect()
            self._reader.execute("BEGIN")
            try:
                yield Transaction(self._reader, self.path)
            finally:
                if self._reader is not None and self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[Transaction]:
        """A transaction that changes things; it holds the database's write lock from its beginning.

        Args:
            wait: wait for another process's write to end; otherwise raise `Locked` at once.

        Raises:
            Closed, ReadOnly, Locked, DiskFull, StorageError: nothing was changed.
        """
        with self._write_lock, translated(self.path, "writing to"):
            self._check_open()
            if self.read_only:
                raise ReadOnly(
                    f"{self.path} cannot be written; check its owner and mode, or copy it to a folder of your own"
                )
            if self._writer is None:
                self._writer = self._connect()
            self._writer.execute(f"PRAGMA busy_timeout = {int(1000 * schema.TIMEOUT) if wait else 0}")
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._writer, self.path)
            committing = False
            try:
                yield transaction
                committing = True
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                # A commit that failed after its last byte was written (a failed fsync) may come back after a crash, and
                # would need its files: then they stay, as orphans. A full disk cannot have got that far.
                if not committing or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    for path in transaction.fresh:
                        with suppress(OSError):
                            path.unlink()
                raise

    def remove_orphans(self) -> None:
        """Remove files that a crash left behind, unless someone is writing just now: then the next open does it."""
        if self.path is None or self.read_only or not self._orphans():
            return
        # Whoever writes a segment holds the write lock until it counts: under the lock, an orphan belongs to no one.
        with suppress(Locked), self.writing(wait=False) as transaction:
            segments.remove(self.path, segments.orphans(self.path, transaction.segment_files))

    def close(self) -> None:
        """Close the files. May be called twice."""
        with self._write_lock, self._read_lock:
            self._closed = True
            self._disconnect()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the database {self.path or 'in memory'} was closed; open it again with nf.open()")

    def _connect(self) -> sqlite3.Connection:
        assert self.path is not None
        return schema.connect(self.path / CATALOG, durability=self.durability, mode=self._mode)

    def _disconnect(self) -> None:
        for connection in {self._reader, self._writer} - {None}:
            assert connection is not None
            connection.close()
        self._reader = self._writer = None

    def _orphans(self) -> list[Path]:
        assert self.path is not None
        with self.reading() as transaction:
            return segments.orphans(self.path, transaction.segment_files)

    def _open(self, path: Path) -> None:
        catalog = path / CATALOG
        if path.exists() and not path.is_dir():
            raise NotADatabase(f"{path} is a file; a nearfield database is a folder: choose another path")
        if not catalog.exists():
            if path.is_dir() and any(entry.name != CATALOG for entry in path.iterdir()) and not catalog.exists():
                raise NotADatabase(
                    f"{path} is a folder with other things in it and no {CATALOG}; choose a new or an empty folder"
                )
            _make_folders(path)
        elif (head := _head(catalog)) and head != _MAGIC:
            raise NotADatabase(
                f"{catalog} is not a SQLite file: something else, or damaged; choose another folder, or restore it"
            )
        elif not (os.access(path, os.W_OK) and os.access(catalog, os.W_OK)):
            self._mode = "ro"
        try:
            self._prepare(path)
        except BaseException:
            self._disconnect()
            raise

    def _prepare(self, path: Path) -> None:
        try:
            self._reader = self._connect()
            version = schema.version(self._reader, path)
        except sqlite3.OperationalError as error:
            if not self.read_only:
                raise
            # In a folder that cannot be written SQLite cannot keep the index of the WAL. Without a WAL none is needed.
            if (wal := path / f"{CATALOG}-wal").exists() and wal.stat().st_size:
                raise ReadOnly(
                    f"{path} cannot be written, and its last changes are still in {wal.name}; copy the folder"
                ) from error
            self._disconnect()
            self._mode = "immutable"
            self._reader = self._connect()
            version = schema.version(self._reader, path)
        if version == 0:
            if segments.orphans(path, list):
                raise Corrupt(f"{path / CATALOG} is empty, but there are vectors beside it; restore it from a backup")
            if self.read_only:
                raise ReadOnly(f"{path} has no database yet and cannot be written; choose another folder")
            schema.create(self._reader, path)


def _head(catalog: Path) -> bytes:
    with catalog.open("rb") as file:
        return file.read(len(_MAGIC))


def _make_folders(path: Path) -> None:
    """Make a folder, so that it is still there after a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        segments.sync_folder(folder.parent)


# -- fork -----------------------------------------------------------------------------------------------------------
# SQLite's locks do not survive a fork: a child that inherits an open file is believed to hold locks that it does not
# have, even on connections it opens itself. So no connection is open while a process forks; parent and child connect
# again when they next need to. The locks are held meanwhile, so that the child inherits nothing half-changed.

_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_held = threading.local()
_hooked = False


def _register(store: Store) -> None:
    global _hooked
    _stores.add(store)
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
        _hooked = True


def _before_fork() -> None:
    stores = sorted(_stores, key=id)  # one order for all threads
    for store in stores:
        store._write_lock.acquire()
        store._read_lock.acquire()
        if store.path is not None and not any(
            c.in_transaction for c in (store._reader, store._writer) if c is not None
        ):
            store._disconnect()
    _held.stores = stores


def _after_fork() -> None:
    for store in _held.__dict__.pop("stores", []):
        store._read_lock.release()
        store._write_lock.release()
