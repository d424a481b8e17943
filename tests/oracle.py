"""The slow and obvious answer: brute force in float64 whose sums are exactly rounded.

A product of two float32 numbers is exact in float64, and `math.fsum` rounds the sum of such products once. So a dot
product here has one rounding, whatever the order of the terms: rows that tie, tie here too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

METRICS = ("cosine", "dot", "l2")


def _values(metric: str, rows: NDArray[np.float32], query: NDArray[np.float32]) -> list[float]:
    """What the answers are ordered by, higher is better: the cosine, the dot product, or minus the squared distance."""
    x, q = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return [
            -math.fsum(terms) for terms in np.concatenate([x * x, -2.0 * x * q, np.tile(q * q, (len(x), 1))], axis=1)
        ]
    dots = [math.fsum(terms) for terms in x * q]
    if metric == "dot":
        return dots
    query_norm = math.sqrt(math.fsum(q * q))
    norms = [math.sqrt(math.fsum(terms)) * query_norm for terms in x * x]
    return [dot / norm if norm > 0.0 else 0.0 for dot, norm in zip(dots, norms, strict=True)]


def search(
    metric: str, rows: NDArray[np.float32], ids: NDArray[np.int64], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k best of `rows` (n, d), which stand in insertion order, for each of `queries` (q, d)."""
    answer_ids = np.full((len(queries), k), -1, dtype=np.int64)
    answer_scores = np.full((len(queries), k), -np.inf)
    for number, query in enumerate(queries):
        values = _values(metric, rows, query)
        best = sorted(range(len(rows)), key=lambda position: (-values[position], position))[:k]
        answer_ids[number, : len(best)] = ids[best]
        answer_scores[number, : len(best)] = [-math.sqrt(-values[b]) if metric == "l2" else values[b] for b in best]
    return answer_ids, answer_scores


def assert_equal(
    got: tuple[NDArray[np.int64], NDArray[np.float32]], wanted: tuple[NDArray[np.int64], NDArray[np.float64]]
) -> None:
    """The same ids in the same order; the right scores rounded to float32, give or take one unit in the last place."""
    ids, scores = got
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    assert ids.shape == scores.shape == wanted[0].shape
    np.testing.assert_array_equal(ids, wanted[0])
    with np.errstate(over="ignore", under="ignore"):  # a dot product may lie beyond float32: then the score is infinite
        expected = wanted[1].astype(np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(scores[~finite], expected[~finite])
    slack = np.spacing(np.abs(expected[finite])).astype(np.float64)
    assert np.all(np.abs(scores[finite].astype(np.float64) - expected[finite]) <= slack), (scores, expected)
