"""Embedders that stand on another package, which is played here: what it is asked, what its failures become."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearfield import errors
from nearfield.embed import ClipEmbedder, Embedder, FastEmbedEmbedder, Model2VecEmbedder, find_pictures, resolve


class FakeText:
    """The surface of fastembed.TextEmbedding."""

    def __init__(self, model_name: str, **options: Any) -> None:
        if model_name.startswith("no/"):
            raise ValueError(f"Model {model_name} is not supported\nsecond line")
        self.model_name, self.options = model_name, options

    def embed(self, texts: list[str], batch_size: int = 256) -> Any:
        yield from (np.array([len(text), 0.0], dtype=np.float64) for text in texts)

    def passage_embed(self, texts: list[str], **options: Any) -> Any:
        yield from (np.array([len(text), 1.0], dtype=np.float64) for text in texts)

    def query_embed(self, texts: list[str], **options: Any) -> Any:
        yield from (np.array([len(text), 2.0], dtype=np.float64) for text in texts)


class FakePicture:
    def __init__(self, brightness: float) -> None:
        self.brightness = brightness

    def __enter__(self) -> FakePicture:
        return self

    def __exit__(self, *_: object) -> None: ...

    def convert(self, mode: str) -> FakePicture:
        assert mode == "RGB"
        return self


class FakeVision(FakeText):
    def embed(self, pictures: list[FakePicture], batch_size: int = 16) -> Any:
        yield from (np.array([picture.brightness, 0.0]) for picture in pictures)


class FakeStatic:
    """The surface of model2vec.StaticModel."""

    normalize = True

    def __init__(self, scale: float = 1.0) -> None:
        self.embedding = np.arange(8, dtype=np.float32).reshape(4, 2) * scale

    @classmethod
    def from_pretrained(cls, name: str) -> FakeStatic:
        if name == "missing":
            raise OSError("not on the hub")
        return cls()

    def encode(self, texts: list[str], *, max_length: int | None, show_progress_bar: bool) -> np.ndarray:
        assert max_length is None, "a text would be cut without a word"
        return np.array([[len(text), 1.0] for text in texts])


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    fastembed = types.ModuleType("fastembed")
    fastembed.TextEmbedding, fastembed.ImageEmbedding = FakeText, FakeVision  # type: ignore[attr-defined]
    model2vec = types.ModuleType("model2vec")
    model2vec.StaticModel = FakeStatic  # type: ignore[attr-defined]
    imaging = types.ModuleType("PIL.Image")

    def open_picture(path: str) -> FakePicture:
        content = Path(path).read_bytes()
        if not content.startswith(b"picture"):
            raise OSError("cannot identify image file")
        return FakePicture(float(content[7:]))

    imaging.open, imaging.DecompressionBombError = open_picture, RuntimeError  # type: ignore[attr-defined]
    pil = types.ModuleType("PIL")
    pil.Image = imaging  # type: ignore[attr-defined]
    for module in (fastembed, model2vec, pil, imaging):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.JPG").write_bytes(b"picture2")
    (tmp_path / "deep" / "a.png").write_bytes(b"picture9")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.usefixtures("packages")
def test_fastembed_tells_documents_from_queries() -> None:
    embedder = resolve("fastembed:BAAI/bge-small-en-v1.5")
    assert isinstance(embedder, Embedder)
    assert embedder.identity == "fastembed:BAAI/bge-small-en-v1.5"
    vectors = embedder.encode_documents(["abc"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[3, 1]])
    np.testing.assert_array_equal(embedder.encode_queries(["abc"]), [[3, 2]])
    assert embedder.encode_documents([]).shape == (0, 2)
    assert FastEmbedEmbedder(FakeText("loaded")).identity == "fastembed:loaded"


@pytest.mark.usefixtures("packages")
def test_no_package_may_report_its_use() -> None:
    import os

    resolve("fastembed:x")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.usefixtures("packages")
def test_model2vec_reads_to_the_end_and_is_known_by_its_table() -> None:
    embedder = resolve("model2vec:minishlab/potion-base-8M")
    assert isinstance(embedder, Embedder)
    np.testing.assert_array_equal(embedder.encode_documents(["x" * 9000]), [[9000, 1]])
    assert (embedder.dimension, embedder.max_tokens) == (2, None)
    assert embedder.encode_queries([]).shape == (0, 2)
    assert Model2VecEmbedder(FakeStatic()).identity == embedder.identity
    assert Model2VecEmbedder(FakeStatic(2.0)).identity != embedder.identity


@pytest.mark.usefixtures("packages")
def test_a_text_finds_pictures(pictures: Path) -> None:
    embedder = ClipEmbedder(batch_size=1)
    paths = find_pictures(pictures)
    assert [Path(path).name for path in paths] == ["b.JPG", "a.png"]
    np.testing.assert_array_equal(embedder.encode_documents(paths), [[2, 0], [9, 0]])
    np.testing.assert_array_equal(embedder.encode_queries(["a dog"]), [[5, 0]])
    assert embedder.identity == "clip:clip-ViT-B-32"
    assert (embedder.dimension, embedder.encode_documents([]).shape) == (2, (0, 2))


@pytest.mark.usefixtures("packages")
def test_a_clip_model_of_sentence_transformers_serves_both(pictures: Path) -> None:
    class Model:
        def encode(self, items: list[Any], **_: Any) -> np.ndarray:
            return np.array([[getattr(item, "brightness", 0.5), 1.0] for item in items])

    embedder = ClipEmbedder(Model())
    np.testing.assert_array_equal(embedder.encode_documents(find_pictures(pictures)), [[2, 1], [9, 1]])
    np.testing.assert_array_equal(embedder.encode_queries(["x"]), [[0.5, 1]])


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda at: FastEmbedEmbedder("no/such"), errors.NotFound, r"cannot load .*'no/such' .*not supported\)"),
        (lambda at: Model2VecEmbedder("missing"), errors.NotFound, "'missing' .*not on the hub.*give a folder"),
        (
            lambda at: ClipEmbedder().encode_documents([str(at / "gone.jpg")]),
            errors.InvalidInput,
            "there is no picture",
        ),
        (lambda at: ClipEmbedder().encode_documents([str(at / "notes.txt")]), errors.InvalidInput, "is not a picture"),
        (lambda at: ClipEmbedder().encode_queries([""]), errors.InvalidInput, r"texts\[0\] is empty"),
        (lambda at: find_pictures(at / "nowhere"), errors.NotFound, "no folder"),
        (lambda at: FastEmbedEmbedder(7), errors.InvalidInput, "got int"),
        (lambda at: Model2VecEmbedder(7), errors.InvalidInput, "got int"),
        (lambda at: ClipEmbedder(7), errors.InvalidInput, "got int"),
    ],
)
def test_failures_are_one_sentence(pictures: Path, call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(pictures)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["fastembed:x", "model2vec:x", "clip:x"])
def test_a_missing_package_is_told_with_its_pip_line(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fastembed", "model2vec"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'nearfield\[(fastembed|model2vec)\]'"):
        resolve(spec)
