"""The danger: a fast answer that is not the right one, or is another one tomorrow.

The graph index against the exact index: recall, filters, change, files, and the same answers from every SIMD level.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clusters
import nearfield as nf
from clusters import recall
from nearfield.errors import Corrupt, InvalidInput

METRICS = ("cosine", "dot", "l2")
DIMENSION = 160


def clustered(count: int, seed: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    return clusters.clustered(count, seed, dimension, 200)


def one_by_one(index: nf.Index, queries: NDArray[np.float32], k: int, **more: object) -> NDArray[np.int64]:
    return np.array([index.search(query, k, **more)[0] for query in queries])


@pytest.fixture(scope="module", params=METRICS)
def pair(request: pytest.FixtureRequest) -> tuple[nf.Index, nf.Index]:
    rows = clustered(20_000, 1)
    graph, flat = (nf.Index(DIMENSION, request.param, kind=kind, threads=2) for kind in ("hnsw", "flat"))
    graph.add(rows)
    flat.add(rows)
    return graph, flat


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("k", [1, 2, 10, 30, 100])
def test_recall_is_what_was_asked_for(pair: tuple[nf.Index, nf.Index], target: float, k: int) -> None:
    """By queries that the graph was not measured with; so few of them are off by a standard error or two."""
    graph, flat = pair
    queries = clustered(max(300, 600 // k), 2)
    truth, _ = flat.search(queries, k)
    error = (target * (1 - target) / (len(queries) * k**0.5)) ** 0.5
    assert recall(one_by_one(graph, queries, k, recall=target), truth) >= target - 0.01 - 2 * error


@pytest.mark.parametrize("pair", ["cosine", "l2"], indirect=True)
@pytest.mark.parametrize("kind", ["farther out", "in between"])
def test_queries_unlike_all_rows_find_as_much_too(pair: tuple[nf.Index, nf.Index], kind: str) -> None:
    """As questions are unlike passages. A graph is measured by rows, and these lie nearer to each other.

    Products are no distances: there nobody knows how far out a query lies.
    """
    graph, flat = pair
    queries = clustered(600, 2)
    if kind == "farther out":
        noise = np.random.default_rng(5).standard_normal(queries.shape) / np.sqrt(1 + np.arange(DIMENSION))
        queries = (queries + 0.5 * noise).astype(np.float32)
        wanted = {0.9: 0.93, 0.95: 0.95, 0.98: 0.97}
    else:
        queries = (queries[:300] + queries[300:]) / 2  # of two clusters, where there are no rows at all
        wanted = {0.9: 0.85, 0.95: 0.85, 0.98: 0.89}
    truth, _ = flat.search(queries, 10)
    for target, least in wanted.items():
        assert recall(one_by_one(graph, queries, 10, recall=target), truth) >= least


def test_report_says_that_answers_are_approximate(pair: tuple[nf.Index, nf.Index]) -> None:
    graph, flat = pair
    query = clustered(1, 3)[0]
    ids, scores, report = graph.search(query, 10, recall=0.9, report=True)
    assert (report.kind, report.exact) == ("hnsw", False)
    assert 0 < report.hops < report.rows_scanned < 8000
    truth, wanted = flat.search(query, 20_000)
    places = [truth.tolist().index(one) for one in ids]
    np.testing.assert_array_equal(scores, wanted[places])


def test_exact_means_exact(pair: tuple[nf.Index, nf.Index]) -> None:
    graph, flat = pair
    queries = clustered(20, 4)
    for asked in ({"exact": True}, {"recall": 1.0}):
        ids, scores, report = graph.search(queries, 10, report=True, **asked)
        assert report.exact
        np.testing.assert_array_equal(ids, flat.search(queries, 10)[0])
        np.testing.assert_array_equal(scores, flat.search(queries, 10)[1])


def test_batches_answer_as_single_queries_do(pair: tuple[nf.Index, nf.Index]) -> None:
    graph, _ = pair
    queries = clustered(40, 5)
    ids, _, report = graph.search(queries, 3, recall=0.8, report=True)
    if not report.exact:
        np.testing.assert_array_equal(ids, one_by_one(graph, queries, 3, recall=0.8))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_filters_cost_no_recall(pair: tuple[nf.Index, nf.Index], share: float) -> None:
    graph, flat = pair
    queries = clustered(60, 6)
    mask = np.random.default_rng(7).random(20_000) < share
    truth, _ = flat.search(queries, 10, allow=mask)
    got = one_by_one(graph, queries, 10, allow=mask, recall=0.95)
    assert mask[got].all()
    assert recall(got, truth) >= 0.93


@pytest.mark.parametrize("place", ["anywhere", "together", "far"])
def test_filters_anywhere_reach_the_recall_by_every_way(pair: tuple[nf.Index, nf.Index], place: str) -> None:
    """Far from the query all rows are about as far as each other, and short codes cannot tell them apart."""
    graph, flat = pair
    queries, rng, ways = clustered(30, 16), np.random.default_rng(18), set()
    for share in (0.5, 0.1, 0.03):
        got, truth = [], []
        for query in queries:
            mask = np.zeros(20_000, bool)
            if place == "anywhere":
                mask[rng.permutation(20_000)[: int(share * 20_000)]] = True
            else:
                around = query if place == "far" else queries[rng.integers(30)]
                order = flat.search(around, 20_000)[0][:: -1 if place == "far" else 1]
                mask[order[: int(share * 20_000)]] = True
            ids, scores, report = graph.search(query, 10, allow=mask, report=True)
            right, known = flat.search(query, 10, allow=mask)
            assert dict(zip(right, known, strict=True)).items() & dict(zip(ids, scores, strict=True)).items()
            ways.add(report.plan)
            got.append(ids)
            truth.append(right)
        assert recall(np.array(got), np.array(truth)) >= 0.97, (share, place)
    if graph.metric != "dot":
        assert ("sweep, then scan" if place == "far" else "sweep") in ways


def test_a_filter_far_from_the_query_still_gets_its_answers(pair: tuple[nf.Index, nf.Index]) -> None:
    graph, flat = pair
    query = clustered(1, 8)[0]
    farthest = flat.search(query, 20_000)[0][-6000:]
    ids, _, _ = graph.search(query, 10, allow=farthest, recall=0.9, report=True)
    assert recall(ids[None], flat.search(query, 10, allow=farthest)[0][None]) >= 0.9


def test_fresh_rows_are_found_and_removed_rows_are_gone() -> None:
    index = nf.Index(DIMENSION, kind="hnsw", threads=2)
    index.add(clustered(5000, 9))
    fresh = clustered(700, 10)
    ids = index.add(fresh)
    assert one_by_one(index, fresh[::7], 1)[:, 0].tolist() == ids[::7].tolist()
    index.remove(ids[::2])
    assert not np.isin(one_by_one(index, fresh[::14], 20), ids[::2]).any()
    assert len(index) == 5350


def test_files_and_pickles_hold_the_same_answers(tmp_path: Path) -> None:
    index = nf.Index(DIMENSION, "dot", kind="hnsw", threads=2)
    index.add(clustered(6000, 11))
    queries = clustered(20, 12)
    before = one_by_one(index, queries, 10)
    index.save(tmp_path / "graph.nfi")
    loaded = nf.Index.load(tmp_path / "graph.nfi")
    assert (loaded.kind, loaded.metric, len(loaded)) == ("hnsw", "dot", 6000)
    np.testing.assert_array_equal(one_by_one(loaded, queries, 10), before)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.kind == "hnsw"
    np.testing.assert_array_equal(one_by_one(copy, queries, 10), before)
    cut = (tmp_path / "graph.nfi").read_bytes()[:-100]
    (tmp_path / "cut.nfi").write_bytes(cut)
    with pytest.raises(Corrupt):
        nf.Index.load(tmp_path / "cut.nfi")


@pytest.mark.parametrize("metric", METRICS)
def test_long_vectors_are_found_after_changes_and_in_files(metric: str, tmp_path: Path) -> None:
    """They have one more code than short ones, which every change must carry along."""
    rows, queries = np.split(clustered(6500, 13, 530), [6000])
    index, flat = (nf.Index(530, metric, kind=kind, threads=2) for kind in ("hnsw", "flat"))
    for one in (index, flat):
        one.add(rows[:4000])

    def is_right(index: nf.Index) -> None:
        truth, _ = flat.search(queries, 10)
        *found, report = index.search(queries, 10, recall=0.95, report=True)
        assert not report.exact
        assert recall(found[0], truth) > 0.93

    is_right(index)
    gone = np.arange(0, 4000, 3)
    for one in (index, flat):
        one.add(rows[4000:])
        one.remove(gone)
    is_right(index)
    index.save(tmp_path / "long.nfi")
    loaded = nf.Index.load(tmp_path / "long.nfi")
    for mine, its in zip(index.search(queries, 10), loaded.search(queries, 10), strict=True):
        np.testing.assert_array_equal(mine, its)
    for one in (loaded, flat):
        one.remove(np.arange(1, 4000, 3))
        one.add(rows[gone])
    is_right(loaded)
    loaded.compact()
    is_right(loaded)


@pytest.mark.parametrize("count", [0, 1, 2, 33, 1500])
def test_small_indexes_give_as_many_answers_as_there_are(count: int) -> None:
    index = nf.Index(3, kind="hnsw")
    index.add(clustered(count, 13, 3))
    ids, scores = index.search([1.0, 2.0, 3.0], 50)
    found = min(count, 50)
    assert len(set(ids[:found].tolist())) == found
    assert (ids[found:] == -1).all()
    assert np.isneginf(scores[found:]).all()


def test_bad_recall_is_refused() -> None:
    index = nf.Index(3, kind="hnsw")
    with pytest.raises(InvalidInput, match="recall"):
        index.search([1.0, 2.0, 3.0], recall=0.0)


WORK = """
import hashlib, sys
import numpy as np
import nearfield as nf
rng = np.random.default_rng(1)
rows = (rng.standard_normal((3000, 300)) / np.sqrt(1 + np.arange(300))).astype(np.float32)
index = nf.Index(300, sys.argv[1], kind="hnsw", threads=int(sys.argv[2]))
index.add(rows)
index.save(sys.argv[3])
answers = [index.search(row + 0.01, 10, report=True) for row in rows[:50]]
digest = hashlib.sha256(open(sys.argv[3], "rb").read())
for ids, scores, report in answers:
    digest.update(ids.tobytes() + scores.tobytes() + bytes([report.hops % 251]))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("metric", METRICS)
def test_every_simd_level_and_number_of_threads_builds_the_same_graph(tmp_path: Path, metric: str) -> None:
    digests = set()
    for number, (level, threads) in enumerate(
        [*((level, 2) for level in nf.build_info()["simd_available"]), (None, 1)]
    ):
        environment = {**os.environ, **({"NEARFIELD_SIMD": level} if level else {})}
        command = [sys.executable, "-c", WORK, metric, str(threads), str(tmp_path / f"{number}.nfi")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert digests != {hashlib.sha256().hexdigest()}


@pytest.mark.parametrize("spread", [0.1, 0.4, 1.0])
def test_products_of_vectors_of_any_length_are_found_by_a_walk(spread: float) -> None:
    """Norms are log-normal: the largest of 8,000 is 1.5, 5 or 50 times the usual one."""
    rng = np.random.default_rng(17)
    scale = (1 / np.sqrt(1 + np.arange(48))).astype(np.float32)
    centres = rng.standard_normal((60, 48), dtype=np.float32) * scale

    def drawn(count: int) -> Any:
        rows = centres[rng.integers(60, size=count)] + 0.7 * scale * rng.standard_normal((count, 48), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows = (drawn(8_000) * np.exp(rng.normal(0, spread, (8_000, 1)))).astype(np.float32)
    queries = drawn(200).astype(np.float32)
    index = nf.Index(48, "dot", kind="hnsw")
    index.add(rows)
    products = queries @ rows.T
    right = np.argsort(-products, axis=1, kind="stable")[:, :10]
    walked = 0
    for target in (0.8, 0.9, 0.95, 0.98):
        # One at a time: a scan answers so many queries at once faster.
        ids, scores, reports = zip(*(index.search(q, 10, recall=target, report=True) for q in queries), strict=True)
        found = [len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(ids, right, strict=True)]
        assert np.mean(found) > target - 0.03
        assert np.allclose(scores, np.take_along_axis(products, np.array(ids), axis=1), rtol=1e-5)
        walked += not any(report.exact for report in reports)
    assert walked >= 2
