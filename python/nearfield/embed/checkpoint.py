"""A model folder, read: the architecture, the pooling, the length, the prompts; and an identity made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield._optional import require
from nearfield.embed import bert_onnx, weights
from nearfield.embed.bert_onnx import BertSpec, Pooling, not_ours
from nearfield.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

# sentence-transformers names this file after the model's class.
_LENGTH_FILES = [f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta", "camembert")]
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names that sentence-transformers tries, in its order
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls"}
_UNBOUNDED = 1 << 30  # a model_max_length above this means "none"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that decides a model's vectors, except the tokenizer's rules."""

    folder: Path
    digest: str  # SHA-256 of the weights
    spec: BertSpec
    max_tokens: int
    lowercase: bool
    query_prompt: str
    document_prompt: str

    @property
    def identity(self) -> str:
        """Made of contents alone, so that the same model is the same wherever its folder lies."""
        spec = self.spec
        name = weights.KNOWN.get(self.digest, f"bert-{spec.layers}x{spec.hidden}")
        parts = ["local", name, self.digest[:8], f"{spec.pooling}-{self.max_tokens}{'' if spec.normalize else '-raw'}"]
        if self.query_prompt or self.document_prompt:
            prompts = json.dumps([self.query_prompt, self.document_prompt]).encode()
            parts.append(f"prompts-{hashlib.sha256(prompts).hexdigest()[:8]}")
        return ":".join(parts)


def read(folder: Path, *, pooling: Pooling | None, normalize: bool | None, max_tokens: int | None) -> Checkpoint:
    """Read a folder in the layout of sentence-transformers, or of transformers alone (mean pooling, normalised then).

    Args:
        folder: as `weights.find` gives it.
        pooling, normalize, max_tokens: None: as the model's own files say.

    Raises:
        InvalidInput: the model has parts that the ONNX graph does not have, or `max_tokens` exceeds its positions.
        Corrupt: a file of the model is not what it should be.
    """
    where = f"the model {folder}"
    config = _object(folder / "config.json")
    own_pooling, own_normalize = _modules(folder, where)
    pooling, normalize = pooling or own_pooling, own_normalize if normalize is None else normalize
    if pooling not in _POOLINGS:
        raise InvalidInput(f"pooling: got {pooling!r}; give 'mean' or 'cls'")
    spec = bert_onnx.spec_from_config(config, pooling=pooling, normalize=normalize, where=where)
    length = next((_object(folder / name) for name in _LENGTH_FILES if (folder / name).is_file()), {})
    if max_tokens is None:
        own = length.get("max_seq_length") or _optional(folder / "tokenizer_config.json").get("model_max_length")
        max_tokens = min(int(own), spec.positions) if own and own < _UNBOUNDED else spec.positions
    elif not 3 <= max_tokens <= spec.positions:
        raise InvalidInput(f"max_tokens: got {max_tokens}; {where} reads 3 to {spec.positions} tokens")
    prompts = _optional(folder / "config_sentence_transformers.json").get("prompts") or {}
    return Checkpoint(
        folder=folder,
        digest=weights.sha256(folder / weights.WEIGHTS),
        spec=spec,
        max_tokens=max_tokens,
        lowercase=bool(length.get("do_lower_case", False)),
        query_prompt=prompts.get("query") or "",
        document_prompt=next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name)), ""),
    )


def _modules(folder: Path, where: str) -> tuple[Pooling, bool]:
    """Pooling and normalisation as modules.json has them."""
    if not (folder / "modules.json").is_file():
        return "mean", True
    modules = weights.read_json(folder / "modules.json")
    try:
        kinds = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise Corrupt(f"{folder / 'modules.json'} does not list modules; get the model's files again") from error
    if unknown := [kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise InvalidInput(not_ours(where, f"it has a {unknown[0]} module"))
    pooling: Pooling = "mean"
    for path in (path for kind, path in kinds if kind == "Pooling"):
        settings = _object(folder / path / "config.json")
        modes = [
            key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
        ]
        mode = settings.get("pooling_mode") or "+".join(modes)
        mode = {"mean_tokens": "mean", "cls_token": "cls"}.get(mode, mode) if isinstance(mode, str) else mode
        if mode not in ("mean", "cls"):
            raise InvalidInput(not_ours(where, f"its pooling is {mode!r}, not mean or cls"))
        if settings.get("include_prompt", True) is False:
            raise InvalidInput(not_ours(where, "it leaves the prompt out of its pooling"))
        pooling = _POOLINGS[mode]
    return pooling, any(kind == "Normalize" for kind, _ in kinds)


def graph(checkpoint: Checkpoint) -> Path | bytes:
    """The ONNX model of the checkpoint: the path in the cache, or the bytes when there can be no cache."""
    spec = json.dumps([bert_onnx.GRAPH_VERSION, asdict(checkpoint.spec)], sort_keys=True)
    key = hashlib.sha256(f"{checkpoint.digest} {spec}".encode()).hexdigest()[:32]
    return weights.cached(f"bert-{key}.onnx", lambda: build(checkpoint))


def build(checkpoint: Checkpoint) -> bytes:
    """The ONNX model of the checkpoint, made anew."""
    safetensors = require("safetensors", extra="local", purpose="LocalEmbedder")
    path = checkpoint.folder / weights.WEIGHTS
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return bert_onnx.build(_Tensors(file), checkpoint.spec, where=f"the model {checkpoint.folder}")
    except safetensors.SafetensorError as error:
        raise Corrupt(f"{path} is not a safetensors file ({error}); get the model's files again") from error


class _Tensors(Mapping[str, "NDArray[Any]"]):
    """The tensors of an open safetensors file, read one at a time: the model is never twice in memory."""

    def __init__(self, file: Any) -> None:
        self.file, self.names = file, set(file.keys())

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.names:
            raise KeyError(name)
        tensor: NDArray[Any] = self.file.get_tensor(name)
        return tensor

    def __iter__(self) -> Any:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _object(path: Path) -> dict[str, Any]:
    value = weights.read_json(path)
    if not isinstance(value, dict):
        raise Corrupt(f"{path} holds a JSON {type(value).__name__}, not an object; get the model's files again")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return _object(path) if path.is_file() else {}
