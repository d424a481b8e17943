"""Other people's servers: one polite client for all of them.

`Service` sends JSON and reads JSON or a stream of lines. It keeps within the limits on requests and tokens, tries again
what may pass (full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS 2015), waits as long as a `Retry-After`
asks, and tells every failure in one sentence that never holds the key. It knows nothing of any vendor's formats.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nearfield._optional import require
from nearfield.errors import InvalidInput, RateLimited, RemoteError, Unauthorized, Unreachable

MINUTE = 60.0
_BASE, _CAP = 0.5, 30.0  # seconds: the longest wait before the first retry, and before any
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # 529: how Anthropic says that it is overloaded
_CONNECTING = 10.0  # seconds: who does not even accept a connection by then will not
_CONNECTS = 3  # a host that refuses every connection is given up sooner than one that fails now and then
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SPENT = re.compile(r"insufficient_quota|credit balance|billing", re.I)  # a 429 that no waiting mends
_DELAY = re.compile(r'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"')  # Google tells the pause in the body

T = TypeVar("T")


def estimated_tokens(text: str) -> int:
    """About how many tokens `text` has for any model, rather too many than too few: a third of its UTF-8 bytes.

    English has about four bytes a token, most other scripts about three or fewer.

    >>> estimated_tokens("The cat sat on the mat.")
    8
    """
    return max(1, -(-len(text.encode("utf-8", "replace")) // 3))


def split_address(name: str) -> tuple[str, str | None]:
    """A model's name and the address of its server, if it is written behind it.

    >>> split_address("bge-m3@http://localhost:8000/v1")
    ('bge-m3', 'http://localhost:8000/v1')
    >>> split_address("text-embedding-3-small")
    ('text-embedding-3-small', None)
    """
    found = re.fullmatch(r"(.+?)@(https?://.+)", name)
    return (found[1], found[2]) if found else (name, None)


def ollama_address(given: str | None) -> str:
    """The address of Ollama's server, from what its own tools take: a host, a host and port, or a URL.

    >>> ollama_address(None), ollama_address("0.0.0.0"), ollama_address("https://gpu.example:443/")
    ('http://127.0.0.1:11434', 'http://127.0.0.1:11434', 'https://gpu.example:443')
    """
    text = (given or "127.0.0.1").strip().rstrip("/")
    scheme, _, rest = text.rpartition("://")
    host, colon, port = rest.partition(":")
    host = "127.0.0.1" if host in ("", "0.0.0.0") else host  # a server listens on all addresses; one asks this machine
    return (
        f"{scheme or 'http'}://{host}:{port}"
        if colon
        else f"{scheme or 'http'}://{host}" + ("" if scheme else ":11434")
    )


class Stopped(Exception):
    """Another thread ended the waiting; its error is the one to tell."""


class _Passing(Exception):
    """A failure that may pass: worth another try, after the pause that the server asked for."""

    def __init__(self, error: RemoteError, asked: float | None = None, *, connecting: bool = False) -> None:
        self.error, self.asked, self.connecting = error, asked, connecting


class Clock:
    """The time, chance and waiting: replaced in tests, so that nothing there waits for real."""

    def now(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def random(self) -> float:
        """A number in [0, 1)."""
        return random.random()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after `seconds`, or as soon as `stop` is set."""
        stop.wait(seconds)


class Limits:
    """At most so many requests and tokens in any 60 seconds, told in advance when each may go.

    Not a bucket that fills again, which lets twice the limit through in its first minute: a window that slides.

    Args:
        requests, tokens: how many a minute; None: any number.
    """

    def __init__(self, requests: int | None, tokens: int | None, clock: Clock) -> None:
        for name, limit in (("requests_per_minute", requests), ("tokens_per_minute", tokens)):
            if limit is not None and limit < 1:
                raise InvalidInput(f"{name} must be at least 1, got {limit}")
        self._limits = (requests, tokens)
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: deque[tuple[float, tuple[int, int]]] = deque()  # what goes when, in order
        self._totals = [0, 0]
        self._not_before = -float("inf")

    def reserve(self, tokens: int) -> float:
        """Take a place for one request of so many tokens; return the seconds until it may go.

        A request larger than the limit goes when the minute before it is empty.
        """
        cost = (1, tokens)
        with self._lock:
            now = self._clock.now()
            at = max(now, self._not_before, self._sent[-1][0] if self._sent else now)
            while self._sent and (self._sent[0][0] <= at - MINUTE or not self._fits(cost)):
                gone, spent = self._sent.popleft()
                at = max(at, gone + MINUTE)
                self._totals = [total - part for total, part in zip(self._totals, spent, strict=True)]
            self._sent.append((at, cost))
            self._totals = [total + part for total, part in zip(self._totals, cost, strict=True)]
            return at - now

    def hold(self, seconds: float) -> None:
        """Let nothing go for so long: a server that turns one request away means all of them."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock.now() + seconds)

    def _fits(self, cost: tuple[int, int]) -> bool:
        return all(
            limit is None or total + part <= limit
            for limit, total, part in zip(self._limits, self._totals, cost, strict=True)
        )


@dataclass(frozen=True)
class Key:
    """A key that was given, or the first of some environment variables that is set when it is asked for."""

    given: str | None = field(default=None, repr=False)
    variables: tuple[str, ...] = ()

    def __call__(self) -> str:
        return (self.given or next((os.environ[name] for name in self.variables if os.environ.get(name)), "")).strip()


def bearer(key: str) -> Mapping[str, str]:
    """The header that most services read a key from (RFC 6750)."""
    return {"authorization": f"Bearer {key}"}


@dataclass(eq=False)
class Service:
    """One server that speaks JSON. May be used by many threads, and on both sides of a fork.

    Args:
        name: what to call it in an error: "OpenAI".
        base_url: where it is; paths are appended.
        key: looked at before every request, so that a variable that was changed counts at once.
        headers: from the key to the headers that carry it.
        needs_key: whether a request without a key is an error at once.
        timeout: seconds without a byte after which a request counts as lost.
        retries: how often a request is tried again.
        max_wait: the longest pause, in seconds, that a server may ask for; beyond it the request fails.
    """

    name: str
    base_url: str
    key: Key = field(default_factory=Key)
    headers: Callable[[str], Mapping[str, str]] = bearer
    needs_key: bool = False
    timeout: float = 60.0
    retries: int = 6
    max_wait: float = 120.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    clock: Clock = field(default_factory=Clock, repr=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"base_url: got {self.base_url!r}; give an address such as 'http://localhost:8000/v1'")
        if self.retries < 0 or self.timeout <= 0:
            raise InvalidInput(
                f"retries must not be negative ({self.retries}), timeout must be positive ({self.timeout})"
            )
        self.retries_made = 0
        self._host, self._local = parts.netloc.rpartition("@")[2], parts.hostname in _LOOPBACK
        self._limits = Limits(self.requests_per_minute, self.tokens_per_minute, self.clock)
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None

    def require_key(self) -> None:
        """Raise `Unauthorized` if a key is needed and there is none."""
        if self.needs_key and not self.key():
            known = " or ".join(self.key.variables)
            raise Unauthorized(f"{self.name} needs a key: pass api_key=, or set the environment variable {known}")

    def post(self, path: str, body: Any, *, tokens: int = 0, stop: threading.Event | None = None) -> Any:
        """Send `body` as JSON and return the JSON that comes back.

        Args:
            path: what follows `base_url`.
            tokens: how many the request is estimated to cost.
            stop: when another thread sets it, waiting ends with `Stopped`; what is on its way is still received.

        Raises:
            Unauthorized, RateLimited, Unreachable, RemoteError: the last failure, when all retries are used up or
                none would help.
            MissingExtra: httpx is not installed.
        """

        def read(response: Any) -> Any:
            try:
                return json.loads(response.read())
            except ValueError:
                told = f"{self.where} answered with something that is not JSON: {_begin(response.text)}"
                raise _Passing(RemoteError(told, response.status_code)) from None
            finally:
                response.close()

        return self._retried(path, body, read, tokens, stop or threading.Event())

    def lines(self, path: str, body: Any, *, whole: bool = False) -> Iterator[str]:
        """Send `body` as JSON and give the lines of the answer that are not blank, as they come.

        Args:
            path: what follows `base_url`.
            whole: give nothing before everything is there; then an answer that is cut halfway is asked for again.

        Raises:
            As `post`; and `Unreachable` after some lines, when the connection is cut there.
        """
        if whole:

            def read(response: Any) -> list[str]:
                try:
                    return list(_lines(response.iter_bytes()))
                finally:
                    response.close()

            yield from self._retried(path, body, read, 0, threading.Event())
            return
        response = self._retried(path, body, lambda response: response, 0, threading.Event())
        try:
            with self._told():
                yield from _lines(response.iter_bytes())
        except _Passing as failure:
            raise failure.error from None
        finally:
            response.close()

    @property
    def where(self) -> str:
        """Name and host, for a sentence."""
        return f"{self.name} ({self._host})"

    # -- within -----------------------------------------------------------------------------------------------------

    def _retried(self, path: str, body: Any, read: Callable[[Any], T], tokens: int, stop: threading.Event) -> T:
        content = json.dumps(body).encode()
        attempt = 0
        while True:
            self._pause(self._limits.reserve(tokens), stop)
            try:
                with self._told():
                    return read(self._send(path, content))
            except _Passing as failure:
                attempt += 1
                if attempt > self.retries or (failure.connecting and attempt >= _CONNECTS):
                    raise failure.error from None
                if failure.asked is not None and failure.asked > self.max_wait:
                    long = f"it asks to wait {failure.asked:.0f} s, more than max_wait={self.max_wait:.0f}"
                    raise type(failure.error)(f"{failure.error}; {long}", failure.error.status) from None
                self.retries_made += 1
                pause = self.clock.random() * min(_CAP, _BASE * 2**attempt)
                if failure.asked is not None:
                    self._limits.hold(failure.asked)  # for the others; chance on top, so that not all come back at once
                    pause += failure.asked
                self._pause(pause, stop)

    def _pause(self, seconds: float, stop: threading.Event) -> None:
        if seconds > 0:
            self.clock.wait(seconds, stop)
        if stop.is_set():
            raise Stopped

    def _send(self, path: str, content: bytes) -> Any:
        """An open response whose status is good."""
        headers = {"content-type": "application/json", "user-agent": "nearfield", **self._key_headers()}
        client = self._http()
        request = client.build_request("POST", self.base_url + path, content=content, headers=headers)
        response = client.send(request, stream=True)
        if response.status_code != 200:
            try:
                response.read()
                raise self._failure(response)
            finally:
                response.close()
        return response

    def _key_headers(self) -> Mapping[str, str]:
        self.require_key()
        key = self.key()
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):  # told here: an error of the HTTP library would quote it
            raise Unauthorized(f"the key for {self.name} holds characters that no key has; was it copied whole?")
        return self.headers(key)

    def _http(self) -> Any:
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():  # a fork must not share connections
                httpx = require("httpx", extra="remote", purpose=f"Talking to {self.name}")
                # A proxy from the environment is for the world outside, not for this machine. Without TLS there is
                # nothing to verify, and reading the certificates would cost most of the first request.
                secure = self.base_url.startswith("https:")
                wait = httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECTING))
                client = httpx.Client(timeout=wait, trust_env=not self._local, verify=secure)
                weakref.finalize(self, client.close)
                self._client = (os.getpid(), client)
            return self._client[1]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the HTTP library in the words of this house."""
        httpx = require("httpx", extra="remote", purpose=f"Talking to {self.name}")
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            reason = str(error) or "no connection in time"
            told = f"cannot reach {self.where}: {reason}; check the address, the network, and that the server runs"
            raise _Passing(Unreachable(told), connecting=True) from None
        except httpx.TimeoutException:
            told = f"{self.where} gave no answer within {self.timeout:g} s; raise timeout=, or ask for less at a time"
            raise _Passing(Unreachable(told)) from None
        except httpx.RequestError as error:
            told = f"the connection to {self.where} was cut ({type(error).__name__})"
            raise _Passing(Unreachable(told)) from None

    def _failure(self, response: Any) -> Exception:
        """The error for a response that is not a success."""
        status, said = response.status_code, self._said(response)
        if status in (401, 403) or (status == 400 and "API key not valid" in said):
            told = f"{self.where} does not accept the key (status {status}): {said}"
            return Unauthorized(f"{told}; check {' or '.join(['api_key=', *self.key.variables])}", status)
        if status == 429 and _SPENT.search(response.text):
            return RateLimited(f"{self.where} takes no more requests on this account: {said}", status)
        if status == 429:
            told = f"{self.where} still wants fewer requests after {self.retries} retries: {said}"
            return _Passing(RateLimited(told, status), _asked(response))
        if status in _PASSING:
            return _Passing(RemoteError(f"{self.where} failed with status {status}: {said}", status), _asked(response))
        if 300 <= status < 400:
            target = response.headers.get("location", "nowhere")
            return RemoteError(f"{self.where} redirects to {target}; give that address as base_url", status)
        return RemoteError(f"{self.where} refused the request with status {status}: {said}", status)

    def _said(self, response: Any) -> str:
        """What the server says went wrong, on one line, without the key."""
        text: Any = response.text
        try:
            answer = json.loads(text)
            answer = answer[0] if isinstance(answer, list) and answer else answer  # some of Google's streams
            error = answer.get("error", answer.get("message", answer.get("detail")))
            text = error.get("message", error) if isinstance(error, dict) else error or text
        except (ValueError, AttributeError):
            pass
        said = str(text)
        if key := self.key():
            said = said.replace(key, "<key>")
        return _begin(said)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines in `pieces` that are not blank. Only a line feed ends one: JSON may hold U+2028 and its like as they
    are, where `str.splitlines`, and with it the HTTP library, would break the line.
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (text for line in whole if (text := line.decode("utf-8", "replace").strip()))
    if text := rest.decode("utf-8", "replace").strip():
        yield text


def _begin(text: str) -> str:
    """The beginning of a text, on one line and without what would steer a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    return (line if len(line) <= 200 else line[:200] + "…") or "(nothing)"


def _asked(response: Any) -> float | None:
    """The pause in seconds that a response asks for, if any. `Retry-After` is seconds or a date (RFC 9110, 10.2.3)."""
    headers = response.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" in headers:
            value = headers["retry-after"]
            if value.strip().replace(".", "", 1).isdigit():
                return float(value)
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        pass  # neither: then the usual pause
    delay = _DELAY.search(response.text)
    return float(delay[1]) if delay else None
