"""A BERT checkpoint as an ONNX graph: token ids and mask in, one sentence vector out.

The graph is written with the fused operators of onnxruntime (domain `com.microsoft`): all of them have a plain CPU
kernel on every platform, and together they need no optimiser pass at load time. Pooling and normalisation are inside.
It knows nothing of files, tokenizers or caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from nearfield._optional import require
from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pooling: TypeAlias = Literal["mean", "cls"]
GRAPH_VERSION = 1  # part of the cache key: raise it whenever the graph below changes
_OPSET, _IR = 17, 8  # old enough for every onnxruntime that nearfield supports
_CONTRIB = "com.microsoft"
_MEBIBYTE = 1 << 20
_PROTOBUF_LIMIT = 2047 * _MEBIBYTE
_GELU = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu", "gelu_fast": "FastGelu"}
# RoBERTa numbers its positions from pad_token_id + 1; apart from that (and its tokenizer) it is BERT.
_MODEL_TYPES = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}


@dataclass(frozen=True, slots=True)
class BertSpec:
    """What of a BERT's config.json and sentence-transformers' files decides the vectors."""

    layers: int
    heads: int
    hidden: int
    positions: int  # the longest sequence that the position embeddings allow
    first_position: int
    epsilon: float
    activation: str
    pooling: Pooling
    normalize: bool


def spec_from_config(config: Mapping[str, Any], *, pooling: Pooling, normalize: bool, where: str) -> BertSpec:
    """Read a Hugging Face `config.json`.

    Raises:
        InvalidInput: the model is not a BERT, or one with parts that the graph does not have. `where` is named.
    """
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise InvalidInput(not_ours(where, f"its model_type is {kind!r}, not one of {', '.join(_MODEL_TYPES)}"))
    positional = config.get("position_embedding_type", "absolute")
    if positional not in ("absolute", None):
        raise InvalidInput(not_ours(where, f"its position_embedding_type is {positional!r}, not 'absolute'"))
    activation = config.get("hidden_act", "gelu")
    if activation != "relu" and activation not in _GELU:
        raise InvalidInput(not_ours(where, f"its hidden_act is {activation!r}, not relu, {', '.join(_GELU)}"))
    if config.get("is_decoder"):
        raise InvalidInput(not_ours(where, "it is a decoder"))
    try:
        first = int(config["pad_token_id"]) + 1 if _MODEL_TYPES[kind] else 0
        return BertSpec(
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            hidden=int(config["hidden_size"]),
            positions=int(config["max_position_embeddings"]) - first,
            first_position=first,
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            activation=activation,
            pooling=pooling,
            normalize=normalize,
        )
    except KeyError as missing:
        raise InvalidInput(f"{where}: config.json lacks {missing}; is the checkpoint complete?") from None


def not_ours(where: str, why: str) -> str:
    """The sentence for a model that only sentence-transformers can run."""
    return (
        f"{where} cannot be run by LocalEmbedder: {why}. "
        "Use nearfield.embed.SentenceTransformerEmbedder(name), which runs any sentence-transformers model"
    )


def build(weights: Mapping[str, NDArray[Any]], spec: BertSpec, *, where: str) -> bytes:
    """Return the serialised ONNX model of a BERT encoder with pooling.

    Its inputs are `ids` (int32, (batch, tokens)) and `mask` (int32, same shape, 1 for a token, 0 for padding on the
    right); its output is `embedding` (float32, (batch, hidden)).

    Args:
        weights: the checkpoint's tensors by their Hugging Face names, with or without a prefix such as `bert.`.
        spec: the architecture.
        where: what to call the model in an error.

    Raises:
        InvalidInput: a tensor is missing or has another shape than `spec` says, or the model exceeds 2 GiB.
        MissingExtra: the package onnx is not installed.
    """
    onnx = require("onnx", extra="local", purpose="LocalEmbedder")
    model = onnx.ModelProto(ir_version=_IR, producer_name="nearfield")
    model.opset_import.extend([onnx.helper.make_opsetid("", _OPSET), onnx.helper.make_opsetid(_CONTRIB, 1)])
    model.graph.name = "nearfield-bert"
    for name, kind, shape in (
        ("ids", onnx.TensorProto.INT32, ["batch", "tokens"]),
        ("mask", onnx.TensorProto.INT32, ["batch", "tokens"]),
        ("embedding", onnx.TensorProto.FLOAT, ["batch", spec.hidden]),
    ):
        values = model.graph.output if name == "embedding" else model.graph.input
        values.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    graph = _Graph(onnx, model.graph, weights, where)
    _pooling(graph, _encoder(graph, spec), spec)
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise InvalidInput(not_ours(where, "it is larger than the 2 GiB of one ONNX file"))
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants under construction. Each method gives the name of the value it adds."""

    def __init__(self, onnx: Any, proto: Any, weights: Mapping[str, NDArray[Any]], where: str) -> None:
        self.onnx, self.proto, self.weights, self.where = onnx, proto, weights, where
        marker = "embeddings.word_embeddings.weight"
        self.prefix = next((name.removesuffix(marker) for name in weights if name.endswith(marker)), "")

    def weight(self, name: str, *shape: int | None) -> NDArray[np.float32]:
        """The tensor as float32, checked against `shape` (None: any size)."""
        tensor = self.weights.get(self.prefix + name)
        if tensor is None:
            raise InvalidInput(
                f"{self.where}: the weights lack the tensor {name!r}; is this a complete BERT checkpoint?"
            )
        if len(tensor.shape) != len(shape) or any(w not in (None, g) for w, g in zip(shape, tensor.shape, strict=True)):
            wanted = tuple("any" if size is None else size for size in shape)
            raise InvalidInput(f"{self.where}: tensor {name!r} has shape {tensor.shape}, config.json asks for {wanted}")
        return np.ascontiguousarray(tensor, dtype=np.float32)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        # Filled in place: the helpers of the onnx package would copy every weight twice more.
        tensor = self.proto.initializer.add(name=name, dims=value.shape)
        tensor.data_type = self.onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.raw_data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        name = output or f"n{len(self.proto.node)}"
        self.proto.node.append(self.onnx.helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def fused(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.node(operator, *inputs, domain=_CONTRIB, **attributes)

    def norm(self, name: str, hidden: int) -> tuple[str, str]:
        return (
            self.constant(f"{name}.weight", self.weight(f"{name}.weight", hidden)),
            self.constant(f"{name}.bias", self.weight(f"{name}.bias", hidden)),
        )

    def linear(self, x: str, name: str, rows: int | None, columns: int | None) -> tuple[str, str]:
        """`x @ W`, and the name of the bias, which the next fused operator adds."""
        matrix = self.constant(f"{name}.matrix", self.weight(f"{name}.weight", rows, columns).T)
        return self.node("MatMul", x, matrix), self.constant(f"{name}.bias", self.weight(f"{name}.bias", rows))


def _encoder(graph: _Graph, spec: BertSpec) -> str:
    """Embeddings and transformer layers; gives the name of the hidden states (batch, tokens, hidden)."""
    h, epsilon = spec.hidden, spec.epsilon
    words = graph.constant("words", graph.weight("embeddings.word_embeddings.weight", None, h))
    # A single text has token type 0 throughout: that row is a constant, added to every position.
    positions = graph.weight("embeddings.position_embeddings.weight", None, h)[spec.first_position :]
    positions = positions + graph.weight("embeddings.token_type_embeddings.weight", None, h)[0]
    table = graph.constant("positions", positions)
    length = graph.node("Slice", graph.node("Shape", "ids"), *_ints(graph, starts=1, ends=2))
    used = graph.node("Slice", table, *_ints(graph, first=0), length)
    x = graph.node("Add", graph.node("Gather", words, "ids"), used)
    x = graph.node("LayerNormalization", x, *graph.norm("embeddings.LayerNorm", h), epsilon=epsilon)
    for layer in range(spec.layers):
        at = f"encoder.layer.{layer}"
        heads = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([graph.weight(f"{name}.weight", h, h).T for name in heads], axis=1)
        bias = np.concatenate([graph.weight(f"{name}.bias", h) for name in heads])
        context = graph.fused(
            "Attention",
            x,
            graph.constant(f"{at}.qkv.matrix", matrix),
            graph.constant(f"{at}.qkv.bias", bias),
            "mask",
            num_heads=spec.heads,
        )
        y, bias_name = graph.linear(context, f"{at}.attention.output.dense", h, h)
        norm = graph.norm(f"{at}.attention.output.LayerNorm", h)
        x = graph.fused("SkipLayerNormalization", y, x, *norm, bias_name, epsilon=epsilon)
        y, bias_name = graph.linear(x, f"{at}.intermediate.dense", None, h)
        if spec.activation == "relu":
            y = graph.node("Relu", graph.node("Add", y, bias_name))
        else:
            y = graph.fused(_GELU[spec.activation], y, bias_name)
        y, bias_name = graph.linear(y, f"{at}.output.dense", h, None)
        norm = graph.norm(f"{at}.output.LayerNorm", h)
        x = graph.fused("SkipLayerNormalization", y, x, *norm, bias_name, epsilon=epsilon)
    return x


def _pooling(graph: _Graph, states: str, spec: BertSpec) -> None:
    """(batch, tokens, hidden) to `embedding` (batch, hidden)."""
    if spec.pooling == "cls":
        pooled = graph.node("Gather", states, graph.constant("cls", np.array(0, dtype=np.int64)), axis=1)
    else:
        mask = graph.node("Cast", "mask", to=graph.onnx.TensorProto.FLOAT)
        total = graph.node("MatMul", graph.node("Unsqueeze", mask, *_ints(graph, row=1)), states)
        total = graph.node("Squeeze", total, *_ints(graph, squeezed=1))
        pooled = graph.node("Div", total, graph.node("ReduceSum", mask, *_ints(graph, last=1), keepdims=1))
    if spec.normalize:
        length = graph.node("ReduceL2", pooled, axes=[1], keepdims=1)
        pooled = graph.node(
            "Div", pooled, graph.node("Max", length, graph.constant("tiny", np.array([1e-12], dtype=np.float32)))
        )
    graph.node("Identity", pooled, output="embedding")


def _ints(graph: _Graph, **values: int) -> list[str]:
    return [graph.constant(name, np.array([value], dtype=np.int64)) for name, value in values.items()]
