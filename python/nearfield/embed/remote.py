"""What all remote embedders share: a text is sent once, in a batch of the right size, and its vector is kept.

A wire format is a subclass with two methods, `_request` and `_parse`. How requests are sent, limited and tried again is
in `nearfield.remote`; where vectors are kept is in `cache`.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

import numpy as np

from nearfield.embed.cache import VectorCache, key_of, open_cache
from nearfield.embed.texts import Asked, check_texts, progress
from nearfield.errors import InvalidInput, RemoteError
from nearfield.remote import Clock, Service, Stopped, estimated_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

Role: TypeAlias = Literal["document", "query"]
Item: TypeAlias = "tuple[int, bytes, str]"  # the position of a text in the call, its key, and what is sent of it
_UNFIT = {400, 413, 422}  # statuses that may be the fault of one text, or of a batch that is too large


class RemoteOptions(TypedDict, total=False):
    """What every remote embedder takes by name.

    api_key: the key; left out, the vendor's usual environment variable is read before each request.
    base_url: another address than the vendor's own.
    dimensions: ask for shorter vectors, where the model can make them.
    max_tokens: the longest text the model reads, for those who ask; known for common models.
    batch_size, batch_tokens: the most texts and estimated tokens in a request.
    requests_per_minute, tokens_per_minute: the limits of your account; None: none.
    concurrency: requests under way at once.
    retries: how often a request that failed is tried again. timeout: seconds without an answer.
    max_wait: the longest pause in seconds that the service may ask for.
    cache: True: a file in the cache folder; a path: that file; False: nothing is kept.
    price: of a million tokens, in dollars, for `usage`.
    progress: True: a line on stderr; False: none; None: only for long work in a terminal.
    clock: time and waiting, replaced in tests.
    """

    api_key: str | None
    base_url: str | None
    dimensions: int | None
    max_tokens: int | None
    batch_size: int
    batch_tokens: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int
    retries: int
    timeout: float
    max_wait: float
    cache: bool | str | os.PathLike[str]
    price: float | None
    progress: bool | None
    clock: Clock


class ServiceOptions(TypedDict, total=False):
    """Those of the options that are the service's own."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    retries: int
    timeout: float
    max_wait: float
    clock: Clock


def service_options(options: RemoteOptions) -> ServiceOptions:
    """The options that `nearfield.remote.Service` takes under the same names; unknown names are an error."""
    if unknown := options.keys() - RemoteOptions.__annotations__.keys():
        known = ", ".join(sorted(RemoteOptions.__annotations__))
        raise InvalidInput(f"unknown option {min(unknown)!r}; there is {known}")
    return cast("ServiceOptions", {name: options[name] for name in ServiceOptions.__annotations__ if name in options})  # type: ignore[literal-required]


@dataclass
class Usage:
    """What an embedder has done so far. `tokens` is what the service counted, or an estimate where it does not tell."""

    texts: int = 0
    cached: int = 0
    requests: int = 0
    retries: int = 0
    tokens: int = 0
    price: float | None = None

    @property
    def cost(self) -> float | None:
        """Dollars, if a price was given."""
        return None if self.price is None else self.tokens * self.price / 1e6

    def __str__(self) -> str:
        parts = [f"{self.cached:,} from the cache"] if self.cached else []
        parts += [f"{self.requests:,} requests", f"{self.tokens:,} tokens"]
        parts += [f"${self.cost:,.4f}"] if self.cost is not None else []
        parts += [f"{self.retries:,} retries"] if self.retries else []
        return ", ".join(parts)


class RemoteEmbedder(Asked):
    """The embedders of OpenAI, Google, Cohere and Ollama are subclasses of this; use those."""

    batch_size, batch_tokens, concurrency = 100, 20_000, 4  # may be overridden by a subclass, and by options

    def __init__(
        self,
        service: Service,
        identity: str,
        *,
        dimension: int | None,
        max_tokens: int | None,
        prompts: tuple[str, str],
        options: RemoteOptions,
    ) -> None:
        self.service = service
        self.batch_size = options.get("batch_size", self.batch_size)
        self.batch_tokens = options.get("batch_tokens", self.batch_tokens)
        self.concurrency = options.get("concurrency", self.concurrency)
        for name in ("batch_size", "batch_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        service.require_key()
        self._asked_dimensions = options.get("dimensions")
        if self._asked_dimensions is not None and self._asked_dimensions < 1:
            raise InvalidInput(f"dimensions must be at least 1, got {self._asked_dimensions}")
        self._dimension = self._asked_dimensions or dimension
        self._max_tokens = options.get("max_tokens") or max_tokens
        self._document_prompt, self._query_prompt = prompts
        short = f":{self._asked_dimensions}" if self._asked_dimensions else ""
        # Prompts are part of what the vectors mean; the empty ones go without saying.
        said = f":{key_of('', *prompts).hex()[:8]}" if any(prompts) else ""
        self._identity = f"{identity}{short}{said}"
        self._cache = _cache(options.get("cache", True))
        self._progress = options.get("progress")
        self.usage = Usage(price=options.get("price"))
        self._lock = threading.Lock()

    # -- the wire format --------------------------------------------------------------------------------------------

    @abstractmethod
    def _request(self, texts: list[str], role: Role) -> tuple[str, dict[str, Any]]:
        """The path and the JSON that ask for the vectors of `texts`."""

    @abstractmethod
    def _parse(self, answer: Any) -> tuple[Any, int | None]:
        """The vectors in an answer, and the tokens that were counted, if it tells. Any odd shape may raise."""

    def _variant(self, role: Role) -> str:
        """Equal for two roles whose requests are the same for the same text, so that each is paid for once."""
        return role

    # -- what an embedder is ----------------------------------------------------------------------------------------

    @property
    def max_tokens(self) -> int | None:
        """The longest text, in tokens, that the model reads; None when that is not known."""
        return self._max_tokens

    @property
    def identity(self) -> str:
        """The service's kind, the model, and what else decides the vectors; no address and no key is in it."""
        return self._identity

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension), in the order given.

        Raises:
            InvalidInput: a text is empty, only white space or not a string (its position is named).
            RemoteError: the service failed; the vectors that came are kept in the cache, and the same call goes on
                from there. Unauthorized, RateLimited and Unreachable say why.
        """
        return self._encode(texts, "document", self._document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Like `encode_documents`, as the model wants queries to be told apart."""
        return self._encode(texts, "query", self._query_prompt)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity!r}, {self.service.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # -- within -----------------------------------------------------------------------------------------------------

    def _encode(self, texts: Sequence[str], role: Role, prompt: str) -> NDArray[np.float32]:
        texts = check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        variant = self._variant(role)
        keys = [key_of(self.identity, variant, prompt + text) for text in texts]
        found = self._cache.get(list(dict.fromkeys(keys))) if self._cache else {}
        missing: dict[bytes, Item] = {}
        for position, (key, text) in enumerate(zip(keys, texts, strict=True)):
            if key not in found:
                missing.setdefault(key, (position, key, prompt + text))
        self._count(texts=len(texts), cached=sum(key in found for key in keys))
        retries = self.service.retries_made
        todo = list(_batches(list(missing.values()), self.batch_size, self.batch_tokens))
        with progress(len(texts), self._progress, lambda: str(self.usage)) as advance:
            advance(len(texts) - len(missing))

            kept = 0

            def arrived(part: dict[bytes, NDArray[np.float32]]) -> None:
                nonlocal kept
                with self._lock:
                    found.update(part)
                    kept += len(part)
                advance(len(part))

            try:
                self._run(todo, lambda batch, stop: self._embed(batch, role, stop, arrived))
            except RemoteError as error:
                if kept and self._cache:
                    told = f"{error}; {kept:,} of {len(missing):,} new texts are done and kept: call again to go on"
                    raise type(error)(told, error.status) from None
                raise
            finally:
                self._count(retries=self.service.retries_made - retries)
        if self._dimension is None:  # all came from the cache
            self._dimension = len(found[keys[0]])
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, key in enumerate(keys):
            if found[key].shape != out[row].shape:
                raise RemoteError(
                    f"{self.service.name} has changed the length of this model's vectors from {len(found[key])} to "
                    f"{self.dimension}: give another cache=, and embed everything again"
                )
            out[row] = found[key]
        return out

    def _run(self, batches: list[list[Item]], send: Callable[[list[Item], threading.Event], None]) -> None:
        """Send all batches, some at once. The first failure ends it, after what is on its way has been received."""
        stop = threading.Event()
        if len(batches) <= 1 or self.concurrency == 1:
            for batch in batches:
                send(batch, stop)
            return
        failure: BaseException | None = None
        waiting: set[Future[None]] = set()
        rest = list(reversed(batches))
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="nearfield-embed") as pool:
            try:
                while True:
                    while failure is None and len(waiting) < self.concurrency and rest:
                        waiting.add(pool.submit(send, rest.pop(), stop))
                    if not waiting:
                        break
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for error in (future.exception() for future in finished):
                        if failure is None and error is not None and not isinstance(error, Stopped):
                            failure = error
                            stop.set()
            except BaseException:  # Ctrl-C among others: no new requests, no waiting between retries
                stop.set()
                raise
        if failure is not None:
            raise failure

    def _embed(
        self,
        batch: list[Item],
        role: Role,
        stop: threading.Event,
        arrived: Callable[[dict[bytes, NDArray[np.float32]]], None],
    ) -> None:
        """Get the vectors of one batch and keep them. A batch that is refused is halved, to find the text."""
        path, body = self._request([text for _, _, text in batch], role)
        estimate = sum(estimated_tokens(text) for _, _, text in batch)
        try:
            answer = self.service.post(path, body, tokens=estimate, stop=stop)
        except RemoteError as error:
            if error.status not in _UNFIT:
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                self._embed(batch[:middle], role, stop, arrived)
                return self._embed(batch[middle:], role, stop, arrived)
            about = estimated_tokens(batch[0][2])
            raise type(error)(f"texts[{batch[0][0]}], of about {about:,} tokens: {error}", error.status) from None
        vectors, counted = self._checked(answer, len(batch))
        self._count(requests=1, tokens=estimate if counted is None else counted)
        keys = [key for _, key, _ in batch]
        if self._cache:
            self._cache.put(keys, vectors)
        arrived(dict(zip(keys, vectors, strict=True)))
        return None

    def _checked(self, answer: Any, count: int) -> tuple[NDArray[np.float32], int | None]:
        who = self.service.where
        try:
            lists, counted = self._parse(answer)
            vectors = np.array(lists, dtype=np.float32)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RemoteError(
                f"{who} answered with JSON that holds no embeddings ({type(error).__name__}: {error}); "
                "is this the address of an embedding model?"
            ) from None
        if len(vectors) != count:
            raise RemoteError(f"{who} returned {len(vectors)} vectors for {count} texts")
        if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.shape[1] != (self._dimension or vectors.shape[1]):
            wanted = "any length" if self._dimension is None else f"length {self._dimension}"
            raise RemoteError(f"{who} returned vectors of shape {vectors.shape}; {count} of {wanted} were asked for")
        if not np.isfinite(vectors).all():
            raise RemoteError(f"{who} returned NaN or infinity in a vector")
        self._dimension = vectors.shape[1]
        return vectors, int(counted) if isinstance(counted, int | float) else None

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.usage, name, getattr(self.usage, name) + number)


def _batches(items: list[Item], most: int, most_tokens: int) -> Iterator[list[Item]]:
    """Items in batches of at most so many, and of at most so many estimated tokens unless one text alone has more."""
    batch: list[Item] = []
    tokens = 0
    for item in items:
        more = estimated_tokens(item[2])
        if batch and (len(batch) == most or tokens + more > most_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(item)
        tokens += more
    if batch:
        yield batch


def _cache(given: bool | str | os.PathLike[str]) -> VectorCache | None:
    from nearfield.embed.weights import cache_folder

    try:
        default = cache_folder() / "remote-embeddings.sqlite" if given is True else None
    except OSError:  # a user without a home folder
        default = None
    return open_cache(given, default)
