"""The danger: a fused ranking that is not the one the formula says. Each formula again, slow and obvious."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield import fuse
from nearfield.errors import InvalidInput
from nearfield.fuse import RRF, Ranking, Weighted, ranking

SCORES = st.integers(-8, 8).map(lambda n: n / 4)  # exact in binary, and equal often enough
LEG = st.dictionaries(st.integers(0, 12), SCORES, max_size=9).map(lambda one: ranking(list(one), list(one.values())))
LEGS = st.fixed_dictionaries({"dense": LEG, "lexical": LEG})
WEIGHT = st.integers(0, 8).map(lambda n: n / 4)


def by_hand(total: Mapping[int, float]) -> list[tuple[int, float]]:
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))


def same(found: Ranking, wanted: list[tuple[int, float]]) -> None:
    """Equal up to rounding; keys whose scores are equal up to rounding may change places."""
    assert found.scores.tolist() == pytest.approx([score for _, score in wanted])
    known = dict(wanted)
    assert sorted(found.keys.tolist()) == sorted(known)
    assert [known[key] for key in found.keys.tolist()] == pytest.approx(found.scores.tolist())


@given(LEGS, st.integers(0, 100), WEIGHT)
def test_reciprocal_ranks_are_summed(legs: dict[str, Ranking], k: int, weight: float) -> None:
    total: dict[int, float] = {}
    for name, leg in legs.items():
        for rank, key in enumerate(leg.keys.tolist(), 1):
            total[key] = total.get(key, 0.0) + (weight if name == "dense" else 1.0) / (k + rank)
    same(RRF(k, {"dense": weight})(legs), by_hand(total))


@given(LEGS, WEIGHT, WEIGHT, st.sampled_from(["minmax", "dbsf"]))
def test_normalised_scores_are_averaged(legs: dict[str, Ranking], first: float, second: float, how: Any) -> None:
    weights = {"dense": first, "lexical": second}
    total: dict[int, float] = {}
    for name, leg in legs.items():
        scores = leg.scores.tolist()
        if not scores:
            continue
        low, high = min(scores), max(scores)
        if how == "dbsf":
            mean = sum(scores) / len(scores)
            spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) if len(scores) > 1 else 0.0
            low, high = mean - 3 * spread, mean + 3 * spread
        for key, score in zip(leg.keys.tolist(), scores, strict=True):
            scaled = min(1.0, max(0.0, (score - low) / (high - low))) if high > low else 1.0
            total[key] = total.get(key, 0.0) + weights[name] * scaled / ((first + second) or 1.0)
    same(Weighted(weights, how)(legs), by_hand(total))


def test_a_published_example_of_rank_fusion() -> None:
    """Ranks 1 and 3 against ranks 2 and 1 at k = 60: 1/61 + 1/63 < 1/62 + 1/61."""
    legs = {"dense": ranking([1, 2, 3], [3, 2, 1]), "lexical": ranking([2, 3, 1], [9, 8, 7])}
    fused = RRF()(legs)
    assert fused.keys.tolist() == [2, 1, 3]
    assert fused.scores.tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 63 + 1 / 62])


def test_equal_scores_are_ranked_by_key() -> None:
    assert ranking([5, 3, 4], [1, 1, 2]).keys.tolist() == [4, 3, 5]
    assert RRF()({"dense": ranking([9], [1]), "lexical": ranking([2], [1])}).keys.tolist() == [2, 9]


@given(st.lists(LEG, min_size=1, max_size=4))
def test_the_best_of_several_rankings_is_the_largest_score(rankings: list[Ranking]) -> None:
    best: dict[int, float] = {}
    for one in rankings:
        for key, score in zip(one.keys.tolist(), one.scores.tolist(), strict=True):
            best[key] = max(score, best.get(key, -math.inf))
    found = fuse.best_of(rankings)
    assert list(zip(found.keys.tolist(), found.scores.tolist(), strict=True)) == by_hand(best)


@given(st.integers(0, 12), st.integers(1, 14), st.floats(0, 1), st.integers(0, 10**6))
def test_marginal_relevance_chooses_as_its_formula_says(n: int, k: int, diversity: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((n, 3)).astype(np.float32)
    relevance = random.random(n)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    chosen: list[int] = []
    while len(chosen) < min(k, n):
        gains = {}
        for at in set(range(n)) - set(chosen):
            nearest = max((float(unit[at] @ unit[other]) for other in chosen), default=0.0)
            gains[at] = relevance[at] if not chosen else (1 - diversity) * relevance[at] - diversity * nearest
        chosen.append(max(gains, key=lambda at: gains[at]))
    assert fuse.mmr(relevance, vectors, k, diversity).tolist() == chosen


def test_king_minus_man_plus_woman() -> None:
    man, woman, crown = np.array([[1, 0, 0]]), np.array([[0, 1, 0]]), np.array([[0, 0, 1]])
    king = man + crown
    found = fuse.blend(np.concatenate([king, woman]).astype("f4"), man.astype("f4"), unit=False)
    assert found.tolist() == (woman + crown)[0].tolist()
    assert fuse.blend(np.array([[3, 0], [0, 5]], dtype="f4"), None, unit=True).tolist() == [0.5, 0.5]
    assert fuse.blend(np.array([[3, 0], [0, 5]], dtype="f4"), None, unit=False).tolist() == [1.5, 2.5]
    assert fuse.blend(np.zeros((1, 2), dtype="f4"), None, unit=True).tolist() == [0, 0]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_similarities_follow_their_definitions(metric: str) -> None:
    random = np.random.default_rng(3)
    queries, vectors = random.standard_normal((3, 5)), random.standard_normal((4, 5)).astype(np.float32)
    vectors[2] = 0
    found = fuse.similarity(queries, vectors, metric)
    for i, q in enumerate(queries.tolist()):
        for j, v in enumerate(vectors.tolist()):
            dot, lengths = sum(a * b for a, b in zip(q, v, strict=True)), math.hypot(*q) * math.hypot(*v)
            wanted = {"dot": dot, "cosine": dot / lengths if lengths else 0.0, "l2": -math.dist(q, v)}[metric]
            assert found[i, j] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: RRF(-1), "0 or more"),
        (lambda: RRF(float("nan")), "0 or more"),
        (lambda: RRF(60, {"sparse": 1.0}), "'dense' and 'lexical'"),
        (lambda: Weighted({"dense": -1.0}), "0 or more"),
        (lambda: Weighted([1, 2]), "dictionary"),  # type: ignore[arg-type]
        (lambda: Weighted(normalise="max"), "minmax"),  # type: ignore[arg-type]
        (lambda: fuse.fusion("best"), "'rrf', 'weighted'"),
    ],
)
def test_a_wrong_fusion_is_told(wrong: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        wrong()


def test_no_answers_fuse_to_none() -> None:
    empty = ranking([], [])
    for one in (RRF(), Weighted(), Weighted(normalise="dbsf")):
        assert len(one({"dense": empty, "lexical": empty}).keys) == 0
