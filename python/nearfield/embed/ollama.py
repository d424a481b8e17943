"""Models that Ollama runs, on this machine or another."""

from __future__ import annotations

import os
from typing import Any, Unpack

from nearfield.embed.prompts import prompts_of
from nearfield.embed.remote import RemoteEmbedder, RemoteOptions, Role, service_options
from nearfield.remote import Key, Service, ollama_address


class OllamaEmbedder(RemoteEmbedder):
    """An embedding model of Ollama. A text that is longer than the model reads is an error.

    Args:
        model: "nomic-embed-text" or another; get it with `ollama pull` first.
        prompts: what goes in front of documents and of queries; None: what the model is known to want.
        **options: see `nearfield.embed.RemoteOptions`. The address may be in `OLLAMA_HOST`.

    Example:
        >>> from nearfield.embed import OllamaEmbedder
        >>> OllamaEmbedder("all-minilm", base_url="http://localhost:11434").identity
        'ollama:all-minilm'
    """

    batch_size, concurrency = 32, 2  # one machine does all the work: more at once only wait for each other

    def __init__(
        self,
        model: str = "nomic-embed-text",
        *,
        prompts: tuple[str, str] | None = None,
        **options: Unpack[RemoteOptions],
    ) -> None:
        self.model = model.removesuffix(":latest")  # the same model by its other name
        address = ollama_address(options.get("base_url") or os.environ.get("OLLAMA_HOST"))
        service = Service("Ollama", address, Key(options.get("api_key")), **service_options(options))
        super().__init__(
            service,
            f"ollama:{self.model}",
            dimension=None,
            max_tokens=None,
            prompts=prompts_of(self.model, prompts),
            options=options,
        )

    def _variant(self, role: Role) -> str:
        return ""  # the prompts, if any, are in the text

    def _request(self, texts: list[str], role: Role) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "input": texts, "truncate": False}
        if self._asked_dimensions is not None:
            body["dimensions"] = self._asked_dimensions
        return "/api/embed", body

    def _parse(self, answer: Any) -> tuple[Any, int | None]:
        return answer["embeddings"], answer.get("prompt_eval_count")
