"""The measures of one answered query. All take the ids of the answers, best first, and what the judges said.

`judged` maps ids to grades: 0 or less is not relevant, more is relevant, and for nDCG the gain. What was not judged
counts as not relevant. The definitions are those of trec_eval (and so of BEIR), but the order is the one given: equal
scores are not sorted anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Measure = Callable[[Sequence[str], Mapping[str, float], int], float]


def recall(ranked: Sequence[str], judged: Mapping[str, float], k: int) -> float:
    """The share of the relevant ids that is among the first k.

    Example:
        >>> recall(["a", "x", "b"], {"a": 1, "b": 1, "c": 1}, k=2)
        0.3333333333333333
    """
    relevant = _relevant(judged)
    return sum(id in relevant for id in ranked[:k]) / len(relevant) if relevant else 0.0


def ndcg(ranked: Sequence[str], judged: Mapping[str, float], k: int) -> float:
    """Normalised discounted cumulative gain: sum of grade / log2(rank + 1) of the first k, by that of the best order.

    Jarvelin, Kekalainen: Cumulated Gain-Based Evaluation of IR Techniques (ACM TOIS 2002), with linear gains.

    Example:
        >>> round(ndcg(["x", "a"], {"a": 1}, k=10), 4)
        0.6309
    """
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)[:k]
    best = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, 1))
    got = sum(max(0.0, judged.get(id, 0)) / math.log2(rank + 1) for rank, id in enumerate(ranked[:k], 1))
    return got / best if best else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Mapping[str, float], k: int) -> float:
    """1 / rank of the first relevant id, 0 when none is among the first k. Its mean over queries is MRR.

    Example:
        >>> reciprocal_rank(["x", "a"], {"a": 1}, k=10)
        0.5
    """
    return next((1 / rank for rank, id in enumerate(ranked[:k], 1) if judged.get(id, 0) > 0), 0.0)


def average_precision(ranked: Sequence[str], judged: Mapping[str, float], k: int) -> float:
    """The sum of the precisions at the ranks of the relevant ids among the first k, by the number of all relevant ids.

    Its mean over queries is MAP.

    Example:
        >>> average_precision(["a", "x", "b"], {"a": 1, "b": 1}, k=10)
        0.8333333333333333
    """
    relevant, found, total = _relevant(judged), 0, 0.0
    for rank, id in enumerate(ranked[:k], 1):
        if id in relevant:
            found += 1
            total += found / rank
    return total / len(relevant) if relevant else 0.0


MEASURES: dict[str, Measure] = {"ndcg": ndcg, "recall": recall, "mrr": reciprocal_rank, "map": average_precision}


def _relevant(judged: Mapping[str, float]) -> set[str]:
    return {id for id, grade in judged.items() if grade > 0}
