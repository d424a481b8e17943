"""The dangers of a refined search: an example among its own answers, a group that crowds out the rest, a reranker that
is believed when it talks nonsense, a cut that comes too early."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from databases import Letters
from nearfield.errors import InvalidInput, NotFound


def vectors(n: int, dimension: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)


def filled(n: int, groups: int = 5, **options: Any) -> tuple[nf.Collection, np.ndarray[Any, Any]]:
    collection = nf.open().collection("c", embedder=None, **options)
    made = vectors(n)
    collection.add(
        [f"text {i}" for i in range(n)],
        embeddings=made,
        ids=[str(i) for i in range(n)],
        metadatas=[{"group": i % groups, "n": i} for i in range(n)],
    )
    return collection, made


def cosines(made: np.ndarray[Any, Any], query: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = made.astype(np.float64)
    return wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)


# -- what a hit carries ----------------------------------------------------------------------------------------------


def test_a_hit_says_where_its_score_comes_from(letters: nf.Collection) -> None:
    hit = letters.search("aa", k=1)[0]
    assert hit.scores == {"dense": hit.score}
    assert hit.highlights == ()
    assert hit.embedding is None


def test_include_decides_what_a_hit_carries(letters: nf.Collection) -> None:
    hits = letters.search("aa", k=3, include=("embeddings",))
    kept = {record.id: record.embedding for record in letters.get(include=["embeddings"])}
    for hit in hits:
        assert hit.embedding is not None
        assert hit.embedding.tolist() == kept[hit.id].tolist()  # type: ignore[union-attr]
        assert (hit.document, hit.metadata) == (None, {})
    assert json.dumps(hits.to_dicts())
    with pytest.raises(InvalidInput, match="vectors"):
        letters.search("aa", include=("vectors",))


def test_marks_go_around_the_highlights() -> None:
    hit = nf.Hit("x", 1.0, 0.0, "a big cat", highlights=((2, 5), (6, 9)))
    assert hit.marked() == "a **big** **cat**"
    assert nf.Hit("x", 1.0, 0.0, "plain").marked("<", ">") == "plain"
    assert nf.Hit("x", 1.0, 0.0).marked() == ""


def test_explain_tells_the_time_of_each_stage(letters: nf.Collection) -> None:
    report = letters.search(
        "aa", where={"n": {"$gt": 0}}, rerank=lambda q, texts: [1.0] * len(texts), explain=True
    ).report
    assert report is not None
    assert list(report.stages) == ["embed", "filter", "dense", "fuse", "fetch", "rerank"]
    assert all(spent >= 0 for spent in report.stages.values())


# -- examples --------------------------------------------------------------------------------------------------------


def test_similar_records_do_not_answer_for_themselves() -> None:
    collection, made = filled(40)
    for k in (1, 5, 39, 50):
        wanted = [str(i) for i in np.argsort(-cosines(made, made[7])) if i != 7]
        assert collection.similar("7", k).ids == wanted[:k]
    assert collection.similar(made[7], 3).ids[0] == "7"  # a vector is not a record
    assert collection.similar("7", 3, where={"group": 0}).ids == [w for w in wanted if int(w) % 5 == 0][:3]


def test_positive_and_negative_examples() -> None:
    collection, made = filled(40)
    unit = made / np.linalg.norm(made, axis=1, keepdims=True)
    order = np.argsort(-cosines(made, unit[1] + unit[2] - unit[3]))
    wanted = [str(i) for i in order if i not in (1, 2, 3)]
    assert collection.similar(["1", "2"], 10, negative="3").ids == wanted[:10]
    assert collection.similar(["1", made[2]], 10, negative=[made[3]]).ids == [str(i) for i in order if i != 1][:10]
    found = collection.search(np.stack([made[1], made[2]]), 40, combine="mean", negative=made[3])
    assert found.ids == [str(i) for i in order]
    one = collection.search(made[1], 40, negative=made[3])
    assert one.ids == [str(i) for i in np.argsort(-cosines(made, 2 * unit[1] - unit[3]))]


def test_texts_as_examples(letters: nf.Collection) -> None:
    assert letters.search(["a", "b"], combine="mean", k=1).ids == ["ab"]
    assert letters.search("aab", k=1, negative="bbb").ids == ["a"]
    hits = letters.search(["a", "b"], combine="mean", k=1)
    assert hits.query == "a b"


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 45), st.integers(0, 10**6), st.sampled_from(["cosine", "dot", "l2"]))
def test_several_vectors_count_by_the_best(count: int, k: int, seed: int, metric: str) -> None:
    collection, made = filled(40, metric=metric)
    queries = vectors(count, seed=seed).astype(np.float64)
    wide = made.astype(np.float64)
    scores = {
        "cosine": np.stack([cosines(made, query) for query in queries]),
        "dot": queries @ wide.T,
        "l2": -np.linalg.norm(queries[:, None] - wide[None], axis=2),
    }[metric].max(axis=0)
    hits = collection.search(queries, k, combine="max")
    assert hits.ids == [str(i) for i in np.argsort(-scores)[:k]]
    assert hits.scores == pytest.approx(np.sort(scores)[::-1][:k].tolist(), abs=1e-5)


def test_wrong_examples_are_told(letters: nf.Collection) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        letters.similar("nobody")
    with pytest.raises(NotFound, match=r"'nobody'.*negative"):
        letters.similar("a", negative="nobody")
    with pytest.raises(InvalidInput, match="at least one example"):
        letters.similar([])
    with pytest.raises(InvalidInput, match="4"):
        letters.similar([1.0, 2.0])
    with pytest.raises(InvalidInput, match="'mean', 'max'"):
        letters.search(["a", "b"], combine="sum")
    with pytest.raises(InvalidInput, match="at least one query"):
        letters.search([], combine="mean")


# -- groups ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 3), st.integers(1, 12), st.integers(1, 20), st.integers(0, 10**6))
def test_groups_never_cost_answers(k: int, size: int, groups: int, candidates: int, seed: int) -> None:
    """Also when the nearest candidates all belong to one group, the others are found."""
    collection, made = filled(60, groups)
    query = vectors(1, seed=seed)[0]
    counts: dict[int, int] = {}
    wanted = []
    for at in np.argsort(-cosines(made, query)).tolist():
        counts[at % groups] = counts.get(at % groups, 0) + 1
        if counts[at % groups] <= size:
            wanted.append(str(at))
    found = collection.search(query, k, group_by="group", group_size=size, candidates=candidates)
    assert found.ids == wanted[:k]


def test_a_record_without_the_field_is_a_group_of_its_own() -> None:
    collection = nf.open().collection("c", embedder=None)
    fields: list[Any] = [{"g": 1}, {"g": 1.0}, {"g": True}, {"g": "1"}, {}, {"g": None}, {"g": [1]}, {"g": [1]}]
    collection.add(embeddings=[[1.0, n / 10] for n in range(8)], ids=[str(n) for n in range(8)], metadatas=fields)
    assert collection.search([1.0, 0.0], 8, group_by="g").ids == ["0", "2", "3", "4", "5", "6"]


# -- diversity -------------------------------------------------------------------------------------------------------


def test_diversity_passes_over_duplicates() -> None:
    collection = nf.open().collection("c", embedder=None)
    collection.add(embeddings=[[1, 0.1], [1, 0.1], [1, 0.12], [0.8, -0.8], [0.1, 1]], ids=list("abcde"))
    assert collection.search([1.0, 0.0], 3).ids == ["a", "b", "c"]
    hits = collection.search([1.0, 0.0], 2, diversity=0.5)
    assert hits.ids == ["a", "d"]
    assert hits.scores == pytest.approx([1 / np.sqrt(1.01), np.sqrt(0.5)])  # the scores stay what they were
    assert collection.search([1.0, 0.0], 5, diversity=1e-9).ids == collection.search([1.0, 0.0], 5).ids


# -- rerank ----------------------------------------------------------------------------------------------------------


def by_length(query: str, texts: Sequence[str]) -> list[float]:
    return [-abs(len(text) - len(query)) for text in texts]


def test_a_reranker_ranks_anew_and_its_equals_stay_in_order() -> None:
    collection = nf.open().collection("c", embedder=Letters())
    collection.add(["aaaaaaaa", "ab", "aa", "bbbb", "c"], ids=["long", "ab", "aa", "bbbb", "c"])
    hits = collection.search("aa", 3, rerank=by_length)
    assert hits.ids == ["aa", "ab", "c"]
    assert hits.scores == [0, 0, -1]
    assert hits[1].scores["rerank"] == 0
    assert hits[1].scores["dense"] < 1
    assert hits[0].distance == 0
    assert collection.search("aa", 5, rerank=by_length, min_score=-1).ids == ["aa", "ab", "c"]
    assert collection.search("aa", 5, rerank=by_length, candidates=5, min_score=1).ids == []


def test_only_candidates_are_reranked(letters: nf.Collection) -> None:
    seen: list[str] = []

    def watch(query: str, texts: Sequence[str]) -> list[float]:
        seen.extend(texts)
        return [0.0] * len(texts)

    letters.search("aa", 1, rerank=watch, candidates=2)
    assert seen == ["aaa", "aab"]


def test_a_reranker_gets_enough_candidates_for_all_the_groups() -> None:
    """One group has the nearest two thousand; the reranker must not be asked for all of them either."""
    asked: list[int] = []

    def count(query: str, texts: list[str]) -> list[float]:
        asked.append(len(texts))
        return [float(len(text)) for text in texts]

    collection = nf.open().collection("c", embedder=lambda texts: [[1.0, 0.0]] * len(texts))
    near = [[1.0, i / 1e5] for i in range(2000)]
    collection.add(["near"] * 2000, embeddings=near, metadatas=[{"g": 0}] * 2000)
    far = [[1.0, 1.0 + i] for i in range(9)]
    collection.add(
        [f"far away {'!' * i}" for i in range(9)], embeddings=far, metadatas=[{"g": i + 1} for i in range(9)]
    )
    hits = collection.search("x", 4, group_by="g", rerank=count)
    assert sorted(hit.metadata["g"] for hit in hits) == [0, 1, 2, 3]
    assert [hit.metadata["g"] for hit in hits] == [3, 2, 1, 0]
    assert len(asked) == 1
    assert asked[0] <= 110  # the usual hundred, and who brings a new group
    assert len(collection.search("x", 9, group_by="g", where={"g": {"$lt": 5}}, rerank=count)) == 5


def test_a_record_without_a_document_is_not_reranked() -> None:
    collection = nf.open().collection("c", embedder=lambda texts: [[1.0, 0.0]] * len(texts))
    collection.add(["told", None], embeddings=[[1, 0], [1, 0]], ids=["a", "b"])
    assert collection.search("x", rerank=by_length).ids == ["a"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (lambda n: [1.0] * (n + 1), r"shape \(5,\) for 4 texts"),
        (lambda n: [float("nan")] * n, "NaN or infinity for text 0"),
        (lambda n: None, "shape|numbers"),
        (lambda n: ["best"] * n, "not numbers"),
    ],
)
def test_a_reranker_that_talks_nonsense_is_told(letters: nf.Collection, scores: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        letters.search("aa", rerank=lambda query, texts: scores(len(texts)))


def test_a_vector_cannot_be_reranked(letters: nf.Collection) -> None:
    with pytest.raises(InvalidInput, match="the query has none"):
        letters.search([1, 0, 0, 0], rerank=by_length)
    with pytest.raises(InvalidInput, match="int 5"):
        letters.search("a", rerank=5)
    assert letters.similar("a", 1, rerank=by_length)[0].scores.keys() == {"dense", "rerank"}


def test_wrong_options_are_told(letters: nf.Collection) -> None:
    for options in (
        {"diversity": 2},
        {"diversity": "much"},
        {"group_by": "a.b\0"},
        {"group_by": 5},
        {"group_size": 0},
        {"candidates": 0},
        {"fusion": "sum"},
        {"mode": "magic"},
    ):
        with pytest.raises(InvalidInput):
            letters.search("a", **options)  # type: ignore[call-overload]
