"""Keyword search and sparse vectors: an inverted index, for people who bring their own documents or weights.

It checks what comes in and shapes what goes out, as `nearfield.index` does for dense vectors; the arithmetic is in
`nearfield._native`. How scores are computed, and what a word is, is told in docs/concepts/lexical.md.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from nearfield import _native
from nearfield.errors import InvalidInput
from nearfield.filters import check_unicode
from nearfield.handle import Handle, answers_wanted, as_ids, reading, whole, writing
from nearfield.types import Report

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KINDS = ("bm25", "tfidf", "vectors")

SparseVector: TypeAlias = Mapping[int, float] | Sequence[tuple[int, float]]
"""Numbers by their places: `{3: 0.5, 70: 1.0}` or `[(3, 0.5), (70, 1.0)]`. Places are from 0 to 2**32 - 1."""

_Rows: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]]"


def languages() -> list[str]:
    """The languages that `SparseIndex` has stems and stop words for.

    Example:
        >>> import nearfield.sparse
        >>> "english" in nearfield.sparse.languages()
        True
    """
    return _native.languages()


class SparseIndex(Handle):
    """The best documents for the words of a query, or the largest dot products with a sparse vector. Always exact.

    Scores are those of the documents that are there at the moment of the search, as if the index had just been built of
    them; ties are broken by insertion order. Searches may run in many threads at once; `add` and `remove` wait.

    Args:
        kind: "bm25" (Robertson and Zaragoza 2009, as Lucene computes it: the sum over the words of the query of
            idf * tf / (tf + k1 * (1 - b + b * length / mean length)), idf = ln(1 + (n - df + 0.5) / (df + 0.5))),
            "tfidf" (Lucene's classic similarity: the sum of idf² * sqrt(tf / length),
            idf = 1 + ln((n + 1) / (df + 1))), or "vectors" (the dot product of sparse vectors, such as SPLADE's).
        language: Decides about stems and stop words, see `languages()`; None takes words as they are. Case and accents
            never matter. Left out, it is English, or nothing for vectors.
        k1: For bm25: how soon another occurrence of a word stops to count; 0 or more.
        b: For bm25: how much the length of a document matters, from 0 to 1.
        threads: Threads for one call at the most; None means one for every core.

    Raises:
        InvalidInput: An argument is out of range; the message has the valid values.

    Example:
        >>> import nearfield as nf
        >>> index = nf.SparseIndex()
        >>> index.add(["The cat sat on the mat.", "Dogs chase cats.", "Stocks fell."]).tolist()
        [0, 1, 2]
        >>> ids, scores = index.search("sitting cat", k=2)
        >>> ids.tolist(), [f"{score:.3f}" for score in scores]
        ([0, 1], ['0.203', '0.203'])
    """

    _native: _native.SparseIndex

    def __init__(
        self,
        kind: Literal["bm25", "tfidf", "vectors"] = "bm25",
        language: str | None = "english",
        k1: float = 1.2,
        b: float = 0.75,
        *,
        threads: int | None = None,
    ):
        if kind not in KINDS:
            raise InvalidInput(f"unknown kind {kind!r}: use one of {', '.join(KINDS)}")
        if language is not None and not isinstance(language, str):
            raise InvalidInput(f"language must be a name such as 'english', or None, got {language!r}")
        for name, value in (("k1", k1), ("b", b)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"{name} must be a number, got {value!r}")
        self.threads = threads
        self._native = _native.SparseIndex(kind, None if kind == "vectors" else language, float(k1), float(b))
        self._kind: str = kind

    @property
    def kind(self) -> str:
        """The kind: "bm25", "tfidf" or "vectors"."""
        return self._kind

    @property
    def language(self) -> str | None:
        """The language whose stems and stop words are used; None where words are taken as they are."""
        return self._native.settings[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the postings and the words take."""
        return self._native.nbytes

    def __repr__(self) -> str:
        what = "vectors" if self.kind == "vectors" else f"documents, {self.kind}, {self.language or 'any language'}"
        return f"<SparseIndex: {len(self):,} {what}>"

    def add(self, documents: Any, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add documents or sparse vectors, all or none of them; they are found by the next search.

        Args:
            documents: Texts (a list of str, or one), for bm25 and tfidf. For vectors: a list of dictionaries
                {place: number} or of lists of pairs (place, number), one of these, or a SciPy sparse matrix with a row
                for every vector. Numbers are kept as float32, and zeros are not kept.
            ids: Shape (n,), whole numbers from 0 on, not in the index yet. Default: counted up from the largest so far.

        Returns:
            int64 ids, shape (n,).

        Raises:
            InvalidInput: Not texts, or not vectors; NaN or infinity, a place given twice or out of range (it names the
                vector); ids not whole, negative or given twice.
            AlreadyExists: An id is in the index.
        """
        numbers = None if ids is None else as_ids(ids, "ids")
        if self.kind == "vectors":
            return self._native.add_vectors(_vectors(documents, "vectors")[0], numbers, self.threads)
        return self._native.add_texts(_texts(documents, "documents")[0], numbers, self.threads)

    def contains(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Which of these ids are in the index: bool, shape (n,)."""
        return self._native.contains(as_ids(ids, "ids"))

    @overload
    def search(
        self, queries: Any, k: int = 10, *, allow: ArrayLike | None = None, report: Literal[False] = False
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    @overload
    def search(
        self, queries: Any, k: int = 10, *, allow: ArrayLike | None = None, report: Literal[True]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]: ...
    def search(self, queries: Any, k: int = 10, *, allow: ArrayLike | None = None, report: bool = False) -> Any:
        """Find the k best documents for each query, best first. A document without a word of the query is no answer.

        Args:
            queries: A text or a list of texts; for vectors what `add` takes. One text, dictionary or list of pairs is
                one query, whose answers have shape (k,).
            k: Answers wanted, 1 or more.
            allow: Which documents may be answered: ids (integers; unknown ones are passed over), or a boolean mask with
                a place for every id, `mask[id]`. Scores are the same with it and without.
            report: Also return a `Report`: rows_scanned is the postings scored, rows_reread those of them that were
                looked up one by one, bytes_read their bytes.

        Returns:
            ids int64 (q, k) and scores float32 (q, k). Where fewer than k documents answer, the rest is id -1 and
            score -inf.

        Raises:
            InvalidInput: A query of another kind than the index, NaN or infinity, k < 1, a mask that is too short.
        """
        k = answers_wanted(k)
        allowed = None if allow is None else self._allowed(allow)
        started = time.perf_counter()
        if self.kind == "vectors":
            rows, one = _vectors(queries, "queries")
            ids, scores, counts = self._native.search_vectors(rows, k, allowed, self.threads)
        else:
            texts, one = _texts(queries, "queries")
            ids, scores, counts = self._native.search_texts(texts, k, allowed, self.threads)
        elapsed = time.perf_counter() - started
        count = len(ids)
        if one:
            ids, scores = ids[0], scores[0]
        if not report:
            return ids, scores
        return ids, scores, Report(self.kind, True, count, *counts, 1000 * elapsed)

    def terms(self, text: str) -> list[str]:
        """What the words of a text are searched by, in their order: folded, stemmed, without stop words.

        Raises:
            InvalidInput: Not a text, or the index is one of vectors.

        Example:
            >>> import nearfield as nf
            >>> nf.SparseIndex().terms("The cats of Nîmes")
            ['cat', 'nime']
        """
        self._check_text(text, "text")
        return self._native.terms(text)

    def highlights(self, text: str, query: str) -> list[tuple[int, int]]:
        """Where words of the query stand in a text, as (start, end) in characters: `text[start:end]` is the word.

        Words that differ in case, accents or ending (as far as the language knows) are the same word; stop words are
        not highlighted.

        Raises:
            InvalidInput: Not texts, or the index is one of vectors.

        Example:
            >>> import nearfield as nf
            >>> nf.SparseIndex().highlights("Two cats sat.", "a cat")
            [(4, 8)]
        """
        self._check_text(text, "text")
        self._check_text(query, "query")
        return self._native.highlights(text, query)

    def _check_text(self, value: object, name: str) -> None:
        if self.kind == "vectors":
            raise InvalidInput("an index of vectors has no words: use kind='bm25' or 'tfidf'")
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a text, got {value!r} ({type(value).__name__})")
        check_unicode(value, name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file. A failure leaves what was there before.

        Raises:
            StorageError: The file cannot be written.
        """
        with writing(path):
            self._native.save(os.fspath(path), self.threads)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None) -> SparseIndex:
        """Read an index that `save` wrote.

        Raises:
            NotFound: There is no such file.
            Corrupt: The file is not such an index, is cut short, or its bytes changed; or this version of nearfield
                makes other words of texts than the one that wrote it.
            FormatTooNew: It was written by a later nearfield.
            StorageError: The file cannot be read.
        """
        index = cls.__new__(cls)
        index.threads = threads
        with reading(path):
            index._native = _native.SparseIndex.load(os.fspath(path), index.threads)
        index._kind = index._native.settings[0]
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as folder:  # the words of documents are not kept, only their postings
            self.save(path := Path(folder) / "index.nfi")
            return _rebuild, (path.read_bytes(), self.threads)


def _rebuild(content: bytes, threads: int) -> SparseIndex:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "index.nfi").write_bytes(content)
        return SparseIndex.load(path, threads=threads)


def _texts(values: Any, name: str) -> tuple[list[str], bool]:
    """Texts, and whether it was a single one."""
    if isinstance(values, str):
        check_unicode(values, name)
        return [values], True
    if isinstance(values, bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name} must be a text or a list of texts, got {values!r} ({type(values).__name__})")
    found = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise InvalidInput(f"{name}[{i}] must be a text, got {text!r} ({type(text).__name__})")
        check_unicode(text, f"{name}[{i}]")
    return found, False


def _vectors(values: Any, name: str) -> tuple[_Rows, bool]:
    """Rows of a sparse matrix, and whether it was a single vector."""
    if hasattr(values, "tocsr"):
        matrix = values.tocsr(copy=True) if values.ndim == 2 else values.reshape(1, -1).tocsr(copy=True)
        matrix.sum_duplicates()
        return _checked(matrix.indptr, matrix.indices, matrix.data, name), values.ndim == 1
    one = isinstance(values, Mapping) or _is_pairs(values)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name} must be sparse vectors such as {{3: 0.5}}, got {values!r}")
    starts, places, numbers = [0], [], []
    for i, vector in enumerate([values] if one else values):
        entries = list(vector.items() if isinstance(vector, Mapping) else vector) if _is_vector(vector) else None
        if entries is None:
            raise InvalidInput(
                f"{name}[{i}] must be a dictionary {{place: number}} or a list of pairs (place, number), got {vector!r}"
            )
        for place, number in entries:
            places.append(whole(place, f"a place of {name}[{i}]"))
            numbers.append(number)
        starts.append(len(places))
    try:
        return _checked(starts, places, np.asarray(numbers, dtype=np.float64), name), one
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{name} must hold numbers by whole places: {error}") from None


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(np.ndim(part) == 0 for part in value)


def _is_pairs(values: Any) -> bool:
    """A vector as a list of pairs (which an empty list is not)."""
    return isinstance(values, list | tuple) and bool(values) and all(map(_is_pair, values))


def _is_vector(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_pairs(value) or (isinstance(value, list | tuple) and not value)


def _checked(starts: ArrayLike, places: ArrayLike, numbers: ArrayLike, name: str) -> _Rows:
    """Checks all numbers at once, and names the vector of the first wrong one."""
    starts, places = np.asarray(starts, dtype=np.int64), np.asarray(places, dtype=np.int64)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is refused as such
        values = np.asarray(numbers).astype(np.float32)
    row_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for wrong, what in (
        (~np.isfinite(values), "holds NaN or infinity: every number must be finite"),
        ((places < 0) | (places >= 2**32), "has a place out of range: places are whole numbers from 0 to 2**32 - 1"),
    ):
        if wrong.any():
            raise InvalidInput(f"{name}[{int(row_of[wrong][0])}] {what}")
    order = np.lexsort((places, row_of))
    twice = (np.diff(places[order]) == 0) & (np.diff(row_of[order]) == 0)
    if twice.any():
        at = order[1:][twice][0]
        raise InvalidInput(f"{name}[{int(row_of[at])}] has the place {int(places[at])} twice: give one number a place")
    return starts, np.ascontiguousarray(places, dtype=np.uint32), np.ascontiguousarray(values)
