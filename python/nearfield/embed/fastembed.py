"""Models that fastembed runs: ONNX on the CPU, without torch, with the models' own prompts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._optional import require
from nearfield.embed.texts import Asked, check_texts
from nearfield.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FastEmbedEmbedder(Asked):
    """A text model of fastembed. Its first use downloads the model, as the library does.

    Texts that are longer than the model reads are cut by the library without a word.

    Args:
        model: a name that `fastembed.TextEmbedding.list_supported_models()` lists, or a `TextEmbedding` already loaded.
        batch_size: texts a batch.
        **options: passed to `TextEmbedding(model, ...)`: cache_dir, threads, specific_model_path and others.

    Raises:
        MissingExtra: fastembed is not installed.
        NotFound: the library knows no such model, or cannot get it.

    Example:
        >>> from nearfield.embed import FastEmbedEmbedder
        >>> embedder = FastEmbedEmbedder("BAAI/bge-small-en-v1.5")  # doctest: +SKIP
        >>> embedder.identity  # doctest: +SKIP
        'fastembed:BAAI/bge-small-en-v1.5'
    """

    def __init__(self, model: Any = "BAAI/bge-small-en-v1.5", *, batch_size: int = 64, **options: Any) -> None:
        if isinstance(model, str):
            self.model = load(library("FastEmbedEmbedder").TextEmbedding, model, options)
        elif hasattr(model, "query_embed") and not options:
            self.model = model
        else:
            raise InvalidInput(
                f"FastEmbedEmbedder: got {type(model).__name__}; give a model's name, or a loaded TextEmbedding"
            )
        self._batch = {"batch_size": batch_size}

    @property
    def max_tokens(self) -> int | None:
        """Not told by the library."""
        return None

    @property
    def identity(self) -> str:
        """`fastembed:` and the model's name."""
        return f"fastembed:{self.model.model_name}"

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension), in the order given.

        Raises:
            InvalidInput: a text is empty, only white space or not a string (its position is named).
        """
        texts = check_texts(texts)
        return self._stacked(self.model.passage_embed(texts, **self._batch) if texts else [])

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Like `encode_documents`, with the model's prompt for queries if it has one."""
        texts = check_texts(texts)
        return self._stacked(self.model.query_embed(texts, **self._batch) if texts else [])

    def _stacked(self, vectors: Any) -> NDArray[np.float32]:
        found = list(vectors)
        return np.stack(found).astype(np.float32) if found else np.empty((0, self.dimension), dtype=np.float32)


def library(purpose: str) -> Any:
    """The package fastembed. The runtime that it brings reports its use over the network unless told not to."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return require("fastembed", extra="fastembed", purpose=purpose)


def load(make: Any, model: str, options: dict[str, Any]) -> Any:
    """`make(model, **options)` of fastembed, its failures told in one sentence."""
    try:
        return make(model, **options)
    except (ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise NotFound(
            f"fastembed cannot load the model {model!r} ({type(error).__name__}: {reason}); "
            "check the name and the network, or give specific_model_path="
        ) from error
