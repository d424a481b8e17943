"""Embedders: what turns texts into vectors.

On this machine: `LocalEmbedder` (BERT-family encoders without torch), `SentenceTransformerEmbedder` (any
sentence-transformers model), `FastEmbedEmbedder`, `Model2VecEmbedder`, `ClipEmbedder` (pictures), `FunctionEmbedder`
(a function of yours). Over the network: `OpenAIEmbedder` (and every server that speaks its format), `GoogleEmbedder`,
`CohereEmbedder`, `OllamaEmbedder`. Anything with the five members of `Embedder` is one. Only `resolve` decides which of
them a word such as "default" or "openai:text-embedding-3-small" means.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable
from weakref import WeakValueDictionary

from nearfield.errors import InvalidInput
from nearfield.remote import split_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from nearfield.embed.cache import CacheWarning as CacheWarning
    from nearfield.embed.clip import ClipEmbedder as ClipEmbedder
    from nearfield.embed.clip import find_pictures as find_pictures
    from nearfield.embed.cohere import CohereEmbedder as CohereEmbedder
    from nearfield.embed.fastembed import FastEmbedEmbedder as FastEmbedEmbedder
    from nearfield.embed.function import FunctionEmbedder as FunctionEmbedder
    from nearfield.embed.google import GoogleEmbedder as GoogleEmbedder
    from nearfield.embed.local import LocalEmbedder as LocalEmbedder
    from nearfield.embed.model2vec import Model2VecEmbedder as Model2VecEmbedder
    from nearfield.embed.ollama import OllamaEmbedder as OllamaEmbedder
    from nearfield.embed.openai import OpenAIEmbedder as OpenAIEmbedder
    from nearfield.embed.remote import RemoteOptions as RemoteOptions
    from nearfield.embed.sentence_transformers import SentenceTransformerEmbedder as SentenceTransformerEmbedder
    from nearfield.embed.texts import TruncationWarning as TruncationWarning

_HOMES = {
    "CacheWarning": "cache",
    "ClipEmbedder": "clip",
    "CohereEmbedder": "cohere",
    "FastEmbedEmbedder": "fastembed",
    "FunctionEmbedder": "function",
    "GoogleEmbedder": "google",
    "LocalEmbedder": "local",
    "Model2VecEmbedder": "model2vec",
    "OllamaEmbedder": "ollama",
    "OpenAIEmbedder": "openai",
    "RemoteOptions": "remote",
    "SentenceTransformerEmbedder": "sentence_transformers",
    "TruncationWarning": "texts",
    "find_pictures": "clip",
}
_SCHEMES = {  # the word before the colon of a spec such as "openai:text-embedding-3-small"
    "openai": "OpenAIEmbedder",
    "google": "GoogleEmbedder",
    "cohere": "CohereEmbedder",
    "ollama": "OllamaEmbedder",
    "fastembed": "FastEmbedEmbedder",
    "model2vec": "Model2VecEmbedder",
    "sentence-transformers": "SentenceTransformerEmbedder",
    "clip": "ClipEmbedder",
}
__all__ = ["Embedder", "EmbedderLike", "from_identity", "resolve", *_HOMES]


@runtime_checkable
class Embedder(Protocol):
    """What a collection needs of an embedder."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""

    @property
    def max_tokens(self) -> int | None:
        """The longest text, in tokens, that is read to its end; None when there is no limit or none is known."""

    @property
    def identity(self) -> str:
        """Equal for two embedders, in any process, exactly when their vectors may be compared."""

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of texts that are to be found: float32 (len(texts), dimension), in the order given."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of texts that are asked: float32 (len(texts), dimension), in the order given."""


EmbedderLike: TypeAlias = "str | os.PathLike[str] | Embedder | Callable[[list[str]], ArrayLike]"

# A model takes some hundred megabytes: collections of one process that ask for the same one share it.
_shared: WeakValueDictionary[tuple[str, str | None], Any] = WeakValueDictionary()


def resolve(spec: EmbedderLike) -> Embedder:
    """Return the embedder that `spec` stands for.

    Args:
        spec: one of
            - "default": `LocalEmbedder()`, all-MiniLM-L6-v2, from files that are already on this machine;
            - "openai:<model>", "google:", "cohere:", "ollama:", "fastembed:", "model2vec:", "sentence-transformers:" or
              "clip:" and a model: that embedder with its usual settings; "openai:<model>@http://localhost:8000/v1" is
              any server that speaks OpenAI's format, and "ollama:<model>@<address>" one on another machine;
            - a model's name or folder: `LocalEmbedder(spec)`, which may download a model that is not here yet;
            - an `Embedder`: itself;
            - a function from a list of texts to an array (n, dimension): `FunctionEmbedder(spec)`.

    Raises:
        InvalidInput: `spec` is none of these, or the model is not of the BERT family.
        NotFound: there is no such model.
        MissingExtra: a package that this embedder needs is not installed.
        Unauthorized: a remote embedder has no key.

    Example:
        >>> from nearfield.embed import resolve
        >>> def letters(texts):
        ...     return [[text.count("a"), text.count("b")] for text in texts]
        >>> resolve(letters).encode_documents(["abba"])
        array([[2., 2.]], dtype=float32)
    """
    if isinstance(spec, str | os.PathLike):
        key = (os.fspath(spec), os.environ.get("NEARFIELD_MODELS"))
        embedder = _shared.get(key)
        if embedder is None:
            embedder = _shared[key] = _named(spec)
        return cast("Embedder", embedder)
    # Not isinstance(spec, Embedder): it reads the properties, and reading a dimension may cost a call.
    if not isinstance(spec, type) and all(
        callable(getattr(spec, name, None)) for name in ("encode_documents", "encode_queries")
    ):
        return cast("Embedder", spec)
    if isinstance(spec, type) or hasattr(spec, "encode"):  # a sentence-transformers model is callable, but not on texts
        name = spec.__name__ if isinstance(spec, type) else type(spec).__name__
        raise InvalidInput(
            f"embedder: got {name}, which is not an embedder itself; "
            "give an instance, or wrap a sentence-transformers model: SentenceTransformerEmbedder(model)"
        )
    if callable(spec):
        from nearfield.embed.function import FunctionEmbedder

        return FunctionEmbedder(spec)
    raise InvalidInput(
        f"embedder: got {type(spec).__name__} {spec!r:.80}; give 'default', a model's name or folder, "
        "an embedder, or a function from a list of texts to an array"
    )


def _named(spec: str | os.PathLike[str]) -> Any:
    scheme, colon, model = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if colon and scheme in _SCHEMES:
        if not model:
            raise InvalidInput(f"embedder: got {spec!r}; name a model behind the colon")
        make = __getattr__(_SCHEMES[scheme])
        model, address = split_address(model)
        return make(model) if address is None else make(model, base_url=address)
    from nearfield.embed.local import LocalEmbedder

    if spec == "default":
        return LocalEmbedder()
    return LocalEmbedder(Path(spec) if isinstance(spec, os.PathLike) else spec)


def from_identity(identity: str) -> Embedder | None:
    """The embedder that has this identity, if a name and the environment are enough to make it; else None.

    That holds for the remote ones with their usual settings (and `dimensions`), for fastembed and CLIP. What is known
    by the hash of its weights cannot be found that way.

    Raises:
        Unauthorized: a remote embedder has no key.

    Example:
        >>> from nearfield.embed import from_identity
        >>> from_identity("ollama:all-minilm").identity
        'ollama:all-minilm'
        >>> from_identity("sentence-transformers:768:0123456789abcdef") is None
        True
    """
    scheme, _, model = identity.partition(":")
    scheme = "openai" if scheme == "openai-compatible" else scheme
    if scheme not in ("openai", "google", "cohere", "ollama", "fastembed", "clip"):
        return None
    make = __getattr__(_SCHEMES[scheme])
    if scheme in ("fastembed", "clip"):
        return cast("Embedder", make(model))
    # What follows the model may be its own tag, a number of dimensions, or the mark of prompts: what fits counts.
    for name in (model, re.sub(r":[0-9a-f]{8}$", "", model)):
        short = re.fullmatch(r"(.+):(\d+)", name)
        for embedder in (make(name), *((make(short[1], dimensions=int(short[2])),) if short else ())):
            if embedder.identity == identity:
                return cast("Embedder", embedder)
    return None


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nearfield.embed' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"nearfield.embed.{_HOMES[name]}"), name)
