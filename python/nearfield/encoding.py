"""A collection's embedder: loaded when the first text comes, and never mixed with another one's vectors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nearfield import inputs
from nearfield.catalog import mismatch_message
from nearfield.errors import EmbedderMismatch, InvalidInput
from nearfield.transaction import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nearfield.embed import Embedder, EmbedderLike


class Encoder:
    """Texts in, checked vectors out.

    Raises:
        EmbedderMismatch: the collection was filled by another embedder (told here if nothing must be loaded).
    """

    def __init__(self, spec: EmbedderLike | None, state: State) -> None:
        self.spec = spec
        self._embedder: Embedder | None = None
        if spec is not None and not isinstance(spec, (str, os.PathLike)):  # nothing to load
            self._check_identity(state, self._resolved())

    @property
    def embedder(self) -> Embedder | None:
        """What turns texts into vectors; None when the collection was opened with embedder=None."""
        return None if self.spec is None else self._resolved()

    def documents(self, state: State, texts: list[str]) -> tuple[NDArray[np.float32], str]:
        """The vectors of documents, shape (len(texts), dimension), and the identity of what made them."""
        embedder = self._fitting(state)
        return self._checked(state, embedder, embedder.encode_documents(texts), len(texts)), embedder.identity

    def queries(self, state: State, texts: list[str]) -> NDArray[np.float32]:
        """The vectors of queries, shape (len(texts), dimension)."""
        embedder = self._fitting(state)
        return self._checked(state, embedder, embedder.encode_queries(texts), len(texts))

    def _checked(
        self, state: State, embedder: Embedder, vectors: NDArray[np.float32], count: int
    ) -> NDArray[np.float32]:
        made = inputs.vectors(vectors, state.dimension, f"vectors of embedder {embedder.identity!r}")
        if len(made) != count:
            raise InvalidInput(f"the embedder {embedder.identity!r} returned {len(made)} vectors for {count} texts")
        return made

    def _fitting(self, state: State) -> Embedder:
        if self.spec is None:
            raise InvalidInput(
                f"collection {state.name!r} was opened with embedder=None, so it takes vectors only: "
                "give vectors, or open it with an embedder"
            )
        if state.embedder is None and state.next_row and self.spec == "default":
            raise InvalidInput(
                f"the vectors in collection {state.name!r} were given, not made from text, so a text cannot be "
                "compared with them: give vectors, or open the collection with embedder=<the one that made them>"
            )
        embedder = self._resolved()
        self._check_identity(state, embedder)
        return embedder

    def _resolved(self) -> Embedder:
        if self._embedder is None:
            from nearfield.embed import resolve

            assert self.spec is not None
            self._embedder = resolve(self.spec)
        return self._embedder

    def _check_identity(self, state: State, embedder: Embedder) -> None:
        if state.embedder not in (None, embedder.identity):
            raise EmbedderMismatch(mismatch_message(state, embedder.identity))
