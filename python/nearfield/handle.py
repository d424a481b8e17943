"""What `Index` and `SparseIndex` share: how many threads, which ids, and files that are written and read."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import _native
from nearfield.errors import InvalidInput, NotFound, StorageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Handle:
    """An index of the core, and how many threads its calls may use."""

    _native: _native.Index | _native.SparseIndex
    _threads: int

    @property
    def threads(self) -> int:
        """Threads for one call at the most; None sets it to one for every core.

        Raises:
            InvalidInput: Set to less than 1.
        """
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        count = _native.default_threads() if threads is None else whole(threads, "threads")
        if count < 1:
            raise InvalidInput(f"threads must be 1 or more, or None for one for every core; got {count}")
        self._threads = count

    def __len__(self) -> int:
        return len(self._native)

    def remove(self, ids: ArrayLike) -> int:
        """Remove what has these ids, all or none of it; returns how many.

        Raises:
            NotFound: An id is not in the index; the message names it, and nothing was removed.
        """
        return self._native.remove(as_ids(ids, "ids"), self.threads)

    def _allowed(self, allow: ArrayLike) -> NDArray[np.bool_] | NDArray[np.int64]:
        array = np.asarray(allow)
        if array.dtype != bool:
            return as_ids(array, "allow")
        if array.ndim != 1 or len(array) < self._native.next_id:
            raise InvalidInput(
                f"a boolean `allow` needs a place for every id, shape ({self._native.next_id},); got {array.shape}"
            )
        return np.require(array, requirements=["C"])


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in what the system says against writing it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write the index to {os.fspath(path)}: {reason(error)}") from error


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in what the system says against reading it."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"there is no index file at {os.fspath(path)}") from error
    except OSError as error:
        raise StorageError(f"cannot read the index at {os.fspath(path)}: {reason(error)}") from error


def whole(value: Any, name: str) -> int:
    """A whole number of any type."""
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name} must be a whole number, got {value!r}") from None


def answers_wanted(k: Any) -> int:
    """k, if it can be one."""
    count = whole(k, "k")
    if not 1 <= count < 2**32:
        raise InvalidInput(f"k must be 1 or more (and below 2**32), got {count}")
    return count


def as_ids(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Ids as an int64 array of shape (n,)."""
    array = np.atleast_1d(np.asarray(values))
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInput(f"{name} must be whole numbers of shape (n,), got dtype {array.dtype}, shape {array.shape}")
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63 - 1:
        raise InvalidInput(f"{name} must be whole numbers from 0 to 2**63 - 2, got {int(array.max())}")
    return np.require(array, dtype=np.int64, requirements=["C", "A"])


def reason(error: OSError) -> str:
    """What the system says, without numbers and names."""
    return error.strerror or str(error)
