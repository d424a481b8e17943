"""A function of the user's as an embedder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.embed.texts import Asked, check_texts
from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class FunctionEmbedder(Asked):
    """Any function from a list of texts to an array (len(texts), dimension). What it returns is checked, not changed.

    Args:
        function: called with a list of texts; returns anything that NumPy makes a numeric 2-D array of.
        queries: another such function for queries; None: the same.
        dimension: the length of a vector; None: found by the first call.
        max_tokens: told to those who ask; texts are not cut here.
        name: what to be known by in a collection. None: module and name of `function`, which cannot tell two
            lambdas of one module apart.

    Raises:
        InvalidInput: `function` is not callable; later, when it returns a wrong shape, text, NaN or infinity.

    Example:
        >>> from nearfield.embed import FunctionEmbedder
        >>> embedder = FunctionEmbedder(lambda texts: [[len(text), 1.0] for text in texts], name="length")
        >>> embedder.encode_documents(["four", "seven77"])
        array([[4., 1.],
               [7., 1.]], dtype=float32)
        >>> embedder.dimension, embedder.identity
        (2, 'function:length')
    """

    def __init__(
        self,
        function: Callable[[list[str]], ArrayLike],
        *,
        queries: Callable[[list[str]], ArrayLike] | None = None,
        dimension: int | None = None,
        max_tokens: int | None = None,
        name: str | None = None,
    ) -> None:
        for given in (function, queries):
            if given is not None and not callable(given):
                raise InvalidInput(f"FunctionEmbedder: got {type(given).__name__} {given!r:.80}, not a function")
        self._documents, self._queries = function, queries or function
        self._dimension, self._max_tokens = dimension, max_tokens
        self._name = name or _name(function) + (f"+{_name(queries)}" if queries else "")

    @property
    def max_tokens(self) -> int | None:
        """As given."""
        return self._max_tokens

    @property
    def identity(self) -> str:
        """`function:` and the name given, or the module and name of the function."""
        return f"function:{self._name}"

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension).

        Raises:
            InvalidInput: a text is empty (its position is named), or the function returned something unfit.
        """
        return self._encode(self._documents, texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Like `encode_documents`, by the function for queries."""
        return self._encode(self._queries, texts)

    def _encode(self, function: Callable[[list[str]], ArrayLike], texts: Sequence[str]) -> NDArray[np.float32]:
        texts = check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors = self._checked(function(texts), len(texts))
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        return vectors

    def _checked(self, returned: ArrayLike, count: int) -> NDArray[np.float32]:
        who = f"the embedding function {self._name}"
        try:
            array = np.asarray(returned)
            if array.dtype.kind not in "fiub":
                raise ValueError(f"elements of type {array.dtype}")
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is told below
                vectors = np.ascontiguousarray(array, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"{who} returned {type(returned).__name__}, which is not an array of numbers ({error}); "
                "return one vector a text, all of the same length"
            ) from error
        wanted = "any" if self._dimension is None else self._dimension
        if (
            vectors.ndim != 2
            or vectors.shape[0] != count
            or vectors.shape[1] == 0
            or vectors.shape[1] != (self._dimension or vectors.shape[1])
        ):
            raise InvalidInput(
                f"{who} returned shape {vectors.shape} for {count} texts; it must return ({count}, {wanted})"
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise InvalidInput(f"{who} returned NaN or infinity (in float32) for texts[{int(finite.argmin())}]")
        return vectors


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
