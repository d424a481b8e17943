"""Embed many texts, keep the vectors, and use them without a model. Run: python examples/batch_encoding.py"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import nearfield as nf
from nearfield.embed import resolve


def main() -> None:
    texts = [f"{animal} number {n} {does}" for n in range(20) for animal, does in (("cat", "purrs"), ("dog", "barks"))]
    embedder = resolve("default")
    vectors = np.asarray(embedder.encode_documents(texts))  # batched by length, on all cores
    print("texts:", len(texts), "vectors:", vectors.shape, vectors.dtype)

    one_by_one = np.concatenate([embedder.encode_documents([text]) for text in texts[:4]])
    print("alone or in a batch, the same:", bool(np.allclose(vectors[:4], one_by_one, atol=1e-4)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        index = nf.Index(dimension=vectors.shape[1])
        index.add(np.load(path, mmap_mode="r"))
    ids, _ = index.search(embedder.encode_queries(["an animal that barks"])[0], k=5)
    print("nearest:", {texts[at].split()[0] for at in ids})


if __name__ == "__main__":
    main()
