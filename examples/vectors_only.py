"""The engine alone, for people who bring their own vectors. Run: python examples/vectors_only.py"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import nearfield as nf


def main() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((10_000, 128), dtype=np.float32)

    index = nf.Index(dimension=128, metric="cosine")
    ids = index.add(vectors)  # ids count up from 0 unless you give your own

    query = vectors[42] + 0.1 * random.standard_normal(128, dtype=np.float32)
    found, scores, report = index.search(query, k=3, report=True)
    print("nearest:", found.tolist(), "scores:", scores.round(3).tolist())
    print(f"exact: {report.exact}; {report.rows_reread} of {report.rows_scanned} rows were read in full")

    odd = ids[ids % 2 == 1]
    found, _ = index.search(query, k=3, allow=odd)  # only these may answer
    print("nearest among odd ids:", found.tolist())

    index.remove([42])
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "vectors.nfi")
        again = nf.Index.load(Path(folder) / "vectors.nfi")
    found, _ = again.search(query, k=1)
    print(f"{len(again)} vectors after a removal; 42 is gone: {42 not in found}")


if __name__ == "__main__":
    main()
