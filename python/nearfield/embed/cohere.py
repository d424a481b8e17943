"""Cohere's embeddings (API version 2)."""

from __future__ import annotations

from typing import Any, Unpack

from nearfield.embed.remote import RemoteEmbedder, RemoteOptions, Role, service_options
from nearfield.remote import Key, Service

_KNOWN = {  # dimension and longest text in tokens
    "embed-v4.0": (1536, 128_000),
    "embed-english-v3.0": (1024, 512),
    "embed-multilingual-v3.0": (1024, 512),
    "embed-english-light-v3.0": (384, 512),
    "embed-multilingual-light-v3.0": (384, 512),
}


class CohereEmbedder(RemoteEmbedder):
    """A Cohere model. Documents and queries are told apart by its `input_type`; a text that is too long is an error.

    Args:
        model: "embed-v4.0" or another.
        **options: see `nearfield.embed.RemoteOptions`. The key is in `CO_API_KEY` or `COHERE_API_KEY`.

    Raises:
        Unauthorized: there is no key.

    Example:
        >>> from nearfield.embed import CohereEmbedder
        >>> embedder = CohereEmbedder("embed-v4.0", api_key="...")
        >>> embedder.dimension, embedder.identity
        (1536, 'cohere:embed-v4.0')
    """

    batch_size = 96  # the most that a request takes

    def __init__(self, model: str = "embed-v4.0", **options: Unpack[RemoteOptions]) -> None:
        self.model = model
        service = Service(
            "Cohere",
            options.get("base_url") or "https://api.cohere.com/v2",
            Key(options.get("api_key"), ("CO_API_KEY", "COHERE_API_KEY")),
            needs_key=True,
            **service_options(options),
        )
        dimension, max_tokens = _KNOWN.get(model, (None, None))
        super().__init__(
            service,
            f"cohere:{model}",
            dimension=dimension,
            max_tokens=max_tokens,
            prompts=("", ""),
            options=options,
        )

    def _request(self, texts: list[str], role: Role) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self.model,
            "texts": texts,
            "input_type": f"search_{role}",
            "embedding_types": ["float"],
            "truncate": "NONE",  # an error tells of a text that is too long; the default cuts it
        }
        if self._asked_dimensions is not None:
            body["output_dimension"] = self._asked_dimensions
        return "/embed", body

    def _parse(self, answer: Any) -> tuple[Any, int | None]:
        billed = (answer.get("meta") or {}).get("billed_units") or {}
        return answer["embeddings"]["float"], billed.get("input_tokens")
