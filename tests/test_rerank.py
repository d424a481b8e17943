"""The dangers of a reranker elsewhere: it is overloaded, it lies, it is not there; scores land on the wrong texts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearfield import rerank
from nearfield.errors import Corrupt, InvalidInput, NotFound, RemoteError, Unreachable
from nearfield.remote import Clock
from nearfield.rerank import CrossEncoder, OnnxCrossEncoder, RerankApi

Answer = tuple[int, dict[str, str], Any]


class Server:
    """Answers each request with the next of `answers`, or by what `answer` makes of its body; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], Any]] = []
        self.answers: list[Answer] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((dict(self.headers), body))
                code, headers, said = outer.answers.pop(0) if outer.answers else (200, {}, outer.fitting(body))
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(code)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/rerank"

    def fitting(self, body: Any) -> Any:
        """As the services answer: best first, each with the place of its text."""
        scored = [{"index": at, "relevance_score": len(text) / 100} for at, text in enumerate(body["documents"])]
        return {"results": sorted(scored, key=lambda one: -float(one["relevance_score"]))}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_scores_come_back_to_their_texts(server: Server) -> None:
    api = RerankApi(server.url, "best-model", api_key="secret")
    assert api("query", ["aa", "aaaa", "a"]).tolist() == [0.02, 0.04, 0.01]
    headers, body = server.asked[0]
    assert body == {"model": "best-model", "query": "query", "documents": ["aa", "aaaa", "a"], "top_n": 3}
    assert headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(api)
    server.answers = [(200, {}, {"data": [{"index": 0, "relevance_score": 0.5}]})]  # as Voyage says it
    assert api("query", ["x"]).tolist() == [0.5]


def test_overload_and_server_errors_are_waited_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Clock, "wait", lambda self, seconds, stop: pauses.append(seconds))
    server.answers = [(429, {"Retry-After": "7"}, {}), (503, {}, {})]
    assert RerankApi(server.url, "m")("query", ["abc"]).tolist() == [0.03]
    assert pauses[0] >= 7
    server.answers = [(500, {}, b"out of order")] * 3
    with pytest.raises(RemoteError, match=r"500: out of order"):
        RerankApi(server.url, "m", retries=2)("query", ["abc"])
    assert server.answers == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, b'{"detail": "invalid api key"}'), r"401\): invalid api key"),
        ((200, {}, {"unexpected": 1}), "no reranking"),
        ((200, {}, [1, 2]), "no reranking"),
        ((200, {}, {"results": [{"index": 5, "relevance_score": 1.0}]}), "no reranking"),
        ((200, {}, {"results": [{"index": 0, "relevance_score": 1.0}]}), "scored 1 of 2 texts"),
    ],
)
def test_what_is_not_a_reranking_is_told_at_once(server: Server, answer: Answer, said: str) -> None:
    server.answers = [answer]
    with pytest.raises(RemoteError, match=said):
        RerankApi(server.url, "m")("query", ["a", "b"])
    assert len(server.asked) == 1


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "wait", lambda self, seconds, stop: None)
    with pytest.raises(Unreachable, match="cannot reach"):
        RerankApi("http://127.0.0.1:1/rerank", "m", retries=1)("query", ["a"])
    with pytest.raises(InvalidInput, match="http://"):
        RerankApi("ftp://somewhere", "m")


# -- models ----------------------------------------------------------------------------------------------------------


def cross_encoder(folder: Path, outputs: int, name: str = "model.onnx") -> Path:
    """A model whose first logit is the number of real tokens, and whose second, if any, that of the text's."""
    onnx = pytest.importorskip("onnx")
    tokenizers = pytest.importorskip("tokenizers")
    helper, kinds = onnx.helper, onnx.TensorProto
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    nodes = [
        helper.make_node("Cast", [of], [f"{of}_f"], to=kinds.FLOAT) for of in ("attention_mask", "token_type_ids")
    ] + [
        helper.make_node("ReduceSum", [f"{of}_f", "axis"], [f"{of}_n"], keepdims=1)
        for of in ("attention_mask", "token_type_ids")
    ]
    parts = ["attention_mask_n", "token_type_ids_n"][:outputs]
    nodes.append(helper.make_node("Concat", parts, ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "counts",
        [helper.make_tensor_value_info(one, kinds.INT64, ["batch", "tokens"]) for one in inputs],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", outputs])],
        [helper.make_tensor("axis", kinds.INT64, [1], [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, folder / name)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    words.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(("outputs", "name"), [(1, "model.onnx"), (2, "onnx/model.onnx")])
def test_an_onnx_model_reads_query_and_text_together(tmp_path: Path, outputs: int, name: str) -> None:
    model = rerank.resolve(str(cross_encoder(tmp_path, outputs, name)))
    texts = ["one", "one two three", *(" ".join(["w"] * n) for n in range(1, 40))]
    counts = np.array([len(text.split()) for text in texts])
    wanted = counts + 5 if outputs == 1 else -(2 + 2)  # [CLS] two words [SEP] text [SEP]; second logit minus first
    np.testing.assert_array_equal(model("two words", texts), np.broadcast_to(wanted, counts.shape))


def test_a_long_text_is_cut_and_so_is_a_long_query(tmp_path: Path) -> None:
    model = OnnxCrossEncoder(cross_encoder(tmp_path, 2), max_tokens=10)
    # Ten tokens in all; the second logit counts those of the text and its mark.
    assert model("two words", ["w " * 100]).tolist() == [-4]
    assert model("w " * 100, ["two words"]).tolist() == [-7]


def test_a_model_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no model\.onnx"):
        OnnxCrossEncoder(tmp_path)
    (cross_encoder(tmp_path, 1) / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(Corrupt, match=r"cannot be run|does not hold"):
        OnnxCrossEncoder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match=r"no tokenizer\.json"):
        OnnxCrossEncoder(tmp_path)


def test_a_loaded_cross_encoder_is_asked_in_pairs() -> None:
    class Model:
        def predict(self, pairs: list[tuple[str, str]], *, show_progress_bar: bool) -> Any:
            assert not show_progress_bar
            return np.array([len(query) - len(text) for query, text in pairs], dtype=np.float32)

    assert CrossEncoder(Model())("four", ["a", "abcdef"]).tolist() == [3, -2]
    with pytest.raises(InvalidInput, match="int"):
        CrossEncoder(5)


def test_only_what_can_rerank_is_taken() -> None:
    given: Callable[[str, list[str]], list[float]] = lambda query, texts: [0.0]  # noqa: E731
    assert rerank.resolve(given) is given
    assert rerank.scores_of(given, "q", []).tolist() == []
