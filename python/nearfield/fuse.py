"""Arithmetic on rankings and on vectors of examples: fusion, diversity, "more of this, less of that". Pure functions.

A ranking is a pair of arrays, best first: keys (int64, each once) and scores (float64, higher is better). Equal scores
are ranked by key, so the order never depends on how a ranking came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Ranking(NamedTuple):
    """Keys and their scores, best first."""

    keys: NDArray[np.int64]
    scores: NDArray[np.float64]


Fusion: TypeAlias = Callable[[Mapping[str, Ranking]], Ranking]
FUSIONS = ("rrf", "weighted")


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion: score(d) = sum over legs of weight / (k + rank(d)), ranks from 1. Scores play no part.

    Cormack, Clarke, Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods
    (SIGIR 2009), where k = 60.

    Args:
        k: how slowly the weight of a rank falls, 0 or more.
        weights: of the legs by name, for instance {"dense": 2.0, "lexical": 1.0}; 1.0 where none is given.

    Example:
        >>> fused = RRF()({"dense": ranking([7, 8], [0.9, 0.8]), "lexical": ranking([8, 9], [12.0, 3.0])})
        >>> fused.keys.tolist(), fused.scores.round(4).tolist()
        ([8, 7, 9], [0.0325, 0.0164, 0.0161])
    """

    k: float = 60.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.k >= 0:
            raise InvalidInput(f"RRF: k must be 0 or more, got {self.k!r}")
        _check_weights(self.weights)

    def __call__(self, legs: Mapping[str, Ranking]) -> Ranking:
        """The fused ranking of all keys that any leg has."""
        return _summed(
            (leg.keys, self.weights.get(name, 1.0) / (self.k + np.arange(1, len(leg.keys) + 1)))
            for name, leg in legs.items()
        )


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted mean of normalised scores: score(d) = sum over legs of weight * normalised(d) / sum of weights.

    A key that a leg does not have counts as 0 there: no better than the worst that the leg has.

    Args:
        weights: of the legs by name; 1.0 where none is given.
        normalise: "minmax": (s - min) / (max - min) over the leg, in [0, 1]; for weights and this normalisation see
            Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval (ACM TOIS 2023). "dbsf": the same
            from mean - 3 to mean + 3 standard deviations of the leg, clipped (distribution-based score fusion): one
            outlier cannot flatten the rest. A leg whose scores are all equal gives 1 to each of its keys.

    Example:
        >>> legs = {"dense": ranking([7, 8], [0.9, 0.8]), "lexical": ranking([8, 9], [12.0, 3.0])}
        >>> fused = Weighted({"dense": 0.7, "lexical": 0.3})(legs)
        >>> fused.keys.tolist(), fused.scores.round(4).tolist()
        ([7, 8, 9], [0.7, 0.3, 0.0])
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    normalise: Literal["minmax", "dbsf"] = "minmax"

    def __post_init__(self) -> None:
        if self.normalise not in ("minmax", "dbsf"):
            raise InvalidInput(f"Weighted: normalise must be 'minmax' or 'dbsf', got {self.normalise!r}")
        _check_weights(self.weights)

    def __call__(self, legs: Mapping[str, Ranking]) -> Ranking:
        """The fused ranking of all keys that any leg has."""
        weights = {name: self.weights.get(name, 1.0) for name in legs}
        whole = sum(weights.values()) or 1.0
        scale = minmax if self.normalise == "minmax" else dbsf
        return _summed((leg.keys, weights[name] / whole * scale(leg.scores)) for name, leg in legs.items())


def fusion(spec: str | Fusion) -> Fusion:
    """The fusion that a word or a function stands for.

    Raises:
        InvalidInput: it is neither "rrf", "weighted" nor callable.
    """
    if spec == "rrf":
        return RRF()
    if spec == "weighted":
        return Weighted()
    if callable(spec):
        return spec
    raise InvalidInput(f"unknown fusion {spec!r}: use 'rrf', 'weighted', RRF(k=60), Weighted({{...}}), or a function")


def ranking(keys: Any, scores: Any) -> Ranking:
    """A ranking of keys in any order.

    Example:
        >>> ranking([3, 1, 2], [0.1, 0.5, 0.5]).keys.tolist()
        [1, 2, 3]
    """
    ids, values = np.asarray(keys, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    order = np.lexsort((ids, -values))
    return Ranking(ids[order], values[order])


def best_of(rankings: Sequence[Ranking]) -> Ranking:
    """Each key with its best score in any of the rankings (CombMAX; Fox, Shaw: Combination of Multiple Searches, 1994).

    The first k of the result are right when each of the rankings has its first k: a key among the k best by its best
    score is among the k best of the ranking where it has that score.
    """
    if len(rankings) == 1:
        return rankings[0]
    keys, at = np.unique(np.concatenate([one.keys for one in rankings]), return_inverse=True)
    best = np.full(len(keys), -np.inf)
    np.maximum.at(best, at, np.concatenate([one.scores for one in rankings]))
    return ranking(keys, best)


def minmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores from 0 (the lowest) to 1 (the highest); all 1 where they are equal."""
    if not len(scores):
        return scores
    low, high = float(scores.min()), float(scores.max())
    return _scaled(scores, low, high)


def dbsf(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores from 0 to 1 between three standard deviations below and above their mean; all 1 where they are equal."""
    if not len(scores):
        return scores
    mean, spread = float(scores.mean()), 3 * float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    return np.clip(_scaled(scores, mean - spread, mean + spread), 0.0, 1.0)


def mmr(relevance: NDArray[np.float64], vectors: NDArray[np.float32], k: int, diversity: float) -> NDArray[np.int64]:
    """Positions of k candidates, chosen one after the other, each relevant and unlike those before it.

    Maximal marginal relevance: the next one maximises (1 - diversity) * relevance(d) - diversity * (largest cosine of d
    and one already chosen). Carbonell, Goldstein: The Use of MMR, Diversity-Based Reranking (SIGIR 1998), where
    diversity is 1 - lambda.

    Args:
        relevance: shape (n,), on the scale of cosines.
        vectors: shape (n, dimension); their lengths do not matter.
        k: how many; fewer come back when n is smaller.
        diversity: 0, by relevance alone, to 1, by difference alone (after the first, which is the most relevant).
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    nearest = np.zeros(len(relevance))
    gain, left = relevance.copy(), np.ones(len(relevance), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, len(relevance))):
        at = int(np.argmax(np.where(left, gain, -np.inf)))
        likeness = unit @ unit[at]
        nearest = likeness if not chosen else np.maximum(nearest, likeness)
        gain = (1 - diversity) * relevance - diversity * nearest
        left[at] = False
        chosen.append(at)
    return np.array(chosen, dtype=np.int64)


def blend(positive: NDArray[np.float32], negative: NDArray[np.float32] | None, *, unit: bool) -> NDArray[np.float32]:
    """One vector that is like the positive examples and unlike the negative ones: p + (p - n) of their means p and n.

    Two positive examples and a negative one give `king + woman - man` (Mikolov, Yih, Zweig: Linguistic Regularities in
    Continuous Space Word Representations, 2013); no negative one gives the mean.

    Args:
        positive, negative: shape (n, dimension); negative may be None or empty.
        unit: bring each example to length 1 first, as cosines do.
    """
    mean = _mean(positive, unit)
    whole = mean if negative is None or not len(negative) else 2 * mean - _mean(negative, unit)
    return whole.astype(np.float32)


def similarity(queries: NDArray[Any], vectors: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """The scores of a dense search, by their definition: float64, shape (queries, vectors).

    Example:
        >>> similarity(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]]), "cosine").tolist()
        [[0.6, 0.0]]
    """
    asked, there = queries.astype(np.float64), vectors.astype(np.float64)
    scores: NDArray[np.float64] = asked @ there.T
    if metric == "dot":
        return scores
    squares = np.einsum("ij,ij->i", asked, asked)[:, None], np.einsum("ij,ij->i", there, there)
    if metric == "l2":
        distances: NDArray[np.float64] = np.sqrt(np.maximum(squares[0] + squares[1] - 2 * scores, 0.0))
        return -distances
    lengths = np.sqrt(squares[0]) * np.sqrt(squares[1])
    cosines: NDArray[np.float64] = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return cosines


def _mean(vectors: NDArray[np.float32], unit: bool) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    if unit:
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        wide = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    mean: NDArray[np.float64] = wide.mean(axis=0)
    return mean


def _scaled(scores: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    width = high - low
    return (scores - low) / width if width > 0 else np.ones_like(scores)


def _summed(parts: Any) -> Ranking:
    keys, values = zip(*parts, strict=True)
    unique, at = np.unique(np.concatenate(keys), return_inverse=True)
    return ranking(unique, np.bincount(at, weights=np.concatenate(values), minlength=len(unique)))


def _check_weights(weights: Mapping[str, float]) -> None:
    if not isinstance(weights, Mapping):
        raise InvalidInput(f"weights must be a dictionary such as {{'dense': 0.7, 'lexical': 0.3}}, got {weights!r}")
    for name, weight in weights.items():
        if name not in ("dense", "lexical"):
            raise InvalidInput(f"weights has {name!r}; the legs are 'dense' and 'lexical'")
        if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise InvalidInput(f"the weight of {name!r} must be a number of 0 or more, got {weight!r}")
