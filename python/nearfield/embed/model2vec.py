"""Static embeddings: a table of vectors, one a token. Hundreds of times faster than a transformer, and less exact."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._optional import require
from nearfield.embed.texts import check_texts
from nearfield.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Model2VecEmbedder:
    """A model2vec model. It reads a text to its end, however long.

    Args:
        model: a name or folder, or a `model2vec.StaticModel` already loaded. A name is downloaded when it is not here.

    Raises:
        MissingExtra: model2vec is not installed.
        NotFound: the library cannot load a model of that name.

    Example:
        >>> from nearfield.embed import Model2VecEmbedder
        >>> embedder = Model2VecEmbedder("minishlab/potion-base-8M")  # doctest: +SKIP
        >>> embedder.encode_documents(["A cat sleeps on the rug."]).shape  # doctest: +SKIP
        (1, 256)
    """

    def __init__(self, model: Any = "minishlab/potion-base-8M") -> None:
        if isinstance(model, str | os.PathLike):
            library = require("model2vec", extra="model2vec", purpose="Model2VecEmbedder")
            try:
                self.model = library.StaticModel.from_pretrained(os.fspath(model))
            except (OSError, ValueError, KeyError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise NotFound(
                    f"model2vec cannot load the model {os.fspath(model)!r} ({type(error).__name__}: {reason}); "
                    "check the name, or give a folder"
                ) from error
        elif hasattr(model, "embedding") and hasattr(model, "encode"):
            self.model = model
        else:
            raise InvalidInput(
                f"Model2VecEmbedder: got {type(model).__name__}; give a name, a folder, or a model2vec.StaticModel"
            )
        self._identity: str | None = None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self.model.embedding.shape[1])

    @property
    def max_tokens(self) -> int | None:
        """None: there is no limit."""
        return None

    @property
    def identity(self) -> str:
        """The hash of the table and of whether vectors get length 1: the same wherever the model's folder lies."""
        if self._identity is None:
            digest = hashlib.sha256(np.ascontiguousarray(self.model.embedding).tobytes())
            digest.update(f"{self.model.embedding.dtype} {bool(getattr(self.model, 'normalize', False))}".encode())
            self._identity = f"model2vec:{self.dimension}:{digest.hexdigest()[:16]}"
        return self._identity

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension), in the order given.

        Raises:
            InvalidInput: a text is empty, only white space or not a string (its position is named).
        """
        texts = check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors = self.model.encode(texts, max_length=None, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The same as `encode_documents`."""
        return self.encode_documents(texts)
