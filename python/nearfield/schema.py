"""The catalog: its tables, how a connection to it is made, and what SQLite's errors mean.

`docs/format.md` describes every table; a test compares the two.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, TypeAlias

from nearfield.checkpoint import LIMIT
from nearfield.errors import (
    Corrupt,
    DiskFull,
    FormatTooNew,
    Locked,
    NearfieldError,
    NotADatabase,
    ReadOnly,
    StorageError,
)

Durability: TypeAlias = Literal["full", "relaxed"]

CATALOG = "catalog.sqlite"
APPLICATION_ID = 0x6E656172  # "near", in the header of the file: `file` and we recognise our own
FORMAT_VERSION = 1
TIMEOUT = 30.0  # seconds to wait for another process's write

# What SQLite says when there is no room for the memory that the users of the WAL share.
_NO_ROOM_TO_SHARE = (sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)

# A key is `collection << 32 | row`. It makes each collection a contiguous range of one B-tree: a filter reads it in
# sequence, and no second index is needed to find a row. Metadata stands before the document, so that a filter need not
# walk over long texts. The checksums are of what SQLite has none for: a bit that flips in a page's content.
SCHEMA = """\
CREATE TABLE collections (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  origin    INTEGER UNIQUE,
  name      TEXT    NOT NULL UNIQUE COLLATE NOCASE,
  metric    TEXT    NOT NULL,
  dimension INTEGER,
  embedder  TEXT,
  next_row  INTEGER NOT NULL DEFAULT 0,
  live      INTEGER NOT NULL DEFAULT 0,
  seq       INTEGER NOT NULL DEFAULT 0,
  dead_sum  INTEGER NOT NULL DEFAULT 0,
  crc32     INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE records (
  key        INTEGER PRIMARY KEY,
  collection INTEGER NOT NULL REFERENCES collections (id),
  id         TEXT    NOT NULL,
  changed    INTEGER NOT NULL DEFAULT 0,
  crc32      INTEGER NOT NULL,
  crc32_doc  INTEGER NOT NULL,
  metadata   TEXT    NOT NULL,
  document   TEXT,
  UNIQUE (collection, id)
);
CREATE INDEX changed_records ON records (collection, changed) WHERE changed > 0;
CREATE TABLE unsealed (
  key    INTEGER PRIMARY KEY,
  crc32  INTEGER NOT NULL,
  vector BLOB NOT NULL
);
CREATE TABLE segments (
  collection INTEGER NOT NULL REFERENCES collections (id),
  number     INTEGER NOT NULL,
  first_row  INTEGER NOT NULL,
  rows       INTEGER NOT NULL,
  dtype      TEXT    NOT NULL,
  crc32      INTEGER NOT NULL,
  PRIMARY KEY (collection, number)
) WITHOUT ROWID;
CREATE TABLE dead_rows (
  collection INTEGER NOT NULL REFERENCES collections (id),
  seq        INTEGER NOT NULL,
  row        INTEGER NOT NULL,
  PRIMARY KEY (collection, seq)
) WITHOUT ROWID;
CREATE TABLE generations (
  collection INTEGER NOT NULL REFERENCES collections (id),
  kind       TEXT    NOT NULL,
  number     INTEGER NOT NULL,
  next_row   INTEGER NOT NULL,
  seq        INTEGER NOT NULL,
  crc32      INTEGER NOT NULL,
  PRIMARY KEY (collection, kind)
) WITHOUT ROWID;
"""

# Beside these, once there is a collection whose words are not English.
LANGUAGES = """\
CREATE TABLE languages (
  origin   INTEGER PRIMARY KEY,
  language TEXT    NOT NULL
);
"""


def connect(
    path: Path | None, *, durability: Durability, mode: Literal["rwc", "ro", "immutable"] = "rwc"
) -> sqlite3.Connection:
    """A connection to the catalog at `path` (None: in memory), set up but not yet checked (see `prepare`)."""
    if path is None:
        target = ":memory:"
    else:
        target = (
            path.absolute().as_uri() + {"rwc": "?mode=rwc", "ro": "?mode=ro", "immutable": "?mode=ro&immutable=1"}[mode]
        )
    # Transactions are begun and ended by hand (isolation_level=None); the store's locks serialise the threads.
    # The one in memory is read by several threads at once, and sqlite3 may hand two of them the same cached statement.
    cached = 0 if path is None else 128
    connection = sqlite3.connect(
        target, timeout=TIMEOUT, isolation_level=None, check_same_thread=False, uri=True, cached_statements=cached
    )
    try:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA fullfsync = 1")  # macOS: fsync alone stops at the drive's cache
        connection.execute("PRAGMA checkpoint_fullfsync = 1")
        # No line is written but with the id of an entry that was read in the same transaction: to look it up again for
        # each would take a sixteenth of the time of a row. `nearfield verify` does.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # `checkpoint.py` sees to it, and nobody waits
        connection.execute(f"PRAGMA journal_size_limit = {LIMIT}")  # a bulk add leaves no giant WAL behind
    except BaseException:
        connection.close()
        raise
    return connection


def version(connection: sqlite3.Connection, path: Path | None) -> int:
    """The format version of an open catalog; 0 when it is empty and may be created.

    Raises:
        NotADatabase: a SQLite file of something else.
        FormatTooNew: written by a later nearfield.
    """
    with nullcontext() if connection.in_transaction else _snapshot(connection):  # another process may be making it
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and found == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise NotADatabase(
            f"{path} is a SQLite database of another application, not of nearfield; choose another folder"
        )
    if found > FORMAT_VERSION:
        raise FormatTooNew(
            f"{path} has format version {found}, this nearfield reads versions up to {FORMAT_VERSION}: "
            "upgrade it with pip install --upgrade nearfield"
        )
    return int(found)


def create(connection: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables, unless another process was faster."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first page is written
    if path is not None:
        _use_wal(connection)
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    connection.execute("PRAGMA synchronous = FULL")  # "relaxed" may lose writes, not the tables they go to
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version(connection, path) == 0:
            for statement in SCHEMA.split(";\n")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute(f"PRAGMA synchronous = {level}")


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _use_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait by itself when several processes make this change at once.
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def translated(path: Path | None, action: str) -> Iterator[None]:
    """Turn what SQLite and the operating system raise into nearfield's own errors, each with what to do."""
    where = f"{action} {path}" if path is not None else f"{action} the in-memory database"
    try:
        yield
    except NearfieldError:
        raise
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte is the primary code
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Locked(
                f"{where}: another process has been writing for {TIMEOUT:g} s; try again, or write in smaller parts"
            ) from error
        if code == sqlite3.SQLITE_FULL or getattr(error, "sqlite_errorcode", None) in _NO_ROOM_TO_SHARE:
            raise DiskFull(
                f"{where}: no room left on the disk; nothing was changed; make room and try again"
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise ReadOnly(f"{where}: no permission to write; check the folder's owner and mode, or copy it") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Corrupt(f"{where}: the catalog is damaged ({error}); restore it from a backup") from error
        raise StorageError(f"{where}: {error}") from error
    except UnicodeDecodeError as error:  # of what stands in a damaged schema
        raise Corrupt(f"{where}: the catalog is damaged ({error}); restore it from a backup") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{where}: no room left on the disk; nothing was changed; make room and try again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnly(f"{where}: no permission to write ({error}); check the folder's owner and mode") from error
        raise StorageError(f"{where}: {error}") from error
