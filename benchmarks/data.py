"""Vectors to measure with: real ones when they are at hand, otherwise made to resemble them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REAL = Path(__file__).parents[2] / "shared" / "data" / "passages" / "vectors.f16.npy"
PIECE = 50_000  # rows made at a time


def _normalise(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(
    rows: int, queries: int, dimension: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Unit vectors around 2,000 centres, with variances that fall as 1/i along hidden axes, and a common direction."""
    rng = np.random.default_rng(seed)
    spread = (1.0 / np.sqrt(1.0 + np.arange(dimension))).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    centres = rng.standard_normal((2000, dimension), dtype=np.float32) * spread
    centres[:, 0] += 1.0

    def draw(count: int) -> NDArray[np.float32]:
        noise = rng.standard_normal((count, dimension), dtype=np.float32) * spread
        return _normalise((centres[rng.integers(2000, size=count)] + 0.7 * noise) @ axes)

    base = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, PIECE):
        base[start : start + PIECE] = draw(min(PIECE, rows - start))
    return base, draw(queries), "clustered synthetic vectors, variances falling as 1/i"


def real(rows: int, queries: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """MiniLM vectors of real passages. The last ones are the queries and are not among the rows; the others are
    repeated to fill the rows, every repeat moved by 15 % of the difference of two other passages: noise of the shape
    that the data has itself, so that repeats come nearer to a query as well as go farther from it."""
    vectors = _normalise(np.load(REAL).astype(np.float32))
    source, asked = vectors[:-queries], vectors[-queries:]
    rng = np.random.default_rng(seed)
    base = np.empty((rows, vectors.shape[1]), np.float32)
    for start in range(0, rows, len(source)):
        piece = source[: rows - start]
        if start:
            one, other = (source[rng.integers(len(source), size=len(piece))] for _ in range(2))
            piece = _normalise(piece + np.float32(0.15) * (one - other))
        base[start : start + len(piece)] = piece
    return base, asked, f"{len(source):,} real MiniLM vectors, repeated with noise of their own kind"


def load(
    name: str | None, rows: int, queries: int, dimension: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """`name` is "shared", "clustered" or None: the real vectors if they are there and fit.

    Returns:
        rows (rows, dimension) and queries (queries, dimension), float32 of unit length, and a line about them.
    """
    if name == "shared" or (name is None and REAL.exists() and dimension == 384):
        return real(rows, queries)
    return clustered(rows, queries, dimension)
