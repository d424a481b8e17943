"""`nf.Index` by its contract: what goes in, what comes out, and what a wrong call says and leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nearfield as nf
import oracle
from nearfield import errors

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((50, 8)).astype(np.float32)
QUERIES = RNG.standard_normal((3, 8)).astype(np.float32)


@pytest.fixture
def index() -> nf.Index:
    index = nf.Index(8)
    index.add(ROWS)
    return index


def answers(index: nf.Index) -> tuple[int, list[Any]]:
    """Everything a caller can see of an index; equal before and after a call that failed."""
    return len(index), [part.tolist() for part in index.search(QUERIES, 60)]


# What comes out


def test_shapes_and_dtypes_follow_the_query(index: nf.Index) -> None:
    ids, scores = index.search(QUERIES, k=4)
    assert (ids.shape, ids.dtype, scores.shape, scores.dtype) == ((3, 4), np.int64, (3, 4), np.float32)
    one_ids, one_scores = index.search(QUERIES[1], k=4)
    assert one_ids.shape == one_scores.shape == (4,)
    np.testing.assert_array_equal(one_ids, ids[1])
    np.testing.assert_array_equal(one_scores, scores[1])


def test_k_is_ten_unless_told() -> None:
    index = nf.Index(8)
    index.add(ROWS)
    assert index.search(QUERIES[0])[0].shape == (10,)


def test_what_is_missing_is_minus_one_and_minus_infinity(index: nf.Index) -> None:
    ids, scores = index.search(QUERIES, k=60)
    assert (ids[:, :50] >= 0).all()
    assert (ids[:, 50:] == -1).all()
    assert (scores[:, 50:] == -np.inf).all()


def test_an_empty_index_answers_with_nothing() -> None:
    ids, scores = nf.Index(8).search(QUERIES, k=2)
    assert (ids == -1).all()
    assert (scores == -np.inf).all()


def test_no_queries_no_answers(index: nf.Index) -> None:
    ids, scores = index.search(np.empty((0, 8), np.float32), k=3)
    assert ids.shape == scores.shape == (0, 3)


@pytest.mark.parametrize(("metric", "best"), [("cosine", 1.0), ("dot", 50.0), ("l2", 0.0)])
def test_higher_is_better_for_every_metric(metric: str, best: float) -> None:
    index = nf.Index(2, metric)
    index.add([[-3.0, -4.0], [5.0, 5.0], [0.0, 1.0]])
    _, scores = index.search([5.0, 5.0], k=3)
    assert scores[0] == pytest.approx(best)
    assert (np.diff(scores) <= 0).all()


def test_the_properties_say_what_was_asked() -> None:
    index = nf.Index(8, "l2", threads=2)
    assert (index.dimension, index.metric, index.threads, len(index)) == (8, "l2", 2, 0)
    index.threads = 1
    assert index.threads == 1
    assert "8" in repr(index)
    assert "l2" in repr(index)


def test_auto_is_exact_and_says_so(index: nf.Index) -> None:
    assert (index.kind, index.built) == ("auto", False)
    for asked in ({}, {"recall": 0.5}, {"exact": True}):
        _, _, report = index.search(QUERIES, k=3, report=True, **asked)
        assert (report.kind, report.exact, report.expected) == ("flat", True, 1.0)
    assert index.memory >= ROWS.nbytes


def test_the_report_counts_what_was_read(index: nf.Index) -> None:
    ids, _, report = index.search(QUERIES, k=3, report=True)
    assert isinstance(report, nf.Report)
    assert ids.shape == (3, 3)
    assert report.exact
    assert report.queries == 3
    assert report.rows_scanned == 3 * 50
    assert 3 * 3 <= report.rows_reread <= 3 * 50
    assert report.bytes_read > 0
    assert report.threads >= 1
    assert report.milliseconds >= 0


def test_the_proof_spares_almost_every_row() -> None:
    """Exact by reading all rows in full would pass every other test and be slow."""
    rows = np.random.default_rng(1).standard_normal((20_000, 96)).astype(np.float32)
    for metric in oracle.METRICS:
        index = nf.Index(96, metric)
        index.add(rows + np.float32(3))
        for queries in (rows[:1], rows[:32]):
            report = index.search(queries + np.float32(3), k=10, report=True)[2]
            assert report.rows_reread < 400 * len(queries), (metric, report)


# Ids


def test_ids_count_on_from_the_largest_so_far() -> None:
    index = nf.Index(8)
    assert index.add(ROWS[:3]).tolist() == [0, 1, 2]
    assert index.add(ROWS[3:5], ids=[40, 7]).tolist() == [40, 7]
    assert index.add(ROWS[5:7]).tolist() == [41, 42]
    assert len(index) == 7


def test_a_default_id_is_not_one_that_was_just_removed(index: nf.Index) -> None:
    index.remove([49])
    assert index.add(ROWS[:1]).tolist() == [50]


def test_removed_rows_are_gone_and_their_ids_may_return(index: nf.Index) -> None:
    first = int(index.search(QUERIES[0], k=1)[0][0])
    assert index.remove([first]) == 1
    assert first not in index.search(QUERIES, k=50)[0]
    index.add(ROWS[first : first + 1], ids=[first])
    assert index.search(QUERIES[0], k=1)[0].tolist() == [first]


def test_ties_are_answered_in_the_order_of_insertion() -> None:
    index = nf.Index(8)
    index.add(ROWS[[0, 0, 0, 0]], ids=[9, 3, 7, 1])
    assert index.search(ROWS[0], k=4)[0].tolist() == [9, 3, 7, 1]
    index.remove([3])
    index.add(ROWS[:1], ids=[3])
    assert index.search(ROWS[0], k=4)[0].tolist() == [9, 7, 1, 3]


@pytest.mark.parametrize("share", [0.0, 0.003, 0.2, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("shuffled", [False, True])
def test_masks_and_ids_allow_the_same(share: float, shuffled: bool) -> None:
    rng = np.random.default_rng(3)
    index = nf.Index(24, "l2")
    ids = rng.permutation(5000) if shuffled else np.arange(5000)
    index.add(rng.standard_normal((5000, 24)), ids=ids)
    index.remove(ids[::7])
    for queries in (rng.standard_normal((1, 24)), rng.standard_normal((9, 24))):
        mask = rng.random(5003) < share
        allowed = np.flatnonzero(mask)
        every, _ = index.search(queries, k=5000)
        for k in (1, 10, 3000):
            got = index.search(queries, k=k, allow=mask)
            for ours, theirs in zip(got, index.search(queries, k=k, allow=rng.permutation(allowed)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            for row in range(len(queries)):
                wanted = every[row][np.isin(every[row], allowed)][:k]
                assert got[0][row][: len(wanted)].tolist() == wanted.tolist()
                assert (got[0][row][len(wanted) :] == -1).all()


def test_the_largest_id_there_is() -> None:
    index = nf.Index(8)
    largest = 2**63 - 2
    index.add(ROWS[:1], ids=[largest])
    assert index.search(ROWS[0], k=1)[0].tolist() == [largest]
    assert index.search(ROWS[0], k=1, allow=np.array([largest]))[0].tolist() == [largest]
    with pytest.raises(errors.InvalidInput, match="id"):
        index.add(ROWS[:1])  # there is no next one
    assert len(index) == 1


def test_the_index_does_not_watch_the_callers_array() -> None:
    mine = ROWS.copy()
    index = nf.Index(8)
    index.add(mine)
    before = answers(index)
    mine[:] = 0
    assert answers(index) == before


# What a wrong call says


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda index: index.add(np.ones((2, 7))), errors.InvalidInput, ["7", "8"]),
        (lambda index: index.add(np.ones((2, 2, 8))), errors.InvalidInput, ["(2, 2, 8)"]),
        (lambda index: index.add([["a"] * 8]), errors.InvalidInput, ["number"]),
        (lambda index: index.add(np.ones((2, 8), complex)), errors.InvalidInput, ["complex"]),
        (lambda index: index.add([[1.0] * 8, [1.0] * 7]), errors.InvalidInput, []),
        (
            lambda index: index.add(np.where(np.arange(40).reshape(5, 8) == 29, np.nan, 1)),
            errors.InvalidInput,
            ["vector 3"],
        ),
        (
            lambda index: index.add(np.where(np.arange(40).reshape(5, 8) == 17, -np.inf, 1)),
            errors.InvalidInput,
            ["vector 2"],
        ),
        (
            lambda index: index.add(np.where(np.arange(40).reshape(5, 8) == 8, 1e300, 1)),
            errors.InvalidInput,
            ["vector 1"],
        ),
        (lambda index: index.add(ROWS[:2], ids=[70]), errors.InvalidInput, ["1", "2"]),
        (lambda index: index.add(ROWS[:2], ids=[70.0, 71.0]), errors.InvalidInput, ["float64"]),
        (lambda index: index.add(ROWS[:2], ids=["a", "b"]), errors.InvalidInput, ["whole"]),
        (lambda index: index.add(ROWS[:2], ids=[[70, 71]]), errors.InvalidInput, ["(1, 2)"]),
        (lambda index: index.add(ROWS[:2], ids=[70, -1]), errors.InvalidInput, ["-1"]),
        (lambda index: index.add(ROWS[:1], ids=[2**63 - 1]), errors.InvalidInput, [str(2**63 - 1)]),
        (lambda index: index.add(ROWS[:1], ids=np.array([2**63], np.uint64)), errors.InvalidInput, [str(2**63)]),
        (lambda index: index.add(ROWS[:3], ids=[70, 71, 70]), errors.InvalidInput, ["70"]),
        (lambda index: index.add(ROWS[:3], ids=[70, 71, 12]), errors.AlreadyExists, ["12"]),
        (lambda index: index.remove([3, 99, 4, 98]), errors.NotFound, ["99", "1 more"]),
        (lambda index: index.remove([3.0]), errors.InvalidInput, ["float64"]),
        (lambda index: index.search(np.ones(7)), errors.InvalidInput, ["7", "8"]),
        (lambda index: index.search(np.ones((2, 9))), errors.InvalidInput, ["9", "8"]),
        (lambda index: index.search(np.ones((1, 2, 8))), errors.InvalidInput, ["(1, 2, 8)"]),
        (lambda index: index.search(np.full((2, 8), [[1.0], [np.nan]])), errors.InvalidInput, ["1"]),
        (lambda index: index.search(QUERIES, k=0), errors.InvalidInput, ["k", "0"]),
        (lambda index: index.search(QUERIES, k=-3), errors.InvalidInput, ["k", "-3"]),
        (lambda index: index.search(QUERIES, k=2**70), errors.InvalidInput, ["k"]),
        (lambda index: index.search(QUERIES, k=2.5), errors.InvalidInput, ["k", "2.5"]),
        (lambda index: index.search([]), errors.InvalidInput, ["8"]),
        (lambda index: index.search(QUERIES, recall="high"), errors.InvalidInput, ["recall", "high"]),
        (lambda index: index.search(QUERIES, recall=1.5), errors.InvalidInput, ["recall", "1.5"]),
        (lambda index: index.search(QUERIES, allow=np.ones(49, bool)), errors.InvalidInput, ["49", "50"]),
        (lambda index: index.search(QUERIES, allow=np.ones((1, 50), bool)), errors.InvalidInput, ["(1, 50)"]),
        (lambda index: index.search(QUERIES, allow=np.ones(3)), errors.InvalidInput, ["float64"]),
        (lambda index: setattr(index, "threads", 0), errors.InvalidInput, ["threads", "0"]),
    ],
)
def test_a_wrong_call_says_what_and_changes_nothing(call: Any, error: type[Exception], says: list[str]) -> None:
    index = nf.Index(8)
    index.add(ROWS)
    before = answers(index)
    with pytest.raises(error) as caught:
        call(index)
    for word in says:
        assert word in str(caught.value), str(caught.value)
    assert answers(index) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dimension": 0}, ["dimension", "0"]),
        ({"dimension": -8}, ["dimension", "-8"]),
        ({"dimension": 8.5}, ["dimension", "8.5"]),
        ({"dimension": 8, "metric": "manhattan"}, ["manhattan", "cosine", "dot", "l2"]),
        ({"dimension": 8, "kind": "magic"}, ["magic", "auto", "flat"]),
        ({"dimension": 8, "threads": 0}, ["threads", "0"]),
    ],
)
def test_a_wrong_construction_lists_what_is_right(arguments: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        nf.Index(**arguments)
    for word in says:
        assert word in str(caught.value), str(caught.value)


def test_an_id_named_twice_is_removed_once(index: nf.Index) -> None:
    assert index.remove([3, 3]) == 1
    assert len(index) == 49


def test_one_vector_may_come_without_its_row() -> None:
    index = nf.Index(8)
    assert index.add(ROWS[0]).tolist() == [0]


def test_adding_nothing_is_fine(index: nf.Index) -> None:
    before = answers(index)
    assert index.add(np.empty((0, 8), np.float32)).shape == (0,)
    assert index.remove([]) == 0
    assert answers(index) == before
