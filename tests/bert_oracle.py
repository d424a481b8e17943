"""A tiny random BERT checkpoint, and a slow, obvious forward pass in NumPy float64 to hold the real one against."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{i}" for i in range(60)]
HIDDEN, HEADS, LAYERS, INNER, POSITIONS, EPSILON = 24, 3, 2, 40, 20, 1e-5


def write(
    folder: Path,
    *,
    seed: int = 0,
    pooling: str | None = "mean",
    normalize: bool = True,
    max_tokens: int | None = 12,
    prefix: str = "",
    dtype: Any = np.float32,
    config: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Write a checkpoint in the layout of sentence-transformers (pooling None: of transformers); return its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        linears = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (HIDDEN, HIDDEN)}
        linears |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for name, shape in linears.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for name in norms:
        shapes |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
    tensors = {name: rng.normal(0, 0.6, shape).astype(dtype) for name, shape in shapes.items()}
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")

    settings = {
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": EPSILON,
        "hidden_act": "gelu",
    }
    _json(folder / "config.json", settings | (config or {}))
    if pooling is not None:
        kinds = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * normalize
        _json(folder / "modules.json", [{"type": f"sentence_transformers.models.{k}", "path": p} for k, p in kinds])
        modes = {f"pooling_mode_{m}": m.startswith(pooling) for m in ("cls_token", "mean_tokens", "max_tokens")}
        _json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **modes})
    if max_tokens is not None:
        _json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    if prompts is not None:
        _json(folder / "config_sentence_transformers.json", {"prompts": prompts})

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tensors


def forward(
    tensors: dict[str, np.ndarray],
    text: str,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_tokens: int = 12,
    activation: str = "gelu",
) -> np.ndarray:
    """One text through the tiny BERT: float64 (HIDDEN,), without batch or padding."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    words = [VOCABULARY.index(word) if word in VOCABULARY else 1 for word in text.split()][: max_tokens - 2]
    ids = [2, *words, 3]
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(x + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        query, key, value = (_linear(x, w, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        size = HIDDEN // HEADS
        context = np.empty_like(x)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            context[:, part] = scores / scores.sum(axis=1, keepdims=True) @ value[:, part]
        attended = _linear(context, w, f"{at}.attention.output.dense")
        x = _norm(x + attended, w, f"{at}.attention.output.LayerNorm")
        inner = _ACTIVATIONS[activation](_linear(x, w, f"{at}.intermediate.dense"))
        x = _norm(x + _linear(inner, w, f"{at}.output.dense"), w, f"{at}.output.LayerNorm")
    pooled = x[0] if pooling == "cls" else x.mean(axis=0)
    return pooled / np.linalg.norm(pooled) if normalize else pooled


def _linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON) * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


_ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
