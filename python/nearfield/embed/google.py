"""Google's embeddings, by the Gemini API (what the SDK google-genai sends)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from nearfield.embed.prompts import prompts_of
from nearfield.embed.remote import RemoteEmbedder, RemoteOptions, Role, service_options
from nearfield.remote import Key, Service

GOOGLE = "https://generativelanguage.googleapis.com/v1beta"
GOOGLE_KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_KNOWN = {  # dimension and longest text in tokens; what is longer is cut by the service without a word
    "gemini-embedding-001": (3072, 2048),
    "gemini-embedding-2": (3072, 8192),
    "gemini-embedding-2-preview": (3072, 8192),
}


def google_headers(key: str) -> Mapping[str, str]:
    """Where Google reads the key from."""
    return {"x-goog-api-key": key}


class GoogleEmbedder(RemoteEmbedder):
    """A Gemini embedding model. Documents and queries are told apart by its task types. Vectors have length 1.

    Args:
        model: "gemini-embedding-001" or a later one.
        **options: see `nearfield.embed.RemoteOptions`. The key is in `GOOGLE_API_KEY` or `GEMINI_API_KEY`.

    Raises:
        Unauthorized: there is no key.

    Example:
        >>> from nearfield.embed import GoogleEmbedder
        >>> GoogleEmbedder("gemini-embedding-001", dimensions=768, api_key="...").identity
        'google:gemini-embedding-001:768'
    """

    batch_size = 100  # the most that batchEmbedContents takes

    def __init__(self, model: str = "gemini-embedding-001", **options: Unpack[RemoteOptions]) -> None:
        self.model = model.removeprefix("models/")
        service = Service(
            "Google",
            options.get("base_url") or GOOGLE,
            Key(options.get("api_key"), GOOGLE_KEYS),
            google_headers,
            needs_key=True,
            **service_options(options),
        )
        dimension, max_tokens = _KNOWN.get(self.model, (None, None))
        prompts = prompts_of(self.model)
        self._tasks = not any(prompts)  # later models read the task from the text instead
        super().__init__(
            service,
            f"google:{self.model}",
            dimension=dimension,
            max_tokens=max_tokens,
            prompts=prompts,
            options=options,
        )

    def _request(self, texts: list[str], role: Role) -> tuple[str, dict[str, Any]]:
        settings: dict[str, Any] = {"model": f"models/{self.model}"}
        if self._tasks:
            settings["taskType"] = f"RETRIEVAL_{role.upper()}"
        if self._asked_dimensions is not None:
            settings["outputDimensionality"] = self._asked_dimensions
        requests = [settings | {"content": {"parts": [{"text": text}]}} for text in texts]
        return f"/models/{self.model}:batchEmbedContents", {"requests": requests}

    def _parse(self, answer: Any) -> tuple[Any, int | None]:
        vectors = np.array([row["values"] for row in answer["embeddings"]], dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)  # shortened vectors come without length 1
        return vectors / np.where(lengths == 0, 1, lengths), (answer.get("usageMetadata") or {}).get("promptTokenCount")
