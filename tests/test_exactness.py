"""The danger: an answer that is nearly right. Every answer here is compared with exactly rounded brute force."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import nearfield as nf
import oracle

EXAMPLES = int(os.environ.get("NEARFIELD_TEST_EXAMPLES", "60"))
SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL = SHARED / "passages" / "vectors.f16.npy"

Rows = NDArray[np.float32]
properties = settings(max_examples=EXAMPLES)
dimensions = st.one_of(st.integers(1, 130), st.just(384))
metrics = st.sampled_from(oracle.METRICS)
threads = st.sampled_from([1, 2, 4])


def _clustered(rng: np.random.Generator, n: int, d: int) -> Rows:
    return rng.standard_normal((4, d))[rng.integers(4, size=n)] + 0.1 * rng.standard_normal((n, d))


def _permuted_duplicates(rng: np.random.Generator, n: int, d: int) -> Rows:
    # The same numbers in another order: every sum over a row is equal, most roundings of it are not.
    return rng.permuted(np.tile(rng.standard_normal(d), (n, 1)), axis=1)


def _mixed_norms(rng: np.random.Generator, n: int, d: int) -> Rows:
    sizes = np.array([1e30, 1.0, 1e-30, 1e-42])  # 1e-42: below the smallest normal float32
    return rng.standard_normal((n, d)) * sizes[rng.integers(4, size=n)][:, None]


def _cancelling(rng: np.random.Generator, n: int, d: int) -> Rows:
    # Large terms that cancel to the last bit leave small ones to decide; sums of limited precision lose these.
    rows = rng.standard_normal((n, d))
    half = d // 2
    rows[:, :half] *= 1e20
    rows[:, d - half :] = rows[:, :half] * rng.choice([-1, 1], size=n)[:, None]
    if d > 2:
        rows[:, 0] = rows[:, -1] = rng.standard_normal(n)
    return rows


# Each entry is a way in which data can be hard for 8-bit codes, sums in float32, or a proof by intervals.
RECIPES = {
    "gaussian": lambda rng, n, d: rng.standard_normal((n, d)),
    "clustered": _clustered,
    "duplicates": lambda rng, n, d: rng.standard_normal((3, d))[rng.integers(3, size=n)],
    "near duplicates": lambda rng, n, d: rng.standard_normal(d) + 1e-6 * rng.standard_normal((n, d)),
    "scaled duplicates": lambda rng, n, d: np.outer(rng.uniform(0.1, 10.0, n), rng.standard_normal(d)),
    "permuted duplicates": _permuted_duplicates,
    "integer grid": lambda rng, n, d: rng.integers(-2, 3, size=(n, d)),
    "zeros": lambda rng, n, d: rng.standard_normal((n, d)) * rng.integers(2, size=n)[:, None],
    "all zero": lambda rng, n, d: np.zeros((n, d)),
    "constant rows": lambda rng, n, d: np.tile(rng.standard_normal((n, 1)), (1, d)),
    "one hot": lambda rng, n, d: np.eye(d)[rng.integers(d, size=n)],
    "one large dimension": lambda rng, n, d: rng.standard_normal((n, d)) * np.where(np.arange(d) == 0, 1e4, 1.0),
    "huge": lambda rng, n, d: rng.standard_normal((n, d)) * 1e30,
    "tiny": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-30,
    "denormal": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-41,
    "mixed norms": _mixed_norms,
    "cancelling": _cancelling,
    "far from the origin": lambda rng, n, d: 1000.0 + rng.standard_normal((n, d)),
}


@st.composite
def rows_of(draw: st.DrawFn, dimension: int, count: st.SearchStrategy[int]) -> Rows:
    recipe, seed = draw(st.sampled_from(sorted(RECIPES))), draw(st.integers(0, 2**32 - 1))
    return RECIPES[recipe](np.random.default_rng(seed), draw(count), dimension).astype(np.float32)


@st.composite
def queries_for(draw: st.DrawFn, rows: Rows, count: st.SearchStrategy[int]) -> Rows:
    """Queries of any recipe, some of them replaced by rows: the closest calls are between a row and itself."""
    queries = draw(rows_of(rows.shape[1], count))
    taken = draw(st.lists(st.integers(0, len(queries) - 1), max_size=3))
    for position in taken:
        queries[position] = rows[position % len(rows)]
    return queries


def check(index: nf.Index, metric: str, rows: Rows, ids: NDArray[np.int64], queries: Rows, k: int) -> None:
    oracle.assert_equal(index.search(queries, k), oracle.search(metric, rows, ids, queries, k))


def test_the_simd_level_that_was_asked_for_is_the_one_in_use() -> None:
    info = nf.build_info()
    assert info["simd"] in info["simd_available"]
    assert info["simd"] == os.environ.get("NEARFIELD_SIMD", info["simd"])


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_each_kind_of_hard_data(metric: str, recipe: str) -> None:
    for seed, dimension in enumerate([1, 3, 17, 64, 130, 384]):
        rng = np.random.default_rng(seed)
        rows = RECIPES[recipe](rng, 150, dimension).astype(np.float32)
        queries = np.concatenate([RECIPES[recipe](rng, 3, dimension), rows[:2], rng.standard_normal((1, dimension))])
        index = nf.Index(dimension, metric)
        ids = index.add(rows)
        check(index, metric, rows, ids, queries.astype(np.float32), 10)


@properties
@given(data=st.data(), metric=metrics, dimension=dimensions, k=st.sampled_from([1, 2, 10, 40, 500]), threads=threads)
def test_any_data_any_k(data: st.DataObject, metric: str, dimension: int, k: int, threads: int) -> None:
    rows = data.draw(rows_of(dimension, st.integers(1, 200)))
    queries = data.draw(queries_for(rows, st.integers(1, 4)))
    index = nf.Index(dimension, metric, threads=threads)
    ids = index.add(rows)
    for k_now in (k, len(rows)):
        check(index, metric, rows, ids, queries, k_now)


AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 1e30, -1e30, 1e-30, 1e-45, 3e-39, 16777216.0, 16777217.0, 127.0, 127.5]


@properties
@given(data=st.data(), metric=metrics, shape=st.tuples(st.integers(1, 12), st.integers(1, 20)))
def test_awkward_numbers_side_by_side(data: st.DataObject, metric: str, shape: tuple[int, int]) -> None:
    numbers = st.sampled_from(np.array(AWKWARD, dtype=np.float32).tolist())
    rows = data.draw(hnp.arrays(np.float32, shape, elements=numbers, fill=st.nothing()))
    query = data.draw(hnp.arrays(np.float32, (1, shape[1]), elements=numbers, fill=st.nothing()))
    index = nf.Index(shape[1], metric)
    ids = index.add(rows)
    check(index, metric, rows, ids, query, shape[0] + 1)


@properties
@given(data=st.data(), metric=metrics, dimension=dimensions)
def test_pieces_of_different_distributions(data: st.DataObject, metric: str, dimension: int) -> None:
    """What was fitted to the first rows (a centre, scales) must not be trusted for the later ones."""
    counts = st.sampled_from([1, 5, 60])
    pieces = [data.draw(rows_of(dimension, counts)) for _ in range(data.draw(st.integers(2, 5)))]
    index = nf.Index(dimension, metric)
    seen: list[Rows] = []
    for piece in pieces:
        index.add(piece)
        seen.append(piece)
        rows = np.concatenate(seen)
        check(index, metric, rows, np.arange(len(rows)), data.draw(queries_for(rows, st.just(2))), 10)


@properties
@given(data=st.data(), metric=metrics, dimension=dimensions)
def test_removing_and_adding_again(data: st.DataObject, metric: str, dimension: int) -> None:
    """A row that comes back stands last among its ties; a row that is gone never answers."""
    index = nf.Index(dimension, metric)
    rows, ids = np.empty((0, dimension), np.float32), np.empty(0, np.int64)
    for _ in range(data.draw(st.integers(1, 5))):
        piece = data.draw(rows_of(dimension, st.sampled_from([1, 7, 50])))
        free = np.setdiff1d(np.arange(400), ids)
        new = np.random.default_rng(data.draw(st.integers(0, 999))).choice(free, len(piece), replace=False)
        index.add(piece, new)
        rows, ids = np.concatenate([rows, piece]), np.concatenate([ids, new])
        gone = np.array(data.draw(st.lists(st.sampled_from(ids.tolist()), unique=True, max_size=len(ids))), np.int64)
        assert index.remove(gone) == len(gone)
        kept = ~np.isin(ids, gone)
        rows, ids = rows[kept], ids[kept]
        assert len(index) == len(ids)
        queries = data.draw(queries_for(rows if len(rows) else piece, st.just(2)))
        check(index, metric, rows, ids, queries, 10)


@properties
@given(data=st.data(), metric=metrics, dimension=dimensions, k=st.sampled_from([1, 10, 300]))
def test_a_filter_never_costs_an_answer(data: st.DataObject, metric: str, dimension: int, k: int) -> None:
    rows = data.draw(rows_of(dimension, st.integers(1, 200)))
    queries = data.draw(queries_for(rows, st.sampled_from([1, 2, 20])))
    index = nf.Index(dimension, metric)
    ids = index.add(rows, np.arange(len(rows)) * 3 + 1)
    chosen = np.random.default_rng(data.draw(st.integers(0, 999))).random(len(rows)) < data.draw(
        st.sampled_from([0.0, 0.02, 0.5, 1.0])
    )
    wanted = oracle.search(metric, rows[chosen], ids[chosen], queries, k)
    mask = np.zeros(int(ids.max()) + 2, dtype=bool)
    mask[ids[chosen]] = True
    oracle.assert_equal(index.search(queries, k, allow=mask), wanted)
    oracle.assert_equal(index.search(queries, k, allow=ids[chosen]), wanted)
    oracle.assert_equal(
        index.search(queries, k, allow=ids[chosen][::-1]), wanted
    )  # the order asked is not the order told


@pytest.mark.parametrize("count", [1, 2, 13, 40, 257])
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_a_batch_answers_as_its_queries_do_one_by_one(metric: str, count: int) -> None:
    rng = np.random.default_rng(count)
    for recipe in ("gaussian", "integer grid", "mixed norms", "far from the origin"):
        rows, queries = (RECIPES[recipe](rng, n, 37).astype(np.float32) for n in (150, count))
        queries[-1] = rows[5]
        index = nf.Index(37, metric)
        ids = index.add(rows)
        wanted = oracle.search(metric, rows, ids, queries, 10)
        for number in (1, 2, 4):
            index.threads = number
            oracle.assert_equal(index.search(queries, 10), wanted)
            singles = [index.search(query, 10) for query in queries]
            oracle.assert_equal((np.stack([s[0] for s in singles]), np.stack([s[1] for s in singles])), wanted)
            oracle.assert_equal(index.search(queries, 10, exact=True), wanted)


@pytest.mark.soak
@settings(max_examples=5000)
@given(data=st.data(), metric=metrics, dimension=dimensions, k=st.integers(1, 80), threads=threads)
def test_any_data_for_long(data: st.DataObject, metric: str, dimension: int, k: int, threads: int) -> None:
    rows = data.draw(rows_of(dimension, st.integers(1, 1000)))
    queries = data.draw(queries_for(rows, st.sampled_from([1, 3, 17])))
    index = nf.Index(dimension, metric, threads=threads)
    ids = index.add(rows)
    check(index, metric, rows, ids, queries, k)


def _agrees_with_float64(metric: str, rows: Rows, queries: Rows, k: int) -> None:
    """For sizes at which exact sums take too long: the order may differ only where float64 itself cannot tell."""
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    values = q @ x.T
    if metric == "cosine":
        values /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    if metric == "l2":
        values = 2 * values - (x * x).sum(1) - (q * q).sum(1)[:, None]
    index = nf.Index(rows.shape[1], metric)
    index.add(rows)
    for queries_now, values_now in ((queries, values), (queries[:1], values[:1]), (queries[1:2], values[1:2])):
        ids, _ = index.search(queries_now, k)
        assert all(len(set(row)) == k for row in ids.tolist())
        wanted = -np.sort(np.partition(-values_now, k, axis=1)[:, :k], axis=1)
        got = np.take_along_axis(values_now, ids, axis=1)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_twenty_thousand_clustered_rows(metric: str) -> None:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((200, 384)) / np.sqrt(1 + np.arange(384))
    rows = centres[rng.integers(200, size=20_000)] + 0.3 * rng.standard_normal((20_000, 384)) / np.sqrt(
        1 + np.arange(384)
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    _agrees_with_float64(metric, rows.astype(np.float32), rows[:300:3].astype(np.float32) + np.float32(0.01), 10)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_twenty_thousand_near_ties(metric: str) -> None:
    """Two clouds on either side of the mean, each far narrower than an interval: the proof alone must not choose.
    In few dimensions what a code misses often points to the query or away from it, as far as a bound can go."""
    rng = np.random.default_rng(8)
    for dimension, width in ((2, 1e-2), (2, 1e-3), (3, 1e-2), (3, 1e-3), (5, 1e-3), (96, 1e-2), (96, 1e-4)):
        side = rng.choice([-1.0, 1.0], size=(20_000, 1))
        rows = side * rng.standard_normal(dimension) + width * rng.standard_normal((20_000, dimension))
        queries = rng.standard_normal((20, dimension))
        _agrees_with_float64(metric, rows.astype(np.float32), queries.astype(np.float32), 10)


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/passages")
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_twenty_thousand_real_rows(metric: str) -> None:
    vectors = np.load(REAL, mmap_mode="r")[:20_100].astype(np.float32)
    _agrees_with_float64(metric, vectors[100:], vectors[:100], 10)
