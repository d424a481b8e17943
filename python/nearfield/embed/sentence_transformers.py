"""Any model that sentence-transformers can run, with torch."""

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


class SentenceTransformerEmbedder:
    """A sentence-transformers model. For models of the BERT family `LocalEmbedder` is faster and far smaller.

    The model's prompts for queries and documents are used when it has them. Texts longer than `max_tokens` are cut by
    the library without a word. The first use of a name downloads that model, as the library does.

    Args:
        model: a name or folder, or a `sentence_transformers.SentenceTransformer` that is already loaded.
        batch_size: texts a batch; None: the library's own choice.
        progress: show the library's progress bar.
        **options: passed to `SentenceTransformer(model, ...)`: device, trust_remote_code, truncate_dim and others.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        NotFound: the library cannot load a model of that name.

    Example:
        >>> from nearfield.embed import SentenceTransformerEmbedder
        >>> embedder = SentenceTransformerEmbedder("all-mpnet-base-v2", device="cpu")  # doctest: +SKIP
        >>> embedder.encode_documents(["A cat sleeps on the rug."]).shape  # doctest: +SKIP
        (1, 768)
    """

    def __init__(self, model: Any, *, batch_size: int | None = None, progress: bool = False, **options: Any) -> None:
        if isinstance(model, str | os.PathLike):
            library = require(
                "sentence_transformers", extra="sentence-transformers", purpose="SentenceTransformerEmbedder"
            )
            try:
                self.model = library.SentenceTransformer(os.fspath(model), **options)
            except (OSError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise NotFound(
                    f"sentence-transformers cannot load the model {os.fspath(model)!r} "
                    f"({type(error).__name__}: {reason}); check the name, or give a folder"
                ) from error
        elif hasattr(model, "encode") and not options:
            self.model = model
        else:
            raise InvalidInput(
                f"SentenceTransformerEmbedder: got {type(model).__name__}; give a name, a folder, "
                "or a loaded SentenceTransformer (and no options then)"
            )
        self._settings: dict[str, Any] = {"show_progress_bar": progress, "convert_to_numpy": True}
        if batch_size is not None:
            self._settings["batch_size"] = batch_size
        self._identity: str | None = None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        # Renamed in version 6 of the library; the old name warns there.
        ask = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        known = ask()
        return int(known) if known else int(self._encode("document", ["dimension"]).shape[1])

    @property
    def max_tokens(self) -> int | None:
        """The model's `max_seq_length`."""
        length = self.model.max_seq_length
        return None if length is None else int(length)

    @property
    def text_tokens(self) -> int | None:
        """How many tokens of a document are read: `max_tokens` without the marks around it and the longest prompt."""
        if self.max_tokens is None:
            return None
        prompts = ["", *(text for text in (self.model.prompts or {}).values() if text)]
        return self.max_tokens - max(len(self.model.tokenizer(prompt)["input_ids"]) for prompt in prompts)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `text` begins and ends, in characters; without the marks, and not cut at any limit."""
        options = {"add_special_tokens": False, "truncation": False, "verbose": False}
        return list(self.model.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"])

    @property
    def identity(self) -> str:
        """The hash of weights, modules, prompts and length: the same wherever the model's folder lies."""
        if self._identity is None:
            # No names of tensors or modules' paths: versions of the libraries differ in them.
            digest = hashlib.sha256()
            for tensor in self.model.parameters():
                digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(_bytes(tensor))
            digest.update(" ".join(f"{type(module).__name__} {_pooling(module)}" for module in self.model).encode())
            prompts = sorted((name, text) for name, text in (self.model.prompts or {}).items() if text)
            digest.update(f"{prompts} {self.max_tokens} {getattr(self.model, 'truncate_dim', None)}".encode())
            self._identity = f"sentence-transformers:{self.dimension}:{digest.hexdigest()[:16]}"
        return self._identity

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension), normalised if the model normalises.

        Raises:
            InvalidInput: a text is empty, only white space or not a string (its position is named).
        """
        return self._encode("document", texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Like `encode_documents`, with the model's prompt for queries."""
        return self._encode("query", texts)

    def _encode(self, kind: str, texts: Sequence[str]) -> NDArray[np.float32]:
        texts = check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        encode = getattr(self.model, f"encode_{kind}", None)  # since version 5 of the library
        if encode is not None:
            vectors = encode(texts, **self._settings)
        else:
            names = ("query",) if kind == "query" else ("document", "passage", "corpus")
            prompt = next((name for name in names if (self.model.prompts or {}).get(name)), None)
            vectors = self.model.encode(texts, prompt_name=prompt, **self._settings)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _pooling(module: Any) -> list[str]:
    """The pooling modes of a module, told alike by old and new versions of the library."""
    settings = module.get_config_dict() if type(module).__name__ == "Pooling" else {}
    mode = settings.get("pooling_mode")
    modes = [
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    ]
    modes += [mode] if isinstance(mode, str) else list(mode or ())
    return sorted(mode.removesuffix("_tokens").removesuffix("_token") for mode in modes)


def _bytes(tensor: Any) -> memoryview:
    """A tensor's bytes, whatever its type: NumPy has no bfloat16."""
    torch = require("torch", extra="sentence-transformers", purpose="SentenceTransformerEmbedder")
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
