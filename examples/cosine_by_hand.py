"""What a semantic search is, in NumPy: embed, take cosines, sort. Run: python examples/cosine_by_hand.py"""

from __future__ import annotations

import numpy as np

import nearfield as nf
from nearfield.embed import resolve

TEXTS = ["The cat sat on the mat.", "Stocks fell sharply.", "A kitten sleeps on the sofa.", "Bread rises in the oven."]


def main() -> None:
    embedder = resolve("default")
    vectors = np.asarray(embedder.encode_documents(TEXTS))
    query = np.asarray(embedder.encode_queries(["a feline resting on a rug"]))[0]
    print("a vector has", vectors.shape[1], "numbers")

    cosines = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    order = np.argsort(-cosines)[:2]
    print("by hand:     ", [(TEXTS[at], round(float(cosines[at]), 3)) for at in order])

    index = nf.Index(dimension=vectors.shape[1])  # the same for millions, exact, on 8-bit codes
    index.add(vectors)
    ids, scores = index.search(query, k=2)
    print("by nearfield:", [(TEXTS[at], round(float(score), 3)) for at, score in zip(ids, scores, strict=True)])
    assert ids.tolist() == order.tolist()
    print("the same")


if __name__ == "__main__":
    main()
