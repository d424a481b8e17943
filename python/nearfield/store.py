"""The store: a catalog and its segments, opened, locked, and closed. What happens in between is in `transaction.py`.

One `writing()` is one SQLite transaction: when it returns, its changes are on the disk (durability "full"); when it
raises, there are none. Any number of processes and threads may read and write.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

from nearfield import schema, segments, wal
from nearfield.checkpoint import Checkpointer
from nearfield.errors import Closed, Corrupt, InvalidInput, Locked, NearfieldError, NotADatabase, ReadOnly
from nearfield.maintenance import MaintenanceLock
from nearfield.schema import CATALOG, Durability, translated
from nearfield.transaction import Generation, State, Transaction

_PAGE = 512  # bytes that the smallest SQLite file has
_REST = 30.0  # seconds between the starts of two threads in the background
_IDLE = 16  # connections that are kept for the next reader


class Store:
    """A database folder (or, with path=None, the same in memory).

    One connection writes, behind a lock. Every thread that reads has a connection to itself for as long as it reads, so
    readers wait for nobody. In memory there is one connection for all, because it is the database: threads read it
    at once, and a writer waits for them, and they for it.
    """

    def __init__(self, path: Path | None, durability: Durability = "full", *, frozen: bool = False) -> None:
        if durability not in ("full", "relaxed"):
            raise InvalidInput(f"durability must be 'full' or 'relaxed', got {durability!r}")
        self.path = path
        self.durability: Durability = durability
        self._closed = True  # until everything below has worked
        self._mode: Literal["rwc", "ro", "immutable"] = "immutable" if frozen else "rwc"
        self._frozen = frozen  # a snapshot: never changed by anybody
        self._writer: sqlite3.Connection | None = None
        self._write_lock = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._pool = threading.Condition(threading.RLock())
        self._reading: Counter[int] = Counter()  # how often each thread reads just now
        self._barred = 0  # those before whom nobody begins to read: a fork, a writer in memory
        self._thread: threading.Thread | None = None
        self._rest = 0.0  # when the next one may start
        self._known: set[tuple[Path, int]] = set()  # segments that were read through, and are good
        self._maintenance = None if path is None else MaintenanceLock(path)
        self._checkpoints = None if path is None else Checkpointer(path / wal.WAL)
        with translated(path, "opening"):
            if path is None:
                self._writer = schema.connect(None, durability=durability)
                schema.create(self._writer, None)
            else:
                self._open(path)
        self._closed = False
        _register(self)
        self.remove_orphans()

    @property
    def read_only(self) -> bool:
        """True when the folder can be read but not written."""
        return self._mode != "rwc"

    def check_writable(self) -> None:
        """
        Raises:
            ReadOnly: the folder can be read but not written.
        """
        if self._frozen:
            raise ReadOnly(f"{self.path} is a snapshot, which never changes; open the database itself to write")
        if self.read_only:
            raise ReadOnly(
                f"{self.path} cannot be written; check its owner and mode, or copy it to a folder of your own"
            )

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A consistent view of everything acknowledged so far, by any process.

        Raises:
            Closed: the store was closed.
            StorageError: the files cannot be read.
        """
        with translated(self.path, "reading"), self._connection() as connection:
            if self.path is None:  # nobody writes meanwhile
                yield Transaction(connection, None, self._known)
                return
            connection.execute("BEGIN")
            try:
                yield Transaction(connection, self.path, self._known)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[Transaction]:
        """A transaction that changes things; it holds the database's write lock from its beginning.

        Args:
            wait: wait for another process's write to end; otherwise raise `Locked` at once.

        Raises:
            Closed, ReadOnly, Locked, DiskFull, StorageError: nothing was changed.
        """
        with self._locked(wait), translated(self.path, "writing to"), self._alone():
            self._check_open()
            self.check_writable()
            if self._writer is None:
                self._writer = self._connect()
            if self._checkpoints is not None and wait:
                self._checkpoints.make_room(self._move_log)
            changes = self._writer.total_changes
            self._writer.execute(f"PRAGMA busy_timeout = {int(1000 * schema.TIMEOUT) if wait else 0}")
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._writer, self.path, self._known)
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
            if self._checkpoints is not None:
                self._checkpoints.written(self._writer.total_changes - changes, self._move_log)

    @contextmanager
    def _locked(self, wait: bool) -> Iterator[None]:
        """The lock of this process's writer. Who has a view must not wait: a fork has it, and waits for views."""
        if not self._write_lock.acquire(blocking=wait):
            raise Locked(f"writing to {self.path}: another thread is at it; try again")
        try:
            yield
        finally:
            self._write_lock.release()

    @contextmanager
    def maintaining(self, wait: float = 0.0) -> Iterator[bool]:
        """Hold the maintenance lock, if it is free within `wait` seconds: says whether it is held.

        It keeps apart those who remove files, publish indexes and compact; readers and writers do not ask for it.
        """
        lock = self._maintenance
        if lock is None or self.read_only:
            yield False
            return
        with translated(self.path, "maintaining"):
            held = lock.acquire(wait)
            try:
                yield held
            finally:
                if held:
                    lock.release()

    def newest(self, state: State, kind: str) -> Generation | None:
        """The published index of this kind: see `Transaction.newest`, for when a transaction is open."""
        with self.reading() as transaction:
            return transaction.newest(state, kind)

    def publish(self, state: State, kind: str, next_row: int, seq: int, write: Callable[[Path], None]) -> bool:
        """Keep a derived index on the disk, for whoever opens the collection next, in place of the one before.

        Args:
            state: the collection, as it was when the index was brought up to date.
            kind: the name of the index, a-z and "_".
            next_row, seq: the rows and changes that the index covers.
            write: writes the file at the path that it is given. The file has its own checksums.

        Returns:
            False when nothing was published: someone else is maintaining the database just now, it cannot be written,
            or the collection was dropped or compacted meanwhile. An index is never needed: nobody waits for one.
        """
        with self.maintaining() as held:
            if not held or self.path is None:
                return False
            with translated(self.path, "publishing an index in"), self.reading() as transaction:
                folder = transaction.index_folder(state.name)
            with translated(self.path, "publishing an index in"):
                segments.make_folder(folder)
                number = segments.next_number(folder, kind)
                path = segments.put(folder / segments.index_name(kind, number), write)
            with self.writing() as transaction:
                current = transaction.by_id(state.id)
                fits = current is not None and current.name == state.name
                if fits:
                    transaction.register(state, kind, number, next_row, seq)
            if not fits:
                path.unlink(missing_ok=True)
            self.remove_orphans()
            return fits

    def forget(self, state: State, kind: str, generation: Generation) -> None:
        """Say that a published index turned out missing or damaged: it is taken out of the catalog and removed."""
        if self.path is not None and not self.read_only:
            with suppress(Locked, ReadOnly), self.writing(wait=False) as transaction:
                transaction.forget(state, kind, generation.path)
            self.remove_orphans()

    def remove_orphans(self) -> None:
        """Remove files that the catalog does not name: left by a crash, or by what took their place.

        Unless someone is writing or maintaining just now, or a reader still has a view in which they count: then
        the next call does it.
        """
        if self.path is None or self.read_only or not self._orphans():
            return
        # Whoever writes a segment holds the write lock until it counts, whoever writes an index the maintenance lock.
        # A checkpoint is complete when nobody reads what was before it: what was an orphan then, no view has.
        with suppress(Locked, ReadOnly), self.maintaining() as held:
            unseen = set(self._orphans()) if held else set()
            if unseen and self._checkpoint():
                with self.writing(wait=False) as transaction:
                    segments.remove(self.path, unseen & set(segments.orphans(self.path, transaction.files)))

    def in_background(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, unless one is running or has just run. Closing the store waits for it."""
        with self._pool:
            now = time.monotonic()
            if self.path is None or self._closed or self._busy() or now < self._rest:
                return
            self._rest = now + _REST
            self._thread = threading.Thread(target=work, name="nearfield maintenance", daemon=True)
            self._thread.start()

    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def forget_checked(self) -> None:
        """Read every segment through again before it is next used."""
        self._known.clear()

    def shrink(self) -> None:
        """Cut the catalog's files to what is in them, as far as readers let it."""
        if self.path is not None:
            self._checkpoint("TRUNCATE")

    def close(self) -> None:
        """Close the files, once other threads have done with them. May be called twice."""
        with self._write_lock, self._pool:
            self._closed = True
            self._quiet()
            self._disconnect()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()  # it finds the store closed
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the interpreter modules are half gone, and nothing is lost: SQLite closes its files by itself.
        if not getattr(self, "_closed", True) and not finalizing():
            self.close()

    # -- connections ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the database {self.path or 'in memory'} was closed; open it again with nf.open()")

    def _connect(self) -> sqlite3.Connection:
        assert self.path is not None
        return schema.connect(self.path / CATALOG, durability=self.durability, mode=self._mode)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread has meanwhile; in memory, the one that all have."""
        shared = self.path is None
        alone = shared and sqlite3.threadsafety < 3  # a SQLite that was built without locks of its own
        with self._write_lock if alone else nullcontext(), self.unforked():
            if shared:
                assert self._writer is not None
                yield self._writer
                return
            with self._pool:
                connection = self._idle.pop() if self._idle else None
            try:
                if connection is None:
                    connection = self._connect()
                yield connection
            finally:
                with self._pool:
                    if connection is not None:
                        if self._closed or len(self._idle) >= _IDLE:
                            connection.close()
                        else:
                            self._idle.append(connection)

    @contextmanager
    def unforked(self) -> Iterator[None]:
        """Other threads that want to fork wait for its end: so no child inherits what is locked in it."""
        me = threading.get_ident()
        with self._pool:
            while self._barred and me not in self._reading:
                self._pool.wait()
            self._check_open()
            self._reading[me] += 1
        try:
            yield
        finally:
            with self._pool:
                self._reading[me] -= 1
                if not self._reading[me]:
                    del self._reading[me]
                self._pool.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """In memory: no other thread reads. The caller holds the write lock."""
        if self.path is not None:
            yield
            return
        with self.unforked():
            with self._pool:
                self._barred += 1
                self._quiet()
            try:
                yield
            finally:
                with self._pool:
                    self._barred -= 1
                    self._pool.notify_all()

    def _quiet(self) -> None:
        """Wait until no other thread reads. The caller holds the pool."""
        while set(self._reading) - {threading.get_ident()}:
            self._pool.wait()

    def _disconnect(self) -> None:
        for connection in [*self._idle, *([] if self._writer is None else [self._writer])]:
            connection.close()
        self._idle.clear()
        self._writer = None

    def _move_log(self) -> None:
        with suppress(NearfieldError, sqlite3.Error):
            self._checkpoint("PASSIVE")

    def _checkpoint(self, mode: Literal["PASSIVE", "FULL", "TRUNCATE"] = "FULL") -> bool:
        """Move the WAL into the catalog as far as readers let it; True when that was all of it."""
        with self._connection() as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                busy, wal, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            except sqlite3.OperationalError:  # the catalog is being written
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(1000 * schema.TIMEOUT)}")
            return not busy and wal == moved

    def _orphans(self) -> list[Path]:
        assert self.path is not None
        with self.reading() as transaction:
            return segments.orphans(self.path, transaction.files)

    def _open(self, path: Path) -> None:
        catalog = path / CATALOG
        if path.exists() and not path.is_dir():
            raise NotADatabase(f"{path} is a file; a nearfield database is a folder: choose another path")
        if not catalog.exists():
            if (
                path.is_dir()
                and any(not entry.name.startswith(CATALOG) for entry in path.iterdir())
                and not catalog.exists()
            ):
                raise NotADatabase(
                    f"{path} is a folder with other things in it and no {CATALOG}; choose a new or an empty folder"
                )
            _make_folders(path)
        elif 0 < catalog.stat().st_size < _PAGE:  # SQLite would take it for an empty one, and write over it
            raise _no_database(catalog)
        elif not self._frozen and not (os.access(path, os.W_OK) and os.access(catalog, os.W_OK)):
            self._mode = "ro"
        if not self._frozen:
            wal.tell(path, keep=not self.read_only)
        # SQLite alone opens the catalog: whoever closes it takes away the locks that this process has on it.
        try:
            self._prepare(path)
        except BaseException as error:
            self._disconnect()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise _no_database(catalog) from error
            raise

    def _prepare(self, path: Path) -> None:
        try:
            connection = self._connect()
            self._idle.append(connection)
            version = schema.version(connection, path)
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
            connection = self._connect()
            self._idle.append(connection)
            version = schema.version(connection, path)
        if version == 0:
            if segments.orphans(path, list):
                raise Corrupt(f"{path / CATALOG} is empty, but there are vectors beside it; restore it from a backup")
            if self.read_only:
                raise ReadOnly(f"{path} has no database yet and cannot be written; choose another folder")
            schema.create(connection, path)


def _no_database(catalog: Path) -> NotADatabase:
    return NotADatabase(
        f"{catalog} is not a SQLite file: something else, or damaged; choose another folder, or restore it"
    )


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
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
        _hooked = True


def _before_fork() -> None:
    stores = sorted(_stores, key=id)  # one order for all threads
    for store in stores:
        store._write_lock.acquire()
        store._pool.acquire()
        store._barred += 1  # no new readers, while those there are come to their end
        store._quiet()
        writing = store._writer is not None and store._writer.in_transaction
        if store.path is not None and not writing and not store._reading:
            store._disconnect()
    _held.stores = stores


def _after_fork() -> None:
    for store in _held.__dict__.pop("stores", []):
        store._barred -= 1
        store._pool.notify_all()
        store._pool.release()
        store._write_lock.release()


def _after_fork_in_child() -> None:
    for store in _held.__dict__.get("stores", []):
        if store.path is not None and store._maintenance is not None:
            store._maintenance.abandon()  # it is the parent's
            store._maintenance = MaintenanceLock(store.path)
    _after_fork()
