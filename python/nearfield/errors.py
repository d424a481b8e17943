"""Every error that nearfield raises on purpose, as one tree.

NearfieldError
├── InvalidInput        (ValueError)    an argument is wrong: nothing was changed
│   ├── AlreadyExists                   an id or a name is taken
│   └── EmbedderMismatch                the collection was filled by another embedder
├── NotFound            (LookupError)   no such id, collection, file or model
├── MissingExtra        (ImportError)   an optional dependency is not installed
├── Closed              (RuntimeError)  the handle was closed
├── RemoteError         (ConnectionError) a service on the network did not do what was asked
│   ├── Unauthorized                    it does not accept the key, or there is none
│   ├── RateLimited                     it still wants fewer requests after all retries
│   └── Unreachable                     no answer: host, network or time
└── StorageError        (OSError)       the disk or the files on it
    ├── NotADatabase                    the path holds something else
    ├── FormatTooNew                    written by a later nearfield
    ├── ReadOnly                        no permission to write
    ├── DiskFull                        no room; the database is intact
    ├── Locked                          another process kept the write lock too long
    └── Corrupt                         bytes do not match what was written

A message says what was wrong, what was got, and what to do.
"""

from __future__ import annotations


class NearfieldError(Exception):
    """The root: `except nf.errors.NearfieldError` catches all that nearfield raises on purpose."""


class InvalidInput(NearfieldError, ValueError):
    """An argument is wrong. The call changed nothing."""


class AlreadyExists(InvalidInput):
    """An id or a name is already taken."""


class EmbedderMismatch(InvalidInput):
    """The collection was filled by another embedder than the one it was opened with."""


class NotFound(NearfieldError, LookupError):
    """No such id, collection, file or model."""


class MissingExtra(NearfieldError, ImportError):
    """An optional dependency is not installed; the message has the pip line that mends it."""


class Closed(NearfieldError, RuntimeError):
    """The database handle was closed."""


class RemoteError(NearfieldError, ConnectionError):
    """A service on the network did not do what was asked. `status` is its HTTP status, if it gave one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unauthorized(RemoteError):
    """The service does not accept the key, or there is no key to send."""


class RateLimited(RemoteError):
    """The service still wanted fewer requests after all retries, or a longer pause than was allowed."""


class Unreachable(RemoteError):
    """There was no answer: the host is not found or refuses, the connection was cut, or time ran out."""


class StorageError(NearfieldError, OSError):
    """Reading or writing files failed. What was acknowledged before is still there."""


class NotADatabase(StorageError):
    """The path holds something that is not a nearfield database."""


class FormatTooNew(StorageError):
    """The database was written by a later version of nearfield."""


class ReadOnly(StorageError):
    """The database cannot be written: permissions or a read-only file system."""


class DiskFull(StorageError):
    """There is no room left. The failed call was undone as a whole."""


class Locked(StorageError):
    """Another process held the write lock for longer than the timeout."""


class Corrupt(StorageError):
    """Bytes on disk are not what was written."""


def shown(value: object) -> str:
    """A value as it stands in a message: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text):,} characters)"
