"""The danger: an index that was right when it was built, and wrong after a year of additions and removals.

The graph under change, against an exact index that went through the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

import clusters
import nearfield as nf
from clusters import recall

DIMENSION = 16
SEEDS = st.integers(0, 2**32 - 1)
KINDS = ("flat", "hnsw", "ivf", "ivf_pq", "lsh")


def rows(count: int, seed: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    return clusters.clustered(count, seed, dimension, 50)


class Changing(RuleBasedStateMachine):
    """A graph and an exact index, side by side."""

    @initialize(metric=st.sampled_from(("cosine", "dot", "l2")), threads=st.sampled_from((1, 3)), seed=SEEDS)
    def begin(self, metric: str, threads: int, seed: int) -> None:
        self.graph = nf.Index(DIMENSION, metric, kind="hnsw", threads=threads)  # type: ignore[arg-type]
        self.oracle = nf.Index(DIMENSION, metric, kind="flat", threads=threads)  # type: ignore[arg-type]
        self.there: list[int] = []
        self.gone: list[int] = []
        self.add(1600, seed)

    @rule(count=st.sampled_from((1, 30, 300, 900)), seed=SEEDS)
    def add(self, count: int, seed: int) -> None:
        new = rows(count, seed)
        ids = self.graph.add(new).tolist()
        assert ids == self.oracle.add(new).tolist()
        self.there += ids

    @precondition(lambda self: len(self.there) > 700)
    @rule(share=st.sampled_from((0.001, 0.1, 0.5)), together=st.booleans(), seed=SEEDS)
    def remove(self, share: float, together: bool, seed: int) -> None:
        """Anywhere, or all about one place."""
        count = max(1, int(share * len(self.there)))
        if together:
            ids = self.oracle.search(rows(1, seed)[0], count)[0]
        else:
            ids = np.random.default_rng(seed).permutation(self.there)[:count]
        assert self.graph.remove(ids) == self.oracle.remove(ids) == count
        self.there = sorted(set(self.there) - set(ids.tolist()))
        self.gone += ids.tolist()

    @precondition(lambda self: self.gone)
    @rule(seed=SEEDS)
    def come_back(self, seed: int) -> None:
        """Other rows under ids that were removed."""
        ids = np.array(self.gone[-200:])
        new = rows(len(ids), seed)
        self.graph.add(new, ids)
        self.oracle.add(new, ids)
        self.gone = self.gone[:-200]
        self.there += ids.tolist()

    @rule()
    def compact(self) -> None:
        self.graph.compact()

    @rule()
    def write_and_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.graph.save(Path(folder) / "graph.nfi")
            self.graph = nf.Index.load(Path(folder) / "graph.nfi", threads=self.graph.threads)

    @invariant()
    def nothing_is_lost_and_nothing_comes_back(self) -> None:
        if not hasattr(self, "there"):
            return
        queries = rows(40, len(self.there))
        truth, scores = self.oracle.search(queries, 10)
        exact = self.graph.search(queries, 10, recall=1.0)
        np.testing.assert_array_equal(exact[0], truth)
        np.testing.assert_array_equal(exact[1], scores)
        got = np.array([self.graph.search(query, 10, recall=0.9)[0] for query in queries])
        assert set(got.ravel().tolist()) <= set(self.there)
        assert recall(got, truth) >= 0.8


TestChanging = Changing.TestCase
TestChanging.settings = settings(max_examples=8, stateful_step_count=10)


def churned(threads: int, metric: nf.types.Metric = "l2") -> nf.Index:
    """An index of 3,000 rows all of which were replaced, a tenth at a time."""
    return replaced(rows(3000, 1), rows(3000, 2), 10, threads, metric)


def replaced(
    old: NDArray[np.float32], new: NDArray[np.float32], parts: int, threads: int, metric: nf.types.Metric = "l2"
) -> nf.Index:
    """An index of the old rows all of which were replaced by the new ones, in a random order, so many parts."""
    index = nf.Index(old.shape[1], metric, kind="hnsw", threads=threads)
    ids = np.random.default_rng(3).permutation(index.add(old))
    for gone, come in zip(np.array_split(ids, parts), np.array_split(new, parts), strict=True):
        index.remove(gone)
        index.add(come)
    return index


def test_change_is_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    for metric in ("dot", "l2"):
        files = set()
        for threads in (1, 4):
            churned(threads, metric).save(tmp_path / "graph.nfi")
            files.add((tmp_path / "graph.nfi").read_bytes())
        assert len(files) == 1


def test_a_graph_whose_rows_were_all_replaced_finds_as_much_for_the_same_effort() -> None:
    fresh = nf.Index(DIMENSION, "l2", kind="hnsw", threads=2)
    fresh.add(rows(3000, 2))
    index, queries = churned(2), rows(400, 4)
    found = []
    for one in (fresh, index):
        truth = one.search(queries, 10, exact=True)[0]
        searched = [one.search(query, 10, recall=0.9, report=True) for query in queries]
        hops = np.mean([report.hops for _, _, report in searched])
        found.append((recall(np.array([ids for ids, _, _ in searched]), truth), hops))
    assert min(found)[0] >= 0.89
    assert found[1][1] <= 1.2 * found[0][1]


def test_a_graph_whose_rows_were_all_replaced_finds_no_less_for_as_many_rows_scored() -> None:
    """Counts do not depend on threads or processors, so the bound is close. It was .009 when every link to a row
    that is gone was made up for at once, by a longer one."""
    spread = 1 / np.sqrt(1 + np.arange(48))
    old, new, queries = (
        (np.random.default_rng(seed).normal(size=(6000, 48)) * spread).astype("f4") for seed in (1, 2, 4)
    )
    fresh = nf.Index(48, "l2", kind="hnsw", threads=2)
    fresh.add(new)
    index = replaced(old, new, 20, 2)
    queries = queries[:1000]
    worst = fresh.search(queries, 10, exact=True)[1][:, -1:]
    points = []
    for one in (fresh, index):
        points.append([])
        for setting in (0.8, 0.86, 0.9, 0.93, 0.95, 0.98):
            found = [one.search(query, 10, recall=setting, report=True) for query in queries]
            reached = np.mean(np.array([scores for _, scores, _ in found]) >= worst)
            points[-1].append((np.log(np.mean([report.rows_scanned for _, _, report in found])), reached))
    (scored, expected), then = np.transpose(points[0]), np.transpose(points[1])
    assert (np.interp(scored, *then) - expected).min() >= -0.007
    index.compact()  # it is a new one then, whatever the rows were whose mean its codes began with
    assert index.memory == fresh.memory
    for query in queries[:100]:
        np.testing.assert_array_equal(index.search(query, 10)[1], fresh.search(query, 10)[1])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_frozen_index_changes_with_the_one_it_was_taken_from(tmp_path: Path, metric: nf.types.Metric) -> None:
    index = nf.Index(DIMENSION, metric, kind="hnsw", threads=2)
    index.add(rows(3000, 1))
    index.remove(np.arange(40))
    index.add(rows(20, 2))
    index.save(tmp_path / "before.nfi")
    frozen = index.frozen()
    assert frozen is not None
    for change in (
        lambda: index.remove(np.arange(50, 60)),
        lambda: index.add(rows(30, 3)),
        lambda: index.remove(np.arange(100, 1500)),  # a fold
        lambda: index.add(rows(2000, 4)),
        index.compact,
    ):
        change()
        frozen.save(tmp_path / "frozen.nfi")
        assert (tmp_path / "frozen.nfi").read_bytes() == (tmp_path / "before.nfi").read_bytes()
    assert len(index) == 3600
    queries = rows(20, 5)
    fresh = nf.Index(DIMENSION, metric, kind="flat", threads=2)
    fresh.add(
        np.concatenate([rows(3000, 1)[40:50], rows(3000, 1)[60:100], rows(3000, 1)[1500:], rows(20, 2), rows(30, 3)])
    )
    fresh.add(rows(2000, 4))
    np.testing.assert_array_equal(index.search(queries, exact=True)[1], fresh.search(queries, exact=True)[1])
    assert nf.Index(DIMENSION, metric, kind="lsh").frozen() is None


@pytest.mark.parametrize("kind", KINDS)
def test_after_compaction_an_index_is_as_small_as_a_new_one(kind: str) -> None:
    index = nf.Index(DIMENSION, kind=kind, threads=2)
    index.add(rows(4000, 1))
    index.remove(np.arange(0, 4000, 2))
    index.add(rows(500, 2))
    kept = np.arange(1, 4500, 1)[(np.arange(1, 4500) % 2 == 1) | (np.arange(1, 4500) >= 4000)]
    index.compact()
    fresh = nf.Index(DIMENSION, kind=kind, threads=2)
    fresh.add(np.concatenate([rows(4000, 1)[1::2], rows(500, 2)]), kept)
    queries = rows(50, 3)
    assert (len(index), index.memory) == (2500, fresh.memory)
    for recall_wanted in (0.8, 1.0):
        for one, other in zip(*(i.search(queries, 10, recall=recall_wanted) for i in (index, fresh)), strict=True):
            np.testing.assert_array_equal(one, other)
    assert index.add(rows(1, 5)).tolist() == [4500]


def test_what_is_added_to_a_graph_that_has_grown_is_found() -> None:
    index = nf.Index(DIMENSION, kind="hnsw", threads=2)
    everything = rows(6000, 1)
    for first in range(0, 6000, 400):
        index.add(everything[first : first + 400])
        new = everything[first : first + 400 : 40]
        assert [index.search(row, 1)[0][0] for row in new] == list(range(first, first + 400, 40))


def test_a_report_says_which_way_and_how_long() -> None:
    index = nf.Index(64, kind="hnsw", threads=1)
    index.add(rows(20_000, 1, 64))
    query = rows(1, 2, 64)[0]
    _, _, report = index.search(query, 10, recall=0.8, report=True)
    assert (report.plan, report.rescued) == ("walk", 0)
    assert set(report.stages) == {"encode", "walk", "look"}
    assert 0 < report.nanoseconds_per_row < report.nanoseconds_per_hop
    assert 0 < sum(report.stages.values()) <= report.milliseconds
    assert index.search(query, 10, exact=True, report=True)[2].plan == "scan"
    assert index.search(query, 10, allow=[1, 2, 3], report=True)[2].plan == "gather"


def test_a_walk_among_rows_that_may_not_be_answered_gives_up_early() -> None:
    index = nf.Index(64, "l2", kind="hnsw", threads=1)
    index.add(rows(20_000, 1, 64))
    for query in rows(20, 2, 64):
        order = index.search(query, 20_000, exact=True)[0]
        ids, _, report = index.search(query, 10, allow=order[-10_000:], recall=0.8, report=True)
        np.testing.assert_array_equal(ids, order[-10_000:][:10])
        if report.plan != "gather" and report.plan != "scan":
            assert report.plan in ("walk, then scan", "walk, then sweep")
            assert report.rescued == 1
            assert report.hops < 200
        ids, _, report = index.search(query, 10, allow=order[:10_000], recall=0.8, report=True)
        assert report.plan == "walk"
        assert len(set(ids.tolist()) & set(order[:10].tolist())) >= 6
