"""The danger: an answer that a slow and obvious scoring of every document would not give.

The oracle is in plain Python; the Rust tests beside `sparse.rs` look longer, and compare to the last bit.
"""

from __future__ import annotations

import math
import os
import pickle
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from nearfield.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from nearfield.sparse import languages

EXAMPLES = int(os.environ.get("NEARFIELD_TEST_EXAMPLES", "60"))
WORDS = ["ant", "bee", "cat", "dog", "eel", "fox"]
TEXTS = ["The cat sat on the mat.", "Dogs chase cats.", "Stocks fell sharply.", "", "the of and"]

documents = st.lists(st.lists(st.sampled_from(WORDS), max_size=12), max_size=12)


def oracle(
    kind: str, texts: dict[int, list[str]], query: list[str], k1: float = 1.2, b: float = 0.75
) -> dict[int, float]:
    """The score of every document that has a word of the query, by the formulas of the documentation."""
    n = len(texts)
    mean = sum(map(len, texts.values())) / n if n else 0
    scores: dict[int, float] = {}
    for word in query:
        df = sum(word in text for text in texts.values())
        for id, text in texts.items():
            if tf := Counter(text)[word]:
                if kind == "bm25":
                    idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
                    add = idf * tf / (tf + k1 * (1 - b + b * len(text) / mean))
                else:
                    add = (1 + math.log((n + 1) / (df + 1))) ** 2 * math.sqrt(tf / len(text))
                scores[id] = scores.get(id, 0.0) + add
    return scores


def ranked(scores: dict[int, float], k: int) -> list[int]:
    order = {id: place for place, id in enumerate(scores)}
    return sorted(scores, key=lambda id: (-np.float32(scores[id]), order[id]))[:k]


def check(index: nf.SparseIndex, texts: dict[int, list[str]], query: list[str], k: int, **options: Any) -> None:
    allow = set(options.get("allow", texts))
    wanted = {id: score for id, score in oracle(index.kind, texts, query).items() if id in allow}
    wanted = {id: wanted[id] for id in texts if id in wanted}  # insertion order
    ids, scores = index.search(" ".join(query), k, **options)
    assert ids.shape == scores.shape == (k,)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    count = min(k, len(wanted))
    assert (ids[count:] == -1).all()
    assert np.isneginf(scores[count:]).all()
    np.testing.assert_allclose(scores[:count], [wanted[id] for id in ids[:count].tolist()], rtol=1e-6)
    best = ranked(wanted, k)
    np.testing.assert_allclose(scores[:count], [wanted[id] for id in best], rtol=1e-6)
    close = {
        id for id in wanted if best and math.isclose(wanted[id], wanted[best[-1]], rel_tol=1e-6)
    }  # the last place may be shared by documents whose scores differ by rounding alone
    assert set(ids[:count].tolist()) ^ set(best) <= close


@settings(max_examples=EXAMPLES)
@given(
    kind=st.sampled_from(["bm25", "tfidf"]),
    batches=st.lists(st.tuples(documents, st.sets(st.integers(0, 60), max_size=12)), min_size=1, max_size=5),
    query=st.lists(st.sampled_from([*WORDS, "gnu"]), max_size=5),
    k=st.integers(1, 12),
)
def test_every_answer_is_the_one_of_scoring_all_documents_that_are_there(
    kind: Any, batches: list[tuple[list[list[str]], set[int]]], query: list[str], k: int
) -> None:
    index = nf.SparseIndex(kind, None)
    texts: dict[int, list[str]] = {}
    for new, gone in batches:
        ids = index.add([" ".join(text) for text in new])
        texts.update(zip(ids.tolist(), new, strict=True))
        check(index, texts, query, k)
        gone &= texts.keys()
        assert index.remove(sorted(gone)) == len(gone)
        texts = {id: text for id, text in texts.items() if id not in gone}
        check(index, texts, query, k)
        check(index, texts, query, k, allow=sorted(texts)[::2])
        assert len(index) == len(texts)


@settings(max_examples=EXAMPLES)
@given(
    rows=st.lists(st.dictionaries(st.integers(0, 8), st.integers(-4, 4)), max_size=20),
    query=st.dictionaries(st.integers(0, 9), st.integers(-4, 4)),
    k=st.integers(1, 8),
)
def test_dot_products_of_sparse_vectors_are_those_of_dense_ones(
    rows: list[dict[int, int]], query: dict[int, int], k: int
) -> None:
    index = nf.SparseIndex("vectors")
    index.add(rows)
    place = {key for key, value in query.items() if value}
    scores = {
        id: float(sum(value * query.get(key, 0) for key, value in row.items()))
        for id, row in enumerate(rows)
        if any(value and key in place for key, value in row.items())
    }
    ids, got = index.search(query, k)
    best = ranked(scores, k)
    assert ids[: len(best)].tolist() == best
    assert got[: len(best)].tolist() == [scores[id] for id in best]
    assert (ids[len(best) :] == -1).all()


def test_vectors_may_come_as_dictionaries_pairs_or_a_sparse_matrix() -> None:
    index = nf.SparseIndex("vectors")
    assert index.add([{3: 0.5, 2**32 - 1: 2.0}, [(3, 1.5)], {}, [(np.int64(7), np.float32(1))]]).tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert index.add({3: 4.0}).tolist() == [4]
    assert index.search({3: 2.0})[0][:3].tolist() == [4, 1, 0]
    assert index.search([(3, 2.0)], 3)[1].tolist() == [8.0, 3.0, 1.0]
    assert index.search([{3: 2.0}, [(2**32 - 1, 1)], {}], 2)[0].tolist() == [[4, 1], [0, -1], [-1, -1]]
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.array([[0, 0, 0, 9.0], [1, 0, 0, 0]]))
    assert index.add(matrix).tolist() == [5, 6]
    assert index.search(matrix, 1)[0].tolist() == [[5], [6]]


def test_shapes_are_those_of_the_dense_index() -> None:
    index = nf.SparseIndex()
    index.add(TEXTS)
    assert index.search("cat", 2)[0].shape == (2,)
    ids, scores = index.search(["cat", "stocks"], 2)
    assert ids.shape == scores.shape == (2, 2)
    assert index.search([], 2)[0].shape == (0, 2)
    assert index.search("")[0].tolist() == index.search("the of !?")[0].tolist() == [-1] * 10
    ids, scores, report = index.search(["cats", "of"], 1, report=True)
    assert ids.tolist() == [[0], [-1]]
    assert (report.kind, report.exact, report.queries) == ("bm25", True, 2)
    assert report.rows_scanned >= report.rows_reread > 0


def test_scores_are_the_same_with_a_filter_and_without() -> None:
    index = nf.SparseIndex()
    index.add(TEXTS)
    ids, scores = index.search("cat dogs stocks", 3)
    for allow in ([int(ids[2]), 77], np.arange(5) == ids[2]):
        found, same = index.search("cat dogs stocks", 3, allow=allow)
        assert (found.tolist(), same[0]) == ([ids[2], -1, -1], scores[2])
    assert index.search("cat", allow=[])[0].tolist() == [-1] * 10


def test_a_language_joins_the_forms_of_a_word_and_none_keeps_them_apart() -> None:
    english, plain = nf.SparseIndex(), nf.SparseIndex(language=None)
    for index in (english, plain):
        index.add(["The cats", "a CAT"])
    assert english.search("cat", 3)[0].tolist() == [0, 1, -1]
    assert plain.search("cat", 3)[0].tolist() == [1, -1, -1]
    assert plain.search("THE", 3)[0].tolist() == [0, -1, -1]
    assert "french" in languages()
    with pytest.raises(InvalidInput, match=r"unknown language \"klingon\".*french"):
        nf.SparseIndex(language="klingon")


def test_highlights_are_places_in_characters() -> None:
    index = nf.SparseIndex()
    text = "Über 😀 Cats: the CAT’s café, cafés"
    assert [text[a:b] for a, b in index.highlights(text, "a cat in a cafe")] == ["Cats", "CAT’s", "café", "cafés"]
    assert index.highlights("", "cat") == index.highlights("the", "the") == []


def test_a_saved_index_and_a_pickled_one_are_the_same(tmp_path: Path) -> None:
    for kind in ("bm25", "tfidf"):
        index = nf.SparseIndex(kind, "german", 0.9, 0.3)  # type: ignore[arg-type]
        index.add(["Häuser am Meer", "das Haus", "Meere"] * 5)
        index.remove([0, 14])
        index.save(tmp_path / "a.nfi")
        for other in (nf.SparseIndex.load(tmp_path / "a.nfi"), pickle.loads(pickle.dumps(index))):
            assert (len(other), other.kind, other.language) == (13, kind, "german")
            for query in ("haus", "meer haus"):
                np.testing.assert_array_equal(other.search(query, 20), index.search(query, 20))
            assert other.add("neu").tolist() == [15]
    vectors = nf.SparseIndex("vectors")
    vectors.add([{1: -1.0}, {1: 2.0}])
    vectors.save(tmp_path / "a.nfi")
    assert nf.SparseIndex.load(tmp_path / "a.nfi").search({1: -3}, 2)[1].tolist() == [3.0, -6.0]


def test_a_damaged_or_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nfi"
    with pytest.raises(NotFound):
        nf.SparseIndex.load(path)
    dense = nf.Index(2)
    dense.add([[1.0, 2.0]])
    dense.save(path)
    with pytest.raises(Corrupt):
        nf.SparseIndex.load(path)
    nf.SparseIndex().save(path)
    assert len(nf.SparseIndex.load(path)) == 0
    with pytest.raises(Corrupt):
        nf.Index.load(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Corrupt):
        nf.SparseIndex.load(path)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("bm25", 3, "texts"),
        ("bm25", ["a", None], r"\[1\]"),
        ("bm25", [{1: 2.0}], r"\[0\] must be a text"),
        ("bm25", ["fine", "half \ud800"], r"\[1\] holds half a surrogate"),
        ("bm25", b"bytes", "texts"),
        ("vectors", "text", "sparse vectors"),
        ("vectors", ["text"], r"\[0\] must be a dictionary"),
        ("vectors", [{1: 1.0}, {1: float("nan")}], r"\[1\] holds NaN"),
        ("vectors", [{1: 1e39}], r"\[0\] holds NaN or infinity"),
        ("vectors", [{-1: 1.0}], r"\[0\] has a place out of range"),
        ("vectors", [{2**32: 1.0}], r"\[0\] has a place out of range"),
        ("vectors", [{2**70: 1.0}], "whole places"),
        ("vectors", [{1.5: 1.0}], "whole number"),
        ("vectors", [{1: "x"}], "numbers"),
        ("vectors", [[(1, 2.0)], [(1, 1.0), (2, 1.0), (1, 3.0)]], r"\[1\] has the place 1 twice"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(kind: Any, wrong: Any, message: str) -> None:
    index = nf.SparseIndex(kind)
    good: Any = {1: 1.0} if kind == "vectors" else "good"
    index.add(good)
    with pytest.raises(InvalidInput, match=message):
        index.add(wrong)
    with pytest.raises(InvalidInput, match=message):
        index.search(wrong)
    assert len(index) == 1
    assert index.add(good).tolist() == [1]


def test_bad_arguments_are_named() -> None:
    for wrong in ({"kind": "bm42"}, {"k1": -1}, {"k1": "x"}, {"b": 1.5}, {"b": float("nan")}, {"language": 3}):
        with pytest.raises(InvalidInput):
            nf.SparseIndex(**wrong)
    index = nf.SparseIndex()
    index.add(["a cat"])
    for k in (0, -1, 2**32, 1.5):
        with pytest.raises(InvalidInput):
            index.search("cat", k)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="no memory"):
        index.search(["cat"] * 2**18, 2**32 - 1)
    with pytest.raises(InvalidInput, match="a place for every id"):
        index.search("cat", allow=np.zeros(0, bool))
    with pytest.raises(InvalidInput, match="no words"):
        nf.SparseIndex("vectors").highlights("a", "b")


def test_ids_are_ones_own_or_counted_up() -> None:
    index = nf.SparseIndex()
    assert index.add(["cat", "cat"], ids=[7, 3]).tolist() == [7, 3]
    assert index.add("cat").tolist() == [8]
    assert index.search("cat", 4)[0].tolist() == [7, 3, 8, -1]
    with pytest.raises(AlreadyExists):
        index.add(["x", "y"], ids=[9, 3])
    with pytest.raises(NotFound):
        index.remove([7, 4])
    assert index.remove([7]) == 1
    assert index.add("a cat", ids=[7]).tolist() == [7]
    assert index.search("cat", 4)[0].tolist() == [3, 8, 7, -1]


def test_searches_run_beside_changes() -> None:
    index = nf.SparseIndex(language=None)
    index.add([f"w{i % 7} w{i % 11}" for i in range(3000)])
    failed: list[BaseException] = []

    def search() -> None:
        try:
            for i in range(200):
                ids, scores = index.search(f"w{i % 7} w{i % 11}", 5)
                assert (np.diff(scores) <= 0).all()
                assert (ids >= 0).all()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(100):
        index.add([f"w{i % 7} new"])
        index.remove([i])
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("count", [40_000, pytest.param(1_200_000, marks=pytest.mark.soak)])
def test_rows_passed_over_in_groups_are_none_of_the_best(count: int) -> None:
    """Words that many documents have: bounds of groups of rows decide what is read. A removal, a filter, every k."""
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(40)]
    share = 1 / np.arange(1, 41) ** 1.3
    draws = rng.choice(40, (count, 9), p=share / share.sum())
    lengths = rng.integers(1, 10, count)
    counts = np.zeros((count, 40), np.uint8)
    for place in range(9):
        rows = np.flatnonzero(lengths > place)
        counts[rows, draws[rows, place]] += 1  # a row once a place
    texts = [" ".join(words[w] for w in draw[:n]) for draw, n in zip(draws.tolist(), lengths.tolist(), strict=True)]
    index = nf.SparseIndex(language=None)
    for part in np.array_split(np.arange(count), [count * 9 // 10, count * 9 // 10 + 7]):
        index.add([texts[i] for i in part])
    gone = np.arange(0, count, 13)
    index.remove(gone.tolist())
    alive = np.ones(count, bool)
    alive[gone] = False
    n, mean = int(alive.sum()), lengths[alive].mean()
    for query in ["w0 w1 w2", "w3", "w37", "w1 w9 w20 w35", "w30 w31 w0", "w2 w2 w5 w6 w7 w8 w39"]:
        scores = np.zeros(count)
        for word in query.split():
            tf = counts[:, int(word[1:])].astype(np.float64)
            df = np.count_nonzero(tf[alive])
            idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
            scores += idf * tf / (tf + 1.2 * (0.25 + 0.75 * lengths / mean))
        for allow in (None, rng.random(count) < 0.5, rng.random(count) < 0.001):
            may = alive & (scores > 0) if allow is None else alive & (scores > 0) & allow
            best = np.sort(scores[may])[::-1]
            for k in (1, 10, 300, 5000):
                ids, got = index.search(query, k, allow=allow)
                found = ids[ids >= 0]
                np.testing.assert_allclose(got[: len(found)], best[:k], rtol=1e-6)
                np.testing.assert_allclose(scores[found], best[:k], rtol=1e-6)
                assert may[found].all()
                assert len(set(found.tolist())) == len(found)
                ties = np.diff(got[: len(found)]) == 0
                assert (np.diff(found)[ties] > 0).all(), "equal scores rank by insertion"
