"""What an adapter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (n, dimension), C order
Ids = NDArray[np.integer[Any]]
One = Callable[[Rows], Any]  # a query of shape (dimension,) -> its k ids, in any container
Many = Callable[[Rows], Any]  # queries of shape (q, dimension) -> ids of shape (q, k)

WIDTHS = (10, 12, 16, 20, 26, 34, 44, 58, 76, 100, 130, 170, 220, 290, 380, 500, 660, 880, 1200)


class Unfit(Exception):
    """This peer cannot take part; the message is the sentence that says why."""


class Peer(ABC):
    """One index. `metric` is "cosine" (the rows then have unit length) or "l2".

    `threads` may be used for building; searches use as many as `set_threads` said last.
    """

    def __init__(self, dimension: int, metric: str, threads: int):
        self.dimension, self.metric, self.threads = dimension, metric, threads

    @abstractmethod
    def build(self, rows: Rows, path: Path) -> None:
        """Build over the rows; this is what is timed. Ids are the places of the rows. `path` is for those that
        live in files."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the index to `path`, a file or a folder."""

    @abstractmethod
    def load(self, path: Path, rows: int) -> None:
        """Read what `save` wrote, in a new process."""

    @abstractmethod
    def efforts(self, k: int) -> Sequence[Any]:
        """The settings to sweep, from fast to thorough."""

    @abstractmethod
    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        """Searches of this effort, one query at a time and all together."""

    @abstractmethod
    def set_threads(self, count: int) -> None:
        """How many threads the next searches may use."""

    def counters(self, effort: Any, k: int, queries: Rows) -> dict[str, float]:
        """What a query does at this effort, where the library tells (means over the queries)."""
        return {}


def widths(k: int) -> list[int]:
    """Beam widths (`ef`) for graphs: not below k."""
    return [width for width in WIDTHS if width >= k]


class Crowd:
    """Batches for libraries that answer one query a call and release the lock: a piece of the queries a thread."""

    def __init__(self) -> None:
        self._pool, self._count = ThreadPoolExecutor(1), 1

    def resize(self, count: int) -> None:
        self._pool.shutdown()
        self._pool, self._count = ThreadPoolExecutor(count), count

    def many(self, one: One) -> Many:
        def search(queries: Rows) -> list[Any]:
            pieces = np.array_split(queries, 4 * self._count)
            found = self._pool.map(lambda piece: [one(query) for query in piece], pieces)
            return [ids for piece in found for ids in piece]

        return search
