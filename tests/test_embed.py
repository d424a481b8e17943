"""Embedders in general: what a user may hand over, and what must not pass silently."""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nearfield import errors
from nearfield.embed import Embedder, FunctionEmbedder, SentenceTransformerEmbedder, resolve, texts


def lengths(batch: list[str]) -> list[list[float]]:
    return [[len(text), 1.0] for text in batch]


class Handmade:
    dimension, max_tokens, identity = 2, None, "handmade"

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 2), dtype=np.float32)

    encode_queries = encode_documents


def test_a_function_becomes_an_embedder() -> None:
    embedder = resolve(lengths)
    assert isinstance(embedder, Embedder)
    vectors = embedder.encode_documents(["ab", "abcd"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[2, 1], [4, 1]])
    assert embedder.dimension == 2
    assert embedder.encode_queries([]).shape == (0, 2)
    assert embedder.identity == f"function:{__name__}.lengths"
    assert resolve(functools.partial(lengths)).identity == embedder.identity


def test_an_embedder_is_taken_as_it_is_and_costs_no_call() -> None:
    calls = []
    embedder = FunctionEmbedder(lambda batch: calls.append(batch) or lengths(batch), name="counted")
    assert resolve(embedder) is embedder
    handmade = Handmade()
    assert resolve(handmade) is handmade
    assert calls == []


@pytest.mark.parametrize("spec", [None, 7, Handmade, object()])
def test_what_is_no_embedder_is_refused_with_what_was_got(spec: object) -> None:
    with pytest.raises(errors.InvalidInput, match=r"embedder: got "):
        resolve(spec)


def test_a_callable_model_is_not_taken_for_a_function() -> None:
    class Model:
        def __call__(self, batch: list[str]) -> None: ...
        def encode(self, batch: list[str]) -> None: ...

    with pytest.raises(errors.InvalidInput, match=r"SentenceTransformerEmbedder\(model\)"):
        resolve(Model())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\) for 2 texts"),
        ([1.0, 2.0], r"shape \(2,\) for 2 texts"),
        ([[], []], r"shape \(2, 0\)"),
        ([[1.0], [1.0, 2.0]], "not an array of numbers"),
        ([["a"], ["b"]], "not an array of numbers"),
        ([[1.0], [float("nan")]], r"NaN or infinity .* texts\[1\]"),
        ([[1e300], [1.0]], r"NaN or infinity .* texts\[0\]"),
        (None, "not an array of numbers"),
        ([[1j], [1j]], "not an array of numbers"),
    ],
)
def test_a_function_that_returns_nonsense_is_told_so(returned: object, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        FunctionEmbedder(lambda _: returned).encode_documents(["x", "y"])


def test_a_function_may_not_change_its_dimension() -> None:
    embedder = FunctionEmbedder(lambda batch: np.ones((len(batch), len(batch))))
    embedder.encode_documents(["x", "y"])
    with pytest.raises(errors.InvalidInput, match=r"shape \(1, 1\) .* \(1, 2\)"):
        embedder.encode_documents(["x"])


def test_queries_may_have_a_function_of_their_own() -> None:
    embedder = FunctionEmbedder(lengths, queries=lambda batch: np.zeros((len(batch), 2)), name="pair")
    assert not embedder.encode_queries(["x"]).any()
    assert embedder.encode_documents(["x"]).any()


@pytest.mark.parametrize("embedder", [FunctionEmbedder(lengths)])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x", ""], r"texts\[1\] is empty"),
        (["x", "y", " \n\t"], r"texts\[2\] is empty"),
        (["x", None], r"texts\[1\] is NoneType"),
        ("text", r"single str"),
        (7, "got int"),
    ],
)
def test_unfit_texts_are_named_by_position(embedder: Embedder, given: object, message: str) -> None:
    for encode in (embedder.encode_documents, embedder.encode_queries):
        with pytest.raises(errors.InvalidInput, match=message):
            encode(given)


def test_progress_is_silent_unless_asked_or_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with texts.progress(5, None) as advance:
        advance(5)
    with texts.progress(5, False) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
    with texts.progress(5, True) as advance:
        advance(2)
        advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for patience, shown in ((0.0, True), (60.0, False)):
        monkeypatch.setattr(texts, "_LONG", patience)
        monkeypatch.setattr(sys, "stderr", Terminal())
        with texts.progress(5, None) as advance:
            advance(5)
        assert ("5/5" in sys.stderr.getvalue()) == shown


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, nearfield.embed\n"
        "from nearfield.embed import FunctionEmbedder, LocalEmbedder, SentenceTransformerEmbedder\n"
        "heavy = {'onnx', 'onnxruntime', 'tokenizers', 'safetensors', 'torch', 'rich', 'huggingface_hub'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class FakeTensor:
    """As much of a torch tensor as an identity needs."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values, dtype=np.float32)
        self.shape, self.dtype = self.values.shape, "float32"


class Pooling:
    def __init__(self, **settings: object) -> None:
        self.settings = settings

    def get_config_dict(self) -> dict[str, object]:
        return self.settings


class FakeModel:
    """The surface of sentence_transformers.SentenceTransformer before version 5, without torch."""

    def __init__(self, weights: list[float] = (1.0, 2.0), length: int = 8, **pooling: object) -> None:
        self.weights, self.max_seq_length = FakeTensor(list(weights)), length
        self.pooling = Pooling(**(pooling or {"pooling_mode": "mean"}))
        self.prompts: dict[str, str] = {"query": "ask: ", "passage": "read: "}

    def parameters(self) -> list[FakeTensor]:
        return [self.weights]

    def __iter__(self) -> object:
        return iter([self.pooling])

    def get_sentence_embedding_dimension(self) -> int:
        return 2

    def encode(self, batch: list[str], prompt_name: str | None = None, **_: object) -> np.ndarray:
        prompt = self.prompts.get(prompt_name or "", "")
        return np.array([[len(prompt + text), 1.0] for text in batch])


def test_prompts_for_queries_and_documents_are_used() -> None:
    embedder = SentenceTransformerEmbedder(FakeModel())
    np.testing.assert_array_equal(embedder.encode_queries(["abc"]), [[8, 1]])
    np.testing.assert_array_equal(embedder.encode_documents(["abc"]), [[9, 1]])
    assert embedder.encode_documents(["abc"]).dtype == np.float32
    assert (embedder.dimension, embedder.max_tokens) == (2, 8)


def test_the_identity_of_a_sentence_transformer_is_of_its_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["nearfield.embed.sentence_transformers"]
    monkeypatch.setattr(module, "_bytes", lambda tensor: memoryview(tensor.values).cast("B"))
    plain = SentenceTransformerEmbedder(FakeModel()).identity
    # The same pooling, as older versions of the library spell it.
    old = FakeModel(pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)
    assert SentenceTransformerEmbedder(old).identity == plain
    others = [FakeModel([1.0, 3.0]), FakeModel(length=9), FakeModel(pooling_mode="cls"), FakeModel()]
    others[-1].prompts = {}
    assert len({plain, *(SentenceTransformerEmbedder(other).identity for other in others)}) == 5


def test_a_missing_extra_is_one_sentence_with_its_pip_line(tmp_path: Path) -> None:
    (tmp_path / "sentence_transformers.py").write_text("raise ModuleNotFoundError(name='sentence_transformers')")
    code = (
        "from nearfield.embed import SentenceTransformerEmbedder as S\ntry: S('x')\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "pip install 'nearfield[sentence-transformers]'" in done.stdout
