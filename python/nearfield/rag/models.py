"""Language models: four wire formats on one client, and functions. A model turns messages into pieces of text."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack, runtime_checkable

from nearfield.embed.google import GOOGLE, GOOGLE_KEYS, google_headers
from nearfield.errors import InvalidInput, RemoteError
from nearfield.remote import Clock, Key, Service, bearer, ollama_address, split_address

Message: TypeAlias = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
_CUT = "the answer was cut at the model's limit of tokens; raise max_tokens"
_OPENAI = "https://api.openai.com/v1"


@runtime_checkable
class LanguageModel(Protocol):
    """What answering needs of a model."""

    @property
    def identity(self) -> str:
        """What it is called in an answer."""

    def generate(self, messages: Sequence[Message], *, whole: bool) -> Generator[str, None, str | None]:
        """The answer in pieces; at the end a note for the reader, if there is one.

        whole: nobody looks at the pieces before the last one, so a connection that is cut may be tried again.
        """


LLM: TypeAlias = "str | LanguageModel | Callable[[list[Message]], str | Iterable[str]]"


class ModelOptions(TypedDict, total=False):
    """What every remote model takes by name.

    api_key: the key; left out, the vendor's usual environment variable. base_url: another address.
    temperature: how freely it chooses its words; left out, the service's own. max_tokens: the longest answer.
    extra: more fields of the request's JSON.
    timeout, retries, max_wait, requests_per_minute, clock: see `nearfield.remote.Service`.
    """

    api_key: str | None
    base_url: str | None
    temperature: float | None
    max_tokens: int | None
    extra: Mapping[str, Any]
    timeout: float
    retries: int
    max_wait: float
    requests_per_minute: int | None
    clock: Clock


class RemoteModel(ABC):
    """The models of OpenAI, Google, Anthropic and Ollama are subclasses of this; use those."""

    def __init__(self, service: Service, identity: str, model: str, options: ModelOptions) -> None:
        if unknown := options.keys() - ModelOptions.__annotations__.keys():
            known = ", ".join(sorted(ModelOptions.__annotations__))
            raise InvalidInput(f"unknown option {min(unknown)!r}; there is {known}")
        self.service, self.model, self._identity = service, model, identity
        self._temperature, self._max_tokens = options.get("temperature"), options.get("max_tokens")
        self._extra = dict(options.get("extra", {}))
        service.require_key()

    @property
    def identity(self) -> str:
        """The service's kind and the model's name."""
        return self._identity

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity!r}, {self.service.base_url!r})"

    @abstractmethod
    def _request(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        """The path and the JSON that ask for a streamed answer."""

    @abstractmethod
    def _read(self, event: Any) -> tuple[str, str | None]:
        """The text in an event, and why the answer ends there, if it does."""

    def generate(self, messages: Sequence[Message], *, whole: bool) -> Generator[str, None, str | None]:
        """See `LanguageModel`.

        Raises:
            Unauthorized, RateLimited, Unreachable, RemoteError: the service failed, or what it sent is no answer.
        """
        path, body = self._request(messages)
        ended: str | None = None
        for event in self._events(self.service.lines(path, body | self._extra, whole=whole)):
            try:
                piece, reason = self._read(event)
            except (KeyError, TypeError, IndexError, AttributeError):
                raise RemoteError(f"{self.service.where} sent JSON that is no answer: {_short(event)}") from None
            ended = reason or ended
            if not isinstance(piece, str):
                raise RemoteError(f"{self.service.where} sent JSON that is no answer: {_short(event)}")
            if piece:
                yield piece
        if ended is None:
            raise RemoteError(f"the answer of {self.service.where} stopped before its end")
        if ended.lower() in ("length", "max_tokens"):
            return _CUT
        if ended.lower() in ("stop", "end_turn", "stop_sequence", "done"):
            return None
        return f"{self.service.name} ended the answer early: {ended}"

    def _events(self, lines: Iterator[str]) -> Iterator[Any]:
        """The JSON of server-sent events (or of lines), without the marks around it."""
        for line in lines:
            kind, colon, data = line.partition(":")
            if colon and kind in ("event", "id", "retry", ""):  # "" begins a comment
                continue
            text = data.strip() if colon and kind == "data" else line
            if text == "[DONE]":
                return
            try:
                event = json.loads(text)
            except ValueError:
                raise RemoteError(f"{self.service.where} sent something that is no answer: {_short(line)}") from None
            if isinstance(event, dict) and event.get("error"):
                error = event["error"]
                told = error.get("message", error) if isinstance(error, dict) else error
                raise RemoteError(f"{self.service.where} failed while it answered: {_short(told)}")
            yield event


class OpenAIModel(RemoteModel):
    """A chat model of OpenAI, or of any server with its `/chat/completions`: vLLM, llama.cpp, LM Studio, LiteLLM.

    Args:
        model: "gpt-4.1-mini", or the name that the server gives its model.
        **options: see `ModelOptions`. The key is in `OPENAI_API_KEY`, the address may be in `OPENAI_BASE_URL`.

    Raises:
        Unauthorized: there is no key for OpenAI itself.
    """

    def __init__(self, model: str, **options: Unpack[ModelOptions]) -> None:
        address = options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        self._own = address.rstrip("/") == _OPENAI
        key = Key(options.get("api_key"), ("OPENAI_API_KEY",) if self._own or not options.get("base_url") else ())
        name = "OpenAI" if self._own else "the model server"
        super().__init__(
            _service(name, address, key, options, needs_key=self._own),
            f"{'openai' if self._own else 'openai-compatible'}:{model}",
            model,
            options,
        )

    def _request(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "stream": True}
        if self._temperature is not None:
            body["temperature"] = self._temperature
        if self._max_tokens is not None:
            body["max_completion_tokens" if self._own else "max_tokens"] = self._max_tokens
        return "/chat/completions", body

    def _read(self, event: Any) -> tuple[str, str | None]:
        if not event["choices"]:  # the last event may hold usage alone
            return "", None
        choice = event["choices"][0]
        if "message" in choice:  # of a server that does not stream: all of it at once
            return choice["message"]["content"] or "", choice.get("finish_reason") or "stop"
        return (choice.get("delta") or {}).get("content") or "", choice.get("finish_reason")


class GoogleModel(RemoteModel):
    """A Gemini model.

    Args:
        model: "gemini-2.5-flash" or another.
        **options: see `ModelOptions`. The key is in `GOOGLE_API_KEY` or `GEMINI_API_KEY`.

    Raises:
        Unauthorized: there is no key.
    """

    def __init__(self, model: str, **options: Unpack[ModelOptions]) -> None:
        key = Key(options.get("api_key"), GOOGLE_KEYS)
        service = _service("Google", options.get("base_url") or GOOGLE, key, options, google_headers, needs_key=True)
        super().__init__(service, f"google:{model}", model.removeprefix("models/"), options)

    def _request(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        system, turns = _apart(messages)
        roles = {"user": "user", "assistant": "model"}
        body: dict[str, Any] = {
            "contents": [{"role": roles[turn["role"]], "parts": [{"text": turn["content"]}]} for turn in turns]
        }
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        settings = {"temperature": self._temperature, "maxOutputTokens": self._max_tokens}
        if given := {name: value for name, value in settings.items() if value is not None}:
            body["generationConfig"] = given
        return f"/models/{self.model}:streamGenerateContent?alt=sse", body

    def _read(self, event: Any) -> tuple[str, str | None]:
        if blocked := (event.get("promptFeedback") or {}).get("blockReason"):
            return "", f"the question was blocked ({blocked})"
        if "usageMetadata" in event and not event.get("candidates"):
            return "", None
        candidate = event["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        return "".join(part.get("text", "") for part in parts if not part.get("thought")), candidate.get("finishReason")


class AnthropicModel(RemoteModel):
    """A Claude model.

    Args:
        model: its name as Anthropic writes it.
        **options: see `ModelOptions`; `max_tokens` is 2,048 when left out. The key is in `ANTHROPIC_API_KEY`.

    Raises:
        Unauthorized: there is no key.
    """

    def __init__(self, model: str, **options: Unpack[ModelOptions]) -> None:
        key = Key(options.get("api_key"), ("ANTHROPIC_API_KEY",))
        address = options.get("base_url") or "https://api.anthropic.com"
        service = _service("Anthropic", address, key, options, _anthropic_headers, needs_key=True)
        super().__init__(service, f"anthropic:{model}", model, options)

    def _request(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        system, turns = _apart(messages)
        body: dict[str, Any] = {"model": self.model, "messages": turns, "stream": True}
        body["max_tokens"] = self._max_tokens or 2048
        if system:
            body["system"] = system
        if self._temperature is not None:
            body["temperature"] = self._temperature
        return "/v1/messages", body

    def _read(self, event: Any) -> tuple[str, str | None]:
        if event["type"] == "content_block_delta" and event["delta"].get("type") == "text_delta":
            return event["delta"]["text"], None
        if event["type"] == "message_delta":
            return "", event["delta"].get("stop_reason")
        return "", None


class OllamaModel(RemoteModel):
    """A chat model of Ollama, on this machine or another.

    Args:
        model: "llama3.2" or another; get it with `ollama pull` first.
        **options: see `ModelOptions`. The address may be in `OLLAMA_HOST`.
    """

    def __init__(self, model: str, **options: Unpack[ModelOptions]) -> None:
        address = ollama_address(options.get("base_url") or os.environ.get("OLLAMA_HOST"))
        super().__init__(
            _service("Ollama", address, Key(options.get("api_key")), options), f"ollama:{model}", model, options
        )

    def _request(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "stream": True}
        settings = {"temperature": self._temperature, "num_predict": self._max_tokens}
        if given := {name: value for name, value in settings.items() if value is not None}:
            body["options"] = given
        return "/api/chat", body

    def _read(self, event: Any) -> tuple[str, str | None]:
        reason = event.get("done_reason") or "done"
        return event["message"].get("content") or "", reason if event.get("done") else None


class FunctionModel:
    """A function from a list of messages to a text, or to pieces of a text, as a model."""

    def __init__(self, function: Callable[[list[Message]], str | Iterable[str]]) -> None:
        self._function = function
        self.identity = f"function:{getattr(function, '__qualname__', type(function).__qualname__)}"

    def generate(self, messages: Sequence[Message], *, whole: bool) -> Generator[str, None, str | None]:
        """See `LanguageModel`.

        Raises:
            InvalidInput: the function returned something else than text.
        """
        returned = self._function([dict(message) for message in messages])
        wrong = f"the llm {self.identity} returned {{}}; it must return a text, or an iterable of texts"
        if not isinstance(returned, Iterable) or isinstance(returned, bytes | Mapping):
            raise InvalidInput(wrong.format(type(returned).__name__))
        for piece in [returned] if isinstance(returned, str) else returned:
            if not isinstance(piece, str):
                raise InvalidInput(wrong.format(f"pieces of type {type(piece).__name__}"))
            yield piece
        return None


_KINDS: dict[str, Callable[..., RemoteModel]] = {
    "openai": OpenAIModel,
    "google": GoogleModel,
    "anthropic": AnthropicModel,
    "ollama": OllamaModel,
}


def resolve(spec: LLM) -> LanguageModel:
    """The model that `spec` stands for: "openai:<model>", "openai:<model>@<address>" (any server that speaks its
    format), "google:", "anthropic:" or "ollama:" and a model; a model; or a function from messages to text.

    Raises:
        InvalidInput: it is none of these.
        Unauthorized: it needs a key, and there is none.
    """
    if isinstance(spec, str):
        kind, _, model = spec.partition(":")
        if kind not in _KINDS or not model:
            known = ", ".join(f"{name}:<model>" for name in _KINDS)
            raise InvalidInput(f"llm: got {spec!r}; give one of {known}, or a function from messages to text")
        model, address = split_address(model)
        return _KINDS[kind](model) if address is None else _KINDS[kind](model, base_url=address)
    if not isinstance(spec, type) and hasattr(spec, "generate") and hasattr(spec, "identity"):
        return spec
    if callable(spec) and not isinstance(spec, type):
        return FunctionModel(spec)
    raise InvalidInput(f"llm: got {type(spec).__name__} {spec!r:.80}; give 'openai:<model>', a model, or a function")


def _service(
    name: str,
    address: str,
    key: Key,
    options: ModelOptions,
    headers: Callable[[str], Mapping[str, str]] = bearer,
    *,
    needs_key: bool = False,
) -> Service:
    return Service(
        name,
        address,
        key,
        headers,
        needs_key=needs_key,
        timeout=options.get("timeout", 120.0),
        retries=options.get("retries", 4),
        max_wait=options.get("max_wait", 60.0),
        requests_per_minute=options.get("requests_per_minute"),
        clock=options.get("clock") or Clock(),
    )


def _anthropic_headers(key: str) -> Mapping[str, str]:
    return {**bearer(key), "anthropic-version": "2026-10-21"}


def _apart(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The system's words, and the turns of the conversation."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return system, [dict(message) for message in messages if message["role"] != "system"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return line if len(line) <= 160 else line[:160] + "…"
