"""The danger: a figure that is not what its name says. Every measure again by its definition, and by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
from databases import Letters
from nearfield.errors import InvalidInput, NotFound
from nearfield.evaluate import (
    average_precision,
    compare_embedders,
    evaluate,
    evaluate_pairs,
    load_judged,
    ndcg,
    recall,
    reciprocal_rank,
    split_loss,
)
from nearfield.evaluate.pairs import best_threshold

IDS = st.integers(0, 12).map(str)
RANKED = st.lists(IDS, unique=True, max_size=12)
JUDGED = st.dictionaries(IDS, st.integers(-1, 3), max_size=8)
K = st.integers(1, 14)


# -- measures --------------------------------------------------------------------------------------------------------


def test_measures_worked_out_by_hand() -> None:
    """Answers of grade 3 2 3 0 1 2, and one of grade 3 and one of grade 2 missed: the example told everywhere."""
    ranked = ["a", "b", "c", "d", "e", "f"]
    judged = {"a": 3, "b": 2, "c": 3, "d": 0, "e": 1, "f": 2, "g": 3, "h": 2}
    assert ndcg(ranked, judged, 6) == pytest.approx(6.861 / 8.740, abs=1e-4)
    assert recall(ranked, judged, 6) == pytest.approx(5 / 7)
    assert average_precision(ranked, judged, 6) == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 6) / 7)
    assert reciprocal_rank(["d", "x", "e"], judged, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(["d", "x", "e"], judged, 2) == 0


@given(RANKED, JUDGED, K)
def test_measures_follow_their_definitions(ranked: list[str], judged: dict[str, int], k: int) -> None:
    relevant = [id for id, grade in judged.items() if grade > 0]
    hits = [1 if id in relevant else 0 for id in ranked[:k]]

    def gain(grades: Sequence[int]) -> float:
        return sum(max(0, grade) / math.log(at + 2, 2) for at, grade in enumerate(grades[:k]))

    best = gain(sorted(judged.values(), reverse=True))
    assert ndcg(ranked, judged, k) == pytest.approx(gain([judged.get(id, 0) for id in ranked]) / best if best else 0)
    assert recall(ranked, judged, k) == pytest.approx(sum(hits) / len(relevant) if relevant else 0)
    precisions = [sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit]
    assert average_precision(ranked, judged, k) == pytest.approx(sum(precisions) / len(relevant) if relevant else 0)
    assert reciprocal_rank(ranked, judged, k) == pytest.approx(1 / (hits.index(1) + 1) if 1 in hits else 0)


@given(st.permutations([str(n) for n in range(8)]), JUDGED)
def test_the_best_order_scores_one(ranked: list[str], judged: dict[str, int]) -> None:
    perfect = sorted({*judged, *ranked}, key=lambda id: -judged.get(id, 0))
    if any(grade > 0 for grade in judged.values()):
        for measure in (ndcg, recall, average_precision, reciprocal_rank):
            assert measure(perfect, judged, 20) == pytest.approx(1)
            assert measure(ranked, judged, 20) <= 1 + 1e-12


# -- collections -----------------------------------------------------------------------------------------------------


@pytest.fixture
def judged() -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    queries = {"q1": "aa", "q2": "bb", "q3": "cb", "lost": "a", "poor": "b"}
    return queries, {
        "q1": {"a": 1, "ab": 1},
        "q2": {"b": 1},
        "q3": {"b": 2, "c": 1},
        "poor": {"a": 0},
        "ghost": {"a": 1},
    }


def test_evaluate_measures_what_search_answers(letters: nf.Collection, judged: Any) -> None:
    queries, qrels = judged
    table = evaluate(letters, queries, qrels, k=[1, 3], modes={"plain": {}, "backwards": {"rerank": backwards}})
    assert table.queries == ["q1", "q2", "q3"]
    assert table.skipped == 2
    for name, options in (("plain", {}), ("backwards", {"rerank": backwards})):
        for at, query in enumerate(table.queries):
            ids = letters.search(queries[query], 3, **options).ids
            assert table.values[name]["ndcg@3"][at] == ndcg(ids, qrels[query], 3)
            assert table.values[name]["recall@1"][at] == recall(ids, qrels[query], 1)
    assert table.scores["plain"]["mrr@3"].mean > table.scores["backwards"]["mrr@3"].mean
    assert table.difference("plain", "backwards", "mrr@3").mean == pytest.approx(
        table.scores["plain"]["mrr@3"].mean - table.scores["backwards"]["mrr@3"].mean
    )
    assert list(table.scores["plain"]) == [f"{one}@{k}" for k in (1, 3) for one in ("ndcg", "recall", "mrr", "map")]
    reranked = evaluate(letters, queries, qrels, k=3, rerank=backwards)
    assert list(reranked.values) == ["dense", "dense + rerank"]
    assert reranked.values["dense + rerank"]["map@3"].tolist() == table.values["backwards"]["map@3"].tolist()


def backwards(query: str, texts: Sequence[str]) -> list[float]:
    return [float(at) for at in range(len(texts))]


def test_the_table_has_all_that_is_measured(letters: nf.Collection, judged: Any) -> None:
    table = evaluate(letters, *judged, k=3)
    plain = json.loads(json.dumps(table.to_dict()))
    assert (plain["queries"], plain["skipped"]) == (3, 2)
    assert plain["systems"]["dense"]["ndcg@3"] == pytest.approx(table.scores["dense"]["ndcg@3"]._asdict())
    lines = repr(table).splitlines()
    assert "3 queries" in lines[0]
    assert lines[1].split() == ["dense"]
    assert [line.split()[0] for line in lines[2:]] == ["ndcg@3", "recall@3", "mrr@3", "map@3"]
    assert f"{table.scores['dense']['map@3'].mean:.4f}" in lines[5]


def test_parts_of_a_document_count_by_the_best(db: nf.Database) -> None:
    docs = db.collection("c", embedder=Letters())
    docs.add(
        ["aaa", "aab", "aba", "bbb"], ids=["1", "2", "3", "4"], metadatas=[{"doc": d} for d in ("x", "x", "y", "z")]
    )
    table = evaluate(docs, {"q": "aa"}, {"q": {"y": 1}}, k=2, by="doc")
    assert table.values["dense"]["mrr@2"].tolist() == [0.5]  # x, y: not x, x


def test_the_interval_is_the_spread_of_means_over_resampled_queries() -> None:
    random = np.random.default_rng(5)
    values = random.random(400)
    table = nf.evaluate.Evaluation([str(n) for n in range(400)], {"s": {"m": values}}, resamples=4000)
    score = table.scores["s"]["m"]
    half = 1.96 * values.std() / math.sqrt(400)  # the central limit theorem's interval
    assert score.mean == pytest.approx(values.mean())
    assert score.low == pytest.approx(values.mean() - half, abs=half / 8)
    assert score.high == pytest.approx(values.mean() + half, abs=half / 8)
    assert table.scores == table.scores
    same = nf.evaluate.Evaluation(table.queries, {"s": {"m": np.full(400, 0.5)}}).scores["s"]["m"]
    assert same == (0.5, 0.5, 0.5)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    base = np.random.default_rng(6).random(200)
    table = nf.evaluate.Evaluation([str(n) for n in range(200)], {"a": {"m": base + 0.01}, "b": {"m": base}})
    assert table.difference("a", "b", "m") == pytest.approx((0.01, 0.01, 0.01))
    with pytest.raises(InvalidInput, match="'x'"):
        table.difference("a", "x", "m")


def test_wrong_evaluations_are_told(letters: nf.Collection) -> None:
    for queries, qrels, options, said in (
        ({"q": "a"}, {}, {}, "none of the 1 queries"),
        ({"q": "a"}, {"q": {"a": 0}}, {}, "none of the 1 queries"),
        ({"q": "a"}, {"q": {"nowhere": 1}}, {}, "none of the 1 relevant documents, such as 'nowhere'"),
        ({"q": "a"}, {"q": {"a": 1}}, {"by": "nothing"}, "by: no record .* has the field 'nothing'"),
        ({"q": "a"}, {"q": {"a": 1}}, {"k": 0}, "k must be"),
        ({"q": "a"}, {"q": {"a": 1}}, {"modes": "dense"}, "list"),
        ({"q": "a"}, {"q": {"a": 1}}, {"modes": []}, "empty"),
        ({"q": "a"}, {"q": {"a": 1}}, {"modes": ["magic"]}, "unknown mode"),
    ):
        with pytest.raises(InvalidInput, match=said):
            evaluate(letters, queries, qrels, **options)  # type: ignore[arg-type]


def test_embedders_side_by_side(judged: Any) -> None:
    documents = {"a": "aaa", "b": "bbb", "c": "ccc", "ab": "aab"}
    table = compare_embedders({"good": Letters(), "blind": Letters("blind", "xyz")}, documents, *judged, k=2)
    assert table.scores["good"]["recall@2"].mean > table.scores["blind"]["recall@2"].mean
    assert list(table.values) == ["good", "blind"]
    with pytest.raises(InvalidInput, match="no embedder"):
        compare_embedders({}, documents, *judged)


# -- where a loss comes from -----------------------------------------------------------------------------------------


def test_the_parts_of_a_loss_add_up(letters: nf.Collection, judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, qrels = judged
    loss = split_loss(letters, queries, qrels, k=2)
    assert loss.ndcg == pytest.approx(evaluate(letters, queries, qrels, k=2).scores["dense"]["ndcg@2"].mean)
    assert (loss.quantiser, loss.index, loss.agreement) == (0, 0, 1)
    assert loss.ndcg == pytest.approx(1 - loss.model)
    rounded = {record.id: record.embedding for record in letters.get(include=["embeddings"])}
    rounded["b"], rounded["c"] = rounded["c"], rounded["b"]  # as if storing had mixed them up
    mixed = split_loss(letters, queries, qrels, k=2, full=rounded)  # type: ignore[arg-type]
    assert mixed.quantiser < 0 < mixed.model
    real = type(letters).search

    def careless(self: Any, query: Any, k: int = 10, *, exact: bool = False, **options: Any) -> Any:
        found = real(self, query, k, exact=exact, **options)
        return found if exact else [nf.Hits(hits.hits[1:]) for hits in found]

    monkeypatch.setattr(type(letters), "search", careless)
    worse = split_loss(letters, queries, qrels, k=2)
    assert worse.index > 0
    assert worse.agreement == 0.5
    assert worse.ndcg == pytest.approx(1 - worse.model - worse.quantiser - worse.index)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_slow_scan_agrees_with_exact_search(metric: Any, judged: Any) -> None:
    docs = nf.open().collection("c", embedder=Letters(), metric=metric)
    words = ["".join(np.random.default_rng(n).choice(list("abcd"), 5)) for n in range(60)]
    docs.add(words, ids=[str(n) for n in range(60)])
    qrels = {query: {str(n): n % 3 for n in range(60)} for query in judged[0]}
    loss = split_loss(docs, judged[0], qrels, k=20)
    assert (loss.quantiser, loss.index) == (0, 0)


# -- pairs -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-4, 4).map(lambda n: n / 4), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_decides_better(pairs: list[tuple[float, bool]]) -> None:
    cosines, truth = np.array([c for c, _ in pairs]), np.array([t for _, t in pairs])
    bar = best_threshold(cosines, truth)
    right = ((cosines >= bar) == truth).sum()
    for other in np.arange(-1.125, 1.3, 0.125):
        assert ((cosines >= other) == truth).sum() <= right


def test_pairs_are_told_apart() -> None:
    pairs = [("aa", "aaa", 5.0), ("ab", "ba", 4.0), ("a", "b", 0.0), ("c", "bbb", 1.0), ("abc", "aab", 3.0)]
    report = evaluate_pairs(Letters(), pairs, similar=3)
    vectors = {text: Letters().encode_documents([text])[0] for pair in pairs for text in pair[:2]}
    cosines = [
        float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])) for a, b, _ in pairs
    ]
    truth = [grade >= 3 for _, _, grade in pairs]
    wins = [
        (x > y) + (x == y) / 2
        for x, t in zip(cosines, truth, strict=True)
        if t
        for y, u in zip(cosines, truth, strict=True)
        if not u
    ]
    assert report.auc == pytest.approx(sum(wins) / len(wins))
    assert report.similar == pytest.approx(np.mean([c for c, t in zip(cosines, truth, strict=True) if t]))
    assert report.different == pytest.approx(np.mean([c for c, t in zip(cosines, truth, strict=True) if not t]))
    order, wanted = np.argsort(np.argsort(cosines)), np.argsort(np.argsort([grade for _, _, grade in pairs]))
    n = len(pairs)
    assert report.spearman == pytest.approx(1 - 6 * ((order - wanted) ** 2).sum() / (n * (n * n - 1)))
    fixed = evaluate_pairs(Letters(), pairs, similar=3, threshold=-1.0)
    assert (fixed.recall, fixed.precision, fixed.accuracy) == (1, 0.6, 0.6)
    assert fixed.f1 == pytest.approx(0.75)
    assert json.dumps(report.to_dict())


def test_equal_ranks_share_their_mean() -> None:
    report = evaluate_pairs(Letters(), [("a", "a", 1), ("b", "b", 1), ("a", "b", 0), ("b", "a", 0)])
    assert report.spearman == pytest.approx(1)
    assert report.auc == 1


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "no pairs"),
        ([("a", "b", True)], "both kinds"),
        ([("a", "b")], "triples"),
        ([("", "b", 1), ("a", "b", 0)], "empty"),
    ],
)
def test_wrong_pairs_are_told(pairs: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        evaluate_pairs(lambda texts: nf.embed.FunctionEmbedder(len).encode_documents(texts), pairs)


# -- folders ---------------------------------------------------------------------------------------------------------


def folder(root: Path, qrels: str, where: str = "qrels/test.tsv") -> Path:
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(qrels)
    corpus = [{"_id": "d1", "title": "Aaa", "text": "aaa"}, {"id": 2, "text": "bbb"}, {"_id": "d3", "text": ""}]
    (root / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    queries = [{"_id": "q1", "text": "aa"}, {"_id": "q2", "text": "bb"}, {"_id": "q3", "text": "unjudged"}]
    (root / "queries.jsonl").write_text("\n\n".join(map(json.dumps, queries)))
    return root


@pytest.mark.parametrize(
    ("qrels", "where"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\t2\t0\n", "qrels/test.tsv"),
        ("q1\td1\t1\nq2\t2\t0", "qrels.tsv"),
        ("q1 0 d1 1\nq2 0 2 0\n", "qrels/test.tsv"),
    ],
)
def test_a_folder_of_judged_queries_is_read(tmp_path: Path, db: nf.Database, qrels: str, where: str) -> None:
    read = load_judged(folder(tmp_path / "tiny", qrels, where))
    assert read == (
        "tiny",
        {"d1": "Aaa aaa", "2": "bbb", "d3": ""},
        {"q1": "aa", "q2": "bb"},
        {"q1": {"d1": 1}, "q2": {"2": 0}},
    )
    docs = db.collection("c", embedder=Letters())
    docs.add("there already", ids="d1")
    seen: list[tuple[int, int]] = []
    assert read.fill(docs, lambda done, total: seen.append((done, total))) == 1
    assert seen == [(1, 1)]
    assert {record.id: record.document for record in docs.get()} == {"d1": "there already", "2": "bbb"}
    assert read.fill(docs) == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{broken', r"corpus\.jsonl:2"),
        ("corpus.jsonl", '{"_id": "d1"}', r"corpus\.jsonl:1"),
        ("queries.jsonl", '{"_id": 1.5, "text": "a"}', r"queries\.jsonl:1"),
        ("queries.jsonl", '["q1", "a"]', r"queries\.jsonl:1"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td1\tmany\n", r"test\.tsv:2"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\n", r"test\.tsv:2"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    folder(tmp_path, "q1\td1\t1\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInput, match=said):
        load_judged(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="UTF-8"):
        load_judged(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(NotFound, match=name.split("/")[0]):
        load_judged(tmp_path)
