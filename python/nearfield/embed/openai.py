"""OpenAI's embeddings, and every server that speaks the same format: vLLM, llama.cpp, LM Studio, TEI, LiteLLM."""

from __future__ import annotations

import base64
import os
from typing import Any, Unpack

import numpy as np

from nearfield.embed.prompts import prompts_of
from nearfield.embed.remote import RemoteEmbedder, RemoteOptions, Role, service_options
from nearfield.remote import Key, Service

_HOME = "https://api.openai.com/v1"
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_MAX_TOKENS = 8191


class OpenAIEmbedder(RemoteEmbedder):
    """A model of OpenAI, or of any server with its `/embeddings`: give `base_url`, and no key if it wants none.

    Args:
        model: "text-embedding-3-small", or the name that the server gives its model.
        prompts: what goes in front of documents and of queries; None: what the model is known to want, mostly nothing.
        **options: see `nearfield.embed.RemoteOptions`. The key is in `OPENAI_API_KEY`, the address may be in
            `OPENAI_BASE_URL`.

    Raises:
        Unauthorized: there is no key for OpenAI itself.

    Example:
        >>> from nearfield.embed import OpenAIEmbedder
        >>> embedder = OpenAIEmbedder("BAAI/bge-m3", base_url="http://localhost:8000/v1", dimensions=None)
        >>> embedder.identity
        'openai-compatible:BAAI/bge-m3'
    """

    batch_size, batch_tokens = 256, 100_000  # OpenAI takes 2,048 texts and 300,000 tokens a request

    def __init__(self, model: str, *, prompts: tuple[str, str] | None = None, **options: Unpack[RemoteOptions]) -> None:
        address = options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or _HOME
        own = address.rstrip("/") == _HOME
        self.model, self._own = model, own
        # The key of OpenAI is not sent to other servers unless it is given for them.
        key = Key(options.get("api_key"), ("OPENAI_API_KEY",) if own or not options.get("base_url") else ())
        service = Service(
            "OpenAI" if own else "the embedding server", address, key, needs_key=own, **service_options(options)
        )
        super().__init__(
            service,
            f"{'openai' if own else 'openai-compatible'}:{model}",
            dimension=_DIMENSIONS.get(model) if own else None,
            max_tokens=_MAX_TOKENS if own else None,
            prompts=prompts_of(model, prompts),
            options=options,
        )

    def _variant(self, role: Role) -> str:
        return ""  # the prompts, if any, are in the text

    def _request(self, texts: list[str], role: Role) -> tuple[str, dict[str, Any]]:
        # base64 is a quarter of the bytes; not every other server knows it.
        body: dict[str, Any] = {
            "model": self.model,
            "input": texts,
            "encoding_format": "base64" if self._own else "float",
        }
        if self._asked_dimensions is not None:
            body["dimensions"] = self._asked_dimensions
        return "/embeddings", body

    def _parse(self, answer: Any) -> tuple[Any, int | None]:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = [row["embedding"] for row in rows]
        if vectors and isinstance(vectors[0], str):
            vectors = [np.frombuffer(base64.b64decode(vector, validate=True), dtype="<f4") for vector in vectors]
        return vectors, (answer.get("usage") or {}).get("total_tokens")
