"""Vectors that were paid for, on disk: a SQLite file from the hash of a text to its vector. No text is in it.

It is never needed for a right answer. Where it cannot be read or written, work goes on without it, after a warning.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARK = 0x6E66_6563  # "nfec" in the header of the file: what lacks it is not a cache, and is left alone
_TABLE = "CREATE TABLE vectors (number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, vector BLOB NOT NULL)"
_FORGET = """
DELETE FROM vectors WHERE number <=
  (SELECT number FROM vectors ORDER BY number LIMIT 1 OFFSET (SELECT count(*) / 10 FROM vectors))
"""
_CHUNK = 500  # keys a statement: older builds of SQLite allow 999 parameters
_BUSY = 10.0  # seconds to wait for another process


class CacheWarning(UserWarning):
    """The cache of remote embeddings cannot be used: the same texts will be paid for again."""


class VectorCache:
    """Vectors by key, shared by any number of threads and processes. Each call opens the file for itself.

    Args:
        path: the file; made if missing.
        max_bytes: when it grows beyond, the oldest tenth of the vectors goes.
    """

    def __init__(self, path: Path, max_bytes: int = 8 << 30) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._broken = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The vectors that are there, by key."""
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._open() as db:
            for start in range(0, len(keys) if db else 0, _CHUNK):
                part = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                assert db is not None
                for key, blob in db.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part):
                    found[key] = np.frombuffer(blob, dtype="<f4").astype(np.float32)
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep vectors. When this returns, they survive the end of this process."""
        with self._open() as db:
            if db is None:
                return
            rows = [(key, vector.astype("<f4").tobytes()) for key, vector in zip(keys, vectors, strict=True)]
            with db:
                db.executemany("INSERT OR REPLACE INTO vectors (key, vector) VALUES (?, ?)", rows)
            while self._bytes(db) > self.max_bytes:
                with db:
                    gone = db.execute(_FORGET).rowcount
                if gone <= 0:
                    break

    def _bytes(self, db: sqlite3.Connection) -> int:
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
        return (pages - free) * size

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """A connection; or None, after one warning, when the file cannot be used."""
        if self._broken:
            yield None
            return
        db = None
        try:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                db = sqlite3.connect(self.path, timeout=_BUSY)
                self._prepare(db)
            except (sqlite3.Error, OSError) as error:
                self._warn(error)
                yield None
                return
            try:
                yield db
            except sqlite3.Error as error:
                self._warn(error)
        finally:
            if db is not None:
                db.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        mark = db.execute("PRAGMA application_id").fetchone()[0]
        if mark != _MARK:
            before, db.isolation_level = db.isolation_level, None
            db.execute("BEGIN IMMEDIATE")  # another process may be making it at this moment
            if db.execute("PRAGMA application_id").fetchone()[0] != _MARK:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("it is some other database")
                db.execute(_TABLE)
                db.execute(f"PRAGMA application_id = {_MARK}")
            db.execute("COMMIT")
            db.isolation_level = before
        with suppress(
            sqlite3.OperationalError
        ):  # needs the file alone for a moment; the next one who opens it tries again
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")

    def _warn(self, error: Exception) -> None:
        self._broken = True
        warnings.warn(
            f"the cache of remote embeddings {self.path} cannot be used ({error}): texts that are embedded again are "
            "paid for again; remove the file, or give another with cache=",
            CacheWarning,
            stacklevel=2,
        )


def key_of(identity: str, role: str, text: str) -> bytes:
    """The name of a vector: what it is of, for what, and by which model."""
    digest = hashlib.sha256()
    for part in (identity, role, text):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))  # so that no two triples run together alike
        digest.update(encoded)
    return digest.digest()


def open_cache(given: bool | str | os.PathLike[str], default: Path | None) -> VectorCache | None:
    """What `cache=` stands for: True is the `default` file, False none, else the path of a file."""
    if given is False or (given is True and default is None):
        return None
    path = default if given is True else Path(given).expanduser()
    assert path is not None
    return VectorCache(path)
