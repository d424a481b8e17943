"""Rerankers: what reads a query and a text together, and says how well they fit.

A reranker is any function `(query, texts) -> scores`, one number a text, higher is better. Those here: a cross-encoder
run by onnxruntime (`OnnxCrossEncoder`), by sentence-transformers (`CrossEncoder`), or behind HTTP (`RerankApi`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nearfield._optional import require
from nearfield.errors import Corrupt, InvalidInput, NotFound, RemoteError
from nearfield.remote import Key, Service, estimated_tokens

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Reranker: TypeAlias = "Callable[[str, list[str]], ArrayLike]"
_BATCH = 16


def resolve(spec: str | os.PathLike[str] | Reranker) -> Reranker:
    """The reranker that `spec` stands for: a function is itself; a folder with an ONNX file is an `OnnxCrossEncoder`;
    any other name is a `CrossEncoder` of sentence-transformers.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(spec, str | os.PathLike):
        folder = Path(spec)
        return OnnxCrossEncoder(folder) if folder.is_dir() and _onnx_file(folder) else CrossEncoder(os.fspath(spec))
    if callable(spec):
        return spec
    raise InvalidInput(f"rerank: got {type(spec).__name__} {spec!r:.80}; give a function (query, texts) -> scores")


def scores_of(reranker: Reranker, query: str, texts: list[str]) -> NDArray[np.float64]:
    """What a reranker says, checked: float64, shape (len(texts),).

    Raises:
        InvalidInput: it returned something else than one finite number a text.
    """
    if not texts:
        return np.empty(0)
    returned = reranker(query, texts)
    try:
        scores = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the reranker returned {type(returned).__name__}, not numbers: {error}") from None
    if scores.shape != (len(texts),):
        raise InvalidInput(f"the reranker returned shape {scores.shape} for {len(texts)} texts; it must be one each")
    if not np.isfinite(scores).all():
        raise InvalidInput(f"the reranker returned NaN or infinity for text {int(np.isfinite(scores).argmin())}")
    return scores


class OnnxCrossEncoder:
    """A cross-encoder in ONNX on this machine, without torch.

    Args:
        folder: where the model is: `model.onnx` (or `onnx/model.onnx`) and `tokenizer.json`.
        max_tokens: read at most so many tokens of query and text together.
        threads: CPU threads; None: as onnxruntime decides.

    A model with one output gives it as the score; one with two (no, yes) gives the difference yes - no.

    Raises:
        NotFound: a file is missing. Corrupt: a file cannot be read. MissingExtra: onnxruntime or tokenizers is missing.

    Example:
        >>> from nearfield.rerank import OnnxCrossEncoder
        >>> docs.search("how do bats see?", rerank=OnnxCrossEncoder("models/ms-marco-MiniLM-L6-v2"))  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_tokens: int = 512, threads: int | None = None) -> None:
        place = Path(folder)
        model, words = _onnx_file(place), place / "tokenizer.json"
        if model is None or not words.is_file():
            missing = "model.onnx" if model is None else "tokenizer.json"
            raise NotFound(f"there is no {missing} in {place}: export the cross-encoder to ONNX into that folder")
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # newer versions report their use over the network
        runtime = require("onnxruntime", extra="local", purpose="OnnxCrossEncoder")
        library = require("tokenizers", extra="local", purpose="OnnxCrossEncoder")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only; they are raised as well
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._tokenizer = library.Tokenizer.from_file(str(words))
            self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # neither package has a public tree of errors
            raise Corrupt(f"{place} does not hold a cross-encoder that can be run: {error}") from error
        self._tokenizer.enable_truncation(max_tokens)  # of the longer of the two
        self._tokenizer.no_padding()
        self._inputs = {one.name: np.int32 if "int32" in one.type else np.int64 for one in self._session.get_inputs()}

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """The scores of texts for a query: float64, shape (len(texts),)."""
        pairs = self._tokenizer.encode_batch([(query, text) for text in texts])
        order = np.argsort([-len(pair.ids) for pair in pairs], kind="stable")  # texts of like length: little padding
        scores = np.empty(len(texts))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            scores[batch] = self._scores([pairs[at] for at in batch])
        return scores

    def _scores(self, pairs: list[Any]) -> NDArray[np.float64]:
        shape = (len(pairs), max(len(pair.ids) for pair in pairs))
        fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feed = {}
        for name, dtype in self._inputs.items():
            feed[name] = np.zeros(shape, dtype=dtype)
            for row, pair in enumerate(pairs):
                values = getattr(pair, fields.get(name, "ids"))
                feed[name][row, : len(values)] = values
        logits = np.asarray(self._session.run(None, feed)[0], dtype=np.float64).reshape(len(pairs), -1)
        scores: NDArray[np.float64] = logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
        return scores


class CrossEncoder:
    """A cross-encoder of sentence-transformers, with torch. A name is downloaded at its first use, as the library does.

    Args:
        model: a name such as "cross-encoder/ms-marco-MiniLM-L6-v2", a folder, or a loaded
            `sentence_transformers.CrossEncoder`.
        **options: passed to `CrossEncoder(model, ...)`: device, max_length, trust_remote_code and others.

    Raises:
        MissingExtra: sentence-transformers is not installed. NotFound: it cannot load a model of that name.

    Example:
        >>> from nearfield.rerank import CrossEncoder
        >>> docs.search("how do bats see?", rerank=CrossEncoder("BAAI/bge-reranker-base"))  # doctest: +SKIP
    """

    def __init__(self, model: Any, **options: Any) -> None:
        if isinstance(model, str | os.PathLike):
            library = require("sentence_transformers", extra="sentence-transformers", purpose="CrossEncoder")
            try:
                model = library.CrossEncoder(os.fspath(model), **options)
            except (OSError, ValueError) as error:
                raise NotFound(f"sentence-transformers cannot load the cross-encoder {model!r}: {error}") from error
        elif options or not hasattr(model, "predict"):
            raise InvalidInput(f"CrossEncoder: got {type(model).__name__}; give a name, a folder, or a loaded one")
        self._model = model

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """The scores of texts for a query: float64, shape (len(texts),)."""
        pairs = [(query, text) for text in texts]
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float64)


class RerankApi:
    """A reranker behind HTTP, in the wire format that Cohere, Jina, Voyage, vLLM, llama.cpp and others share.

    It posts `{"model", "query", "documents", "top_n"}` and reads `{"results": [{"index", "relevance_score"}]}`
    (Voyage says `data`). What may pass is tried again, as late as the server asks; see `nearfield.remote`.

    Args:
        url: the whole address, for instance "https://api.cohere.com/v2/rerank" or "https://api.jina.ai/v1/rerank".
        model: its name there.
        api_key: sent as `Authorization: Bearer`; None sends none.
        timeout: seconds without a byte after which a request counts as lost.
        retries: how often a request is tried again.

    Raises:
        InvalidInput: the address is none.
        Unauthorized, RateLimited, Unreachable, RemoteError: when it is called; the last failure.
        MissingExtra: httpx is not installed.

    Example:
        >>> from nearfield.rerank import RerankApi
        >>> jina = RerankApi("https://api.jina.ai/v1/rerank", "jina-reranker-v2-base-multilingual", api_key="...")
        >>> docs.search("how do bats see?", rerank=jina)  # doctest: +SKIP
    """

    def __init__(
        self, url: str, model: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 6
    ) -> None:
        self._model = model
        self._service = Service("The reranker", url, Key(api_key), timeout=timeout, retries=retries)

    def __repr__(self) -> str:
        return f"RerankApi({self._service.base_url!r}, {self._model!r})"

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """The scores of texts for a query: float64, shape (len(texts),)."""
        body = {"model": self._model, "query": query, "documents": list(texts), "top_n": len(texts)}
        answer = self._service.post("", body, tokens=sum(map(estimated_tokens, texts)))
        scores = np.full(len(texts), np.nan)
        try:
            for result in answer.get("results") or answer["data"]:
                scores[result["index"]] = result["relevance_score"]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise RemoteError(f"{self._service.where} answered what is no reranking: {error!r}") from None
        if np.isnan(scores).any():
            raise RemoteError(f"{self._service.where} scored {np.isfinite(scores).sum()} of {len(texts)} texts")
        return scores


def _onnx_file(folder: Path) -> Path | None:
    return next((path for path in (folder / "model.onnx", folder / "onnx" / "model.onnx") if path.is_file()), None)
