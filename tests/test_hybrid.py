"""The dangers of searching by words and by meaning at once: a leg that is forgotten, a filter that holds for one of
them only, words that are gone and still found, marks beside the words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from databases import Letters
from nearfield.errors import InvalidInput
from nearfield.fuse import RRF, Ranking, Weighted, ranking

WORDS = ["amber", "beach", "cabin", "delta", "ember", "fjord", "gable", "heron"]


@pytest.fixture(scope="module")
def docs() -> Iterator[nf.Collection]:
    chance = random.Random(7)
    with nf.open() as db:
        made = db.collection("c", embedder=Letters())
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 9))) for _ in range(80)]
        made.add(texts, ids=[f"{n:02}" for n in range(80)], metadatas=[{"n": n, "group": n % 4} for n in range(80)])
        yield made


def legs(docs: nf.Collection, query: str, depth: int, **options: Any) -> dict[str, Ranking]:
    """Both rankings, by id as a number."""
    found = {mode: docs.search(query, depth, mode=mode, **options) for mode in ("dense", "lexical")}
    return {mode: Ranking(*ranking([int(id) for id in hits.ids], hits.scores)) for mode, hits in found.items()}


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    st.integers(1, 60),
    st.integers(1, 120),
    st.sampled_from([RRF(), RRF(5, {"dense": 2.0}), Weighted(), Weighted({"lexical": 3.0}, "dbsf")]),
    st.sampled_from([None, {"n": {"$gte": 50}}, {"group": 1}]),
)
def test_hybrid_is_the_fusion_of_both_searches(
    docs: nf.Collection, query: str, k: int, depth: int, fusion: Any, where: Any
) -> None:
    hits = docs.search(query, k, mode="hybrid", fusion=fusion, candidates=depth, where=where)
    parts = legs(docs, query, max(k, depth), where=where)
    wanted = fusion(parts)
    assert [int(id) for id in hits.ids] == wanted.keys.tolist()[:k]
    assert hits.scores == pytest.approx(wanted.scores.tolist()[:k])
    words = dict(zip(parts["lexical"].keys.tolist(), parts["lexical"].scores.tolist(), strict=True))
    cosines = {hit.id: hit.score for hit in docs.search(query, 80)}
    for hit in hits:
        assert hit.scores["fused"] == hit.score == -hit.distance
        assert hit.scores.get("lexical") == words.get(int(hit.id))
        assert hit.scores["dense"] == pytest.approx(cosines[hit.id], abs=1e-6)  # also where only words found it
        if where is not None:
            assert hit.metadata["n"] >= 50 if "n" in where else hit.metadata["group"] == 1


def test_words_alone_are_found_without_a_model(db: nf.Database) -> None:
    embedder = Letters()
    docs = db.collection("c", embedder=embedder)
    docs.add(["a red fox", "foxes and hounds", "the blue whale"], ids=["fox", "foxes", "whale"])
    embedder.calls.clear()
    hits = docs.search("fox", mode="lexical")
    assert hits.ids == ["fox", "foxes"] or hits.ids == ["foxes", "fox"]
    assert all(hit.score > 0 and hit.scores == {"lexical": hit.score} for hit in hits)
    assert docs.search("the", mode="lexical").ids == []  # a stop word says nothing
    assert docs.search("unheard", mode="lexical").ids == []
    assert embedder.calls == []
    vectors = db.collection("v", embedder=None)
    vectors.add(["a red fox", None], embeddings=[[1, 0], [0, 1]], ids=["fox", "silent"])
    assert vectors.search("fox", mode="lexical").ids == ["fox"]


def test_highlights_stand_where_the_words_are(docs: nf.Collection) -> None:
    for hit in docs.search("delta herons", 80, mode="lexical"):
        assert hit.document is not None
        marked = [hit.document[start:end] for start, end in hit.highlights]
        assert marked == [word for word in hit.document.split() if word in ("delta", "heron")]
    assert docs.search("delta", mode="dense")[0].highlights == ()
    assert docs.search("delta", mode="hybrid", include=("metadatas",))[0].highlights == ()


def test_what_changes_is_found_as_it_is_now(db: nf.Database) -> None:
    docs = db.collection("c", embedder=Letters())
    docs.add(["apples and pears", "bread"], ids=["fruit", "bread"])
    assert docs.search("pear", mode="lexical").ids == ["fruit"]
    docs.update("fruit", documents="plums")
    docs.add("pear tart", ids="tart")
    assert docs.search("pear", mode="lexical").ids == ["tart"]
    assert docs.search("plum", mode="hybrid").ids[0] == "fruit"
    docs.update("tart", documents="apple tart", embeddings=[[1, 1, 1, 1]])
    assert docs.search("pear", mode="lexical").ids == []
    docs.delete("bread")
    assert "bread" not in docs.search("bread", mode="hybrid").ids


def test_a_batch_and_several_queries_as_one(docs: nf.Collection) -> None:
    batch = docs.search(["amber", "fjord cabin"], 5, mode="hybrid")
    assert [hits.ids for hits in batch] == [docs.search(q, 5, mode="hybrid").ids for q in ("amber", "fjord cabin")]
    both = docs.search(["amber", "fjord"], 80, mode="lexical", combine="max")
    best: dict[str, float] = {}
    for word in ("amber", "fjord"):
        for hit in docs.search(word, 80, mode="lexical"):
            best[hit.id] = max(hit.score, best.get(hit.id, 0.0))
    assert dict(zip(both.ids, both.scores, strict=True)) == best
    mean = docs.search(["amber", "fjord"], 80, mode="lexical", combine="mean")
    assert mean.ids == docs.search("amber fjord", 80, mode="lexical").ids


def test_more_like_this_by_words(docs: nf.Collection) -> None:
    document = docs.get("07")[0].document
    found = docs.similar("07", 5, mode="lexical")
    assert found.ids == [id for id in docs.search(document, 7, mode="lexical").ids if id != "07"][:5]
    assert "07" not in docs.similar("07", 80, mode="hybrid").ids


def test_groups_diversity_and_rerank_work_on_a_hybrid_search(docs: nf.Collection) -> None:
    hits = docs.search("amber beach", 4, mode="hybrid", group_by="group", candidates=4)
    assert sorted(hit.metadata["group"] for hit in hits) == [0, 1, 2, 3]
    reranked = docs.search("amber", 3, mode="hybrid", rerank=lambda q, texts: [-len(text) for text in texts])
    assert reranked[0].scores.keys() >= {"fused", "rerank"}
    assert reranked.scores == sorted(reranked.scores, reverse=True)
    assert len(docs.search("amber", 5, mode="hybrid", diversity=0.5)) == 5


def test_explain_tells_of_both_legs(docs: nf.Collection) -> None:
    report = docs.search("amber", mode="hybrid", explain=True).report
    assert report is not None
    assert list(report.stages) == ["embed", "dense", "lexical", "fuse", "fetch"]
    assert report.rows_scanned >= 80
    assert " + " in report.kind


def test_what_has_no_words_is_told(docs: nf.Collection) -> None:
    for mode in ("lexical", "hybrid"):
        with pytest.raises(InvalidInput, match="no words"):
            docs.search([1.0, 0, 0, 0], mode=mode)
    with pytest.raises(InvalidInput, match="negative"):
        docs.search("amber", mode="lexical", negative="fjord")
    with pytest.raises(InvalidInput, match="empty"):
        docs.search(" ", mode="lexical")
    assert nf.open().collection("c", embedder=Letters()).search("amber", mode="hybrid").ids == []
    assert docs.search([], mode="lexical") == []
