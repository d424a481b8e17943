"""The engine's face: an index of vectors, for people who bring their own.

It checks what comes in and shapes what goes out; the arithmetic is in `nearfield._native`. It knows nothing of
documents, files of a database, or embedders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from nearfield import _native
from nearfield.errors import InvalidInput, StorageError
from nearfield.handle import Handle, answers_wanted, as_ids, reading, reason, whole, writing
from nearfield.types import METRICS, FileRows, Metric, Report

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KINDS = ("auto", "flat", "hnsw", "ivf", "ivf_pq", "lsh")

_STAGES = ("encode", "walk", "look")

_FLOAT32 = np.dtype(np.float32)

# Bytes of vectors that are looked at, converted and written at a time where they are kept on the disk.
_PIECE = 64 << 20


def build_info() -> dict[str, Any]:
    """What this binary is: `version`, `profile`, and the SIMD level in use (`simd`) of those in `simd_available`.

    Raises:
        InvalidInput: NEARFIELD_SIMD names a level that this CPU cannot run.
    """
    return _native.build_info()


class Index(Handle):
    """Nearest neighbours among float32 vectors of one dimension.

    Exact by default: the answers of a float64 brute-force search, ties broken by insertion order. Searches may run in
    many threads at once; `add` and `remove` wait for them.

    Args:
        dimension: Numbers in a vector, 1 to 65,535.
        metric: "cosine" (of the angle; 0 where a vector is zero), "dot" or "l2".
        kind: "flat" is the exact scan. The others answer faster, at the recall that a search states: "hnsw" is a graph,
            "ivf" scans the lists of rows nearest to the query, "ivf_pq" the same on product-quantised codes, "lsh"
            looks into hash tables. "auto" answers a search that states no recall exactly up to 2^27 numbers (350,000
            rows of 384), and one that states a recall by a graph where there is one: from 2^26 numbers on, and below as
            soon as such searches have spent as much on scans as a graph costs to build. The search that comes to
            that builds it, unless you call `settle` yourself.
        threads: Threads for one call at the most; None means one for every core. Small calls use fewer.
        on_disk: A folder in which the vectors are kept instead of in memory, in files that have no name and are gone
            with the index (`save` writes one that stays). In memory remain codes of 8 bits, a quarter of the bytes, and
            the graph, lists or tables. A search reads a few vectors in full, a page of the disk each unless the system
            has kept them. Up to 64 MB of vectors that come in small calls wait in memory for more.

    Raises:
        InvalidInput: An argument is out of range; the message has the valid values.

    Example:
        >>> import numpy as np, nearfield as nf
        >>> index = nf.Index(dimension=2, metric="cosine")
        >>> index.add([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).tolist()
        [0, 1, 2]
        >>> ids, scores = index.search([2.0, 1.0], k=2)
        >>> ids.tolist(), [f"{score:.3f}" for score in scores]
        ([2, 0], ['0.949', '0.894'])
    """

    _native: _native.Index

    def __init__(
        self,
        dimension: int,
        metric: Metric = "cosine",
        *,
        kind: str = "auto",
        threads: int | None = None,
        on_disk: str | os.PathLike[str] | None = None,
    ):
        dimension = whole(dimension, "dimension")
        if not 1 <= dimension <= 65_535:
            raise InvalidInput(f"dimension must be from 1 to 65,535, got {dimension}")
        if metric not in METRICS:
            raise InvalidInput(f"unknown metric {metric!r}: use one of {', '.join(METRICS)}")
        if kind not in KINDS:
            raise InvalidInput(f"unknown kind {kind!r}: use one of {', '.join(KINDS)}")
        self.threads = threads
        self._dimension = dimension
        self._folder = _folder(on_disk)
        self._native = _native.Index(dimension, metric, kind, self._folder)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._dimension

    @property
    def metric(self) -> str:
        """The metric: "cosine", "dot" or "l2"."""
        return self._native.metric

    @property
    def kind(self) -> str:
        """The kind that was asked for."""
        return self._native.kind

    @property
    def memory(self) -> int:
        """Bytes held in memory: the vectors, their codes, and the graph, lists or tables beside them."""
        return sum(self._native.bytes[:2])

    @property
    def mapped(self) -> int:
        """Bytes of vectors that stay in files (after `load`, or with `on_disk`) and are read there when needed."""
        return self._native.bytes[2]

    @property
    def built(self) -> bool:
        """Whether a graph, lists or tables stand beside the vectors: what takes time to make again."""
        return self._native.bytes[1] > 0

    def __repr__(self) -> str:
        return f"<Index: {len(self):,} vectors, dimension {self.dimension}, {self.metric}>"

    @property
    def due(self) -> bool:
        """Whether `settle` would take long: a graph is missing that would pay, or many vectors are missing in it."""
        return self._native.due

    def add(
        self, vectors: ArrayLike | Iterator[ArrayLike], ids: ArrayLike | None = None, *, settle: bool = True
    ) -> NDArray[np.int64]:
        """Add vectors, all or none of them; they are found by the next search.

        Args:
            vectors: Shape (n, dimension), or (dimension,) for one; any float or integer dtype, kept as float32. With
                `on_disk` an array may be larger than memory: `index.add(np.load("rows.npy", mmap_mode="r"))`. Or an
                iterator of such arrays, whose vectors are added together once it has ended.
            ids: Shape (n,), whole numbers from 0 on, not in the index yet. Default: counted up from the largest so far.
            settle: False leaves a graph as it is, and the vectors are scanned beside it until `settle` is called: for
                adding many in parts.

        Returns:
            int64 ids, shape (n,).

        Raises:
            InvalidInput: Wrong dimension, NaN or infinity (it names the row), ids not whole, negative or given twice.
            AlreadyExists: An id is in the index.
            StorageError: The folder given as `on_disk` cannot be written to.
        """
        given = None if ids is None else as_ids(ids, "ids")
        try:
            if isinstance(vectors, Iterator):
                return self._native.add_pieces(map(self._rows, vectors), given, self.threads, settle)
            if self._folder is not None and isinstance(vectors, np.ndarray) and vectors.ndim == 2:
                step = max(1, _PIECE // (4 * self.dimension))
                pieces = (self._rows(vectors[start : start + step]) for start in range(0, len(vectors) or 1, step))
                return self._native.add_pieces(pieces, given, self.threads, settle)
            return self._native.add(self._rows(vectors), given, self.threads, settle)
        except OSError as error:
            raise StorageError(f"cannot keep vectors in {self._folder}: {reason(error)}; nothing was added") from error

    def add_files(self, files: Sequence[FileRows], ids: ArrayLike, *, settle: bool = True) -> None:
        """Add vectors that stay in files, all or none of them: a `.npy` of C-ordered float32, say.

        The files may be removed, or their names given to others, but the bytes must not change while the index lives: a
        file that is cut short ends the process. Only codes are held in memory, a quarter of the vectors.

        Args:
            files: Where the vectors are. They must be finite, which is not checked.
            ids: Shape (n,), one for each of them, as for `add`.
            settle: As for `add`.

        Raises:
            InvalidInput, AlreadyExists: As `add`.
            StorageError: A file cannot be read, or is too short.

        Example:
            >>> import numpy as np, nearfield as nf, os, tempfile
            >>> from nearfield.types import FileRows
            >>> path = os.path.join(tempfile.mkdtemp(), "rows.f32")
            >>> np.eye(2, dtype=np.float32).tofile(path)
            >>> index = nf.Index(dimension=2)
            >>> index.add_files([FileRows(path, start=0, rows=2)], ids=[7, 8])
            >>> index.search([0.0, 1.0], k=1)[0].tolist()
            [8]
        """
        parts = [(os.fspath(path), start, rows, chosen) for path, start, rows, chosen in files]
        try:
            self._native.add_files(parts, as_ids(ids, "ids"), self.threads, settle)
        except OSError as error:
            raise StorageError(f"cannot read vectors: {reason(error)}; nothing was added") from error

    def settle(self) -> None:
        """Build the graph, or bring it up to date, where that pays: what `add` does at its end.

        Example:
            >>> import numpy as np, nearfield as nf
            >>> index = nf.Index(dimension=2)
            >>> for part in np.eye(2):
            ...     _ = index.add(part, settle=False)
            >>> index.settle()
        """
        self._native.settle(self.threads)

    def demand(self) -> None:
        """Have the next `settle` build a graph though there may be few vectors: many searches at a recall will come.

        Of use to kind "auto", which otherwise waits until they have come; other kinds do what they do.

        Example:
            >>> import numpy as np, nearfield as nf
            >>> index = nf.Index(dimension=4)
            >>> _ = index.add(np.random.default_rng(0).random((2000, 4)))
            >>> index.demand(), index.settle(), index.built
            (None, None, True)
        """
        self._native.demand()

    def compact(self) -> None:
        """Give back the room of removed vectors; ids stay.

        A graph, lists or tables are built again if vectors have come or gone since. The index then takes the memory of
        a new one made of the vectors that are left, gives its answers, and takes as long to make.

        Example:
            >>> import numpy as np, nearfield as nf
            >>> index = nf.Index(dimension=2)
            >>> _ = index.add(np.eye(2)), index.remove([0]), index.compact()
            >>> index.search([1.0, 1.0], k=1)[0].tolist()
            [1]
        """
        self._native.compact(self.threads)

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: ArrayLike | None = None,
        recall: float | None = None,
        exact: bool = False,
        report: Literal[False] = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: ArrayLike | None = None,
        recall: float | None = None,
        exact: bool = False,
        report: Literal[True],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]: ...
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: ArrayLike | None = None,
        recall: float | None = None,
        exact: bool = False,
        report: bool = False,
    ) -> Any:
        """Find the k vectors nearest to each query, best first.

        Args:
            queries: Shape (q, dimension), or (dimension,) for one query, whose answers then have shape (k,).
            k: Answers wanted, 1 or more.
            allow: Which vectors may be answered: ids (integers; unknown ones are passed over), or a boolean mask with a
                place for every id, `mask[id]`. If k of them exist, k come back.
            recall: Share of the true answers wanted on average, over 0 and up to 1; 1 means exact. A flat index always
                reaches it. Other kinds choose their effort by what they measured when they were built; default 0.95.
            exact: Demand exact answers.
            report: Also return a `Report` of the work done.

        Returns:
            ids int64 (q, k) and scores float32 (q, k): the cosine, the dot product, or minus the Euclidean distance.
            Where fewer than k vectors exist, the rest is id -1 and score -inf.

        Raises:
            InvalidInput: Wrong dimension, NaN or infinity, k < 1, a mask that is too short, recall out of range.
        """
        if not report:  # a query takes some microseconds: what is ready is answered with one look
            found = self._native.answer(queries, k, self._threads, recall, bool(exact), allow)
            if found is not None:
                return found
        k = answers_wanted(k)
        if recall is not None and not (isinstance(recall, int | float) and 0 < recall <= 1):
            raise InvalidInput(f"recall must be a number over 0 and up to 1, got {recall!r}")
        array = self._array(queries, "queries")
        if allow is not None:
            allow = self._allowed(allow)
        if not report:
            ids, scores, _ = self._native.search(array, k, allow, self._threads, recall, exact)
            return ids, scores
        started = time.perf_counter()
        ids, scores, counts = self._native.search(array, k, allow, self._threads, recall, exact, True)
        elapsed = time.perf_counter() - started
        (scanned, reread, read, threads, hops, proven, effort, expected), plan, rescued, nanoseconds = counts
        count = len(array) if array.ndim > 1 else 1
        kind = self._native.kind
        if kind == "auto":
            kind = "flat" if proven else "hnsw"
        counted = (scanned, reread, read, threads, 1000 * elapsed, hops, effort, expected)
        stages = dict(zip(_STAGES, (1e-6 * spent for spent in nanoseconds), strict=True)) if any(nanoseconds) else {}
        return ids, scores, Report(kind, proven, count, *counted, plan=plan, rescued=rescued, stages=stages)

    def frozen(self) -> Index | None:
        """The index as it is now, to be saved while this one goes on changing; None for kinds without such a copy.

        It shares with this one what is large. What changes while it lives is copied then: not vectors, but codes of a
        quarter of their size at the first `add`, and the graph if it is brought up to date.

        Example:
            >>> import numpy as np, nearfield as nf
            >>> index = nf.Index(dimension=2)
            >>> _ = index.add(np.eye(2))
            >>> before = index.frozen()
            >>> _ = index.add([1.0, 1.0])
            >>> len(before), len(index)
            (2, 3)
        """
        native = self._native.frozen()
        if native is None:
            return None
        index = Index.__new__(Index)
        index.threads, index._folder, index._dimension = self.threads, self._folder, self._dimension
        index._native = native
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file. A failure leaves what was there before.

        Raises:
            StorageError: The file cannot be written.
        """
        with writing(path):
            self._native.save(os.fspath(path))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        verify: bool = False,
        on_disk: str | os.PathLike[str] | None = None,
    ) -> Index:
        """Read an index that `save` wrote.

        The vectors stay in the file, whose name may be given to another one meanwhile, but whose bytes must not change.
        All else is read and checked. Vectors added later are held in memory, or `on_disk`.

        Args:
            path: The file.
            threads: As for a new index.
            verify: Also read all vectors and check that they are what was written.
            on_disk: As for a new index.

        Raises:
            NotFound: There is no such file.
            Corrupt: The file is not an index, is cut short, or its bytes changed.
            FormatTooNew: It was written by a later nearfield.
            StorageError: The file cannot be read.
        """
        index = cls.__new__(cls)
        index.threads = threads
        index._folder = _folder(on_disk)
        with reading(path):
            index._native = _native.Index.load(os.fspath(path), index.threads, verify, index._folder)
        index._dimension = index._native.dimension
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        ids, vectors = self._native.export()
        made = (self.dimension, self.metric, self.kind, self.threads, self._folder)
        return _rebuild, (*made, self._native.next_id, ids, vectors)

    def _rows(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Vectors to add as a C-ordered float32 array of shape (n, dimension)."""
        return np.empty((0, self.dimension), np.float32) if _is_empty(vectors) else self._matrix(vectors, "vectors")

    def _matrix(self, values: ArrayLike, name: str) -> NDArray[np.float32]:
        """`values` as a C-ordered float32 array of shape (n, dimension)."""
        return self._array(values, name).reshape(-1, self._dimension)

    def _array(self, values: ArrayLike, name: str) -> NDArray[np.float32]:
        """`values` as a C-ordered float32 array of shape (n, dimension) or (dimension,)."""
        # One query takes a few microseconds to answer, so what is ready is seen with few looks.
        if (
            type(values) is np.ndarray
            and values.dtype is _FLOAT32
            and values.flags.carray
            and values.ndim in (1, 2)
            and values.shape[-1] == self._dimension
        ):
            return values
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise InvalidInput(f"{name} must be rows of equally many numbers: {error}") from error
        if array.dtype.kind not in "fiub":
            raise InvalidInput(f"{name} must be numbers, got dtype {array.dtype}")
        if array.ndim not in (1, 2) or array.shape[-1] != self.dimension:
            got = f"dimension {array.shape[-1]}" if array.ndim in (1, 2) else f"shape {array.shape}"
            raise InvalidInput(
                f"{name} must have shape (n, {self.dimension}): this index has dimension {self.dimension}, got {got}"
            )
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is refused as such
            return np.require(array, dtype=np.float32, requirements=["C", "A"])


def _rebuild(
    dimension: int,
    metric: Metric,
    kind: str,
    threads: int,
    folder: str | None,
    next_id: int,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> Index:
    index = Index(dimension, metric, kind=kind, threads=threads, on_disk=folder)
    index.add(vectors, ids)
    index._native.next_id = next_id
    return index


def _folder(folder: str | os.PathLike[str] | None) -> str | None:
    if folder is not None and not os.path.isdir(folder):
        raise InvalidInput(f"on_disk must be a folder that is there, got {os.fspath(folder)!r}")
    return None if folder is None else os.path.abspath(os.fsdecode(folder))


def _is_empty(values: Any) -> bool:
    """True for [] and its like, which no dimension can be wrong for."""
    return np.shape(values) == (0,) if not isinstance(values, list) else not values
