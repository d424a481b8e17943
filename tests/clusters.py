"""Rows that look like embeddings, and how many true answers were found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clustered(count: int, seed: int, dimension: int, centres: int) -> NDArray[np.float32]:
    """Rows (count, dimension) around as many centres, their variance falling from axis to axis; norms differ."""
    spread = 1.0 / np.sqrt(1.0 + np.arange(dimension))
    places = np.random.default_rng(0).standard_normal((centres, dimension)) * spread
    rng = np.random.default_rng(seed)
    drawn = places[rng.integers(centres, size=count)] + 0.7 * rng.standard_normal((count, dimension)) * spread
    return drawn.astype(np.float32)


def recall(got: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true answers found, on average over the queries."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(got.tolist(), truth.tolist(), strict=True)]))
