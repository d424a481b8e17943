"""The danger: a classic that is fast on paper. `ivf`, `ivf_pq` and `lsh` by the contract of every kind: the recall
that was asked for, filters that cost none, exact scores, and the same answers from every SIMD level and any threads.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import nearfield as nf
from nearfield.errors import Corrupt

DIMENSION = 96
METRICS = ("cosine", "dot", "l2")
KINDS = ("ivf", "ivf_pq", "lsh")


def clustered(count: int, seed: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Rows around 200 centres, their variance falling from axis to axis; norms differ."""
    spread = 1.0 / np.sqrt(1.0 + np.arange(dimension))
    centres = np.random.default_rng(0).standard_normal((200, dimension)) * spread
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(200, size=count)] + 0.7 * rng.standard_normal((count, dimension)) * spread
    return rows.astype(np.float32)


def recall(got: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    pairs = [(set(a), set(b) - {-1}) for a, b in zip(got.tolist(), truth.tolist(), strict=True)]
    return float(np.mean([len(a & b) / max(len(b), 1) for a, b in pairs if b]))


@pytest.fixture(scope="module", params=[(kind, metric) for kind in KINDS for metric in METRICS], ids="-".join)
def index(request: pytest.FixtureRequest) -> nf.Index:
    kind, metric = request.param
    index = nf.Index(DIMENSION, metric, kind=kind, threads=2)
    index.add(clustered(15_000, 1))
    return index


@pytest.mark.parametrize("target", [0.8, 0.95, 0.99])
def test_recall_is_what_was_asked_for(index: nf.Index, target: float) -> None:
    queries = clustered(300, 2)
    truth, scores = index.search(queries, 10, exact=True)
    got = [index.search(query, 10, recall=target, report=True) for query in queries]
    assert recall(np.array([ids for ids, _, _ in got]), truth) >= target - 0.02
    assert all(report.expected >= target - 0.01 and report.exact == (report.effort == 0) for _, _, report in got)
    # lsh leaves products to the scan: so few rows are scanned before its buckets are gathered.
    leaves = (index.kind, index.metric) == ("lsh", "dot")
    assert any(not report.exact for _, _, report in got) or target > 0.8 or leaves
    known = [dict(zip(*both, strict=True)) for both in zip(truth.tolist(), scores.tolist(), strict=True)]
    for (ids, got_scores, _), exact in zip(got, known, strict=True):
        assert all(exact.get(i, s) == s for i, s in zip(ids.tolist(), got_scores.tolist(), strict=True))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.0001])
def test_filters_cost_no_recall(index: nf.Index, share: float) -> None:
    queries = clustered(60, 3)
    order = index.search(queries[0], 15_000, exact=True)[0]
    some = np.random.default_rng(4).random(15_000) < share
    far = np.zeros(15_000, bool)
    far[order[-max(int(share * 15_000), 10) :]] = True
    for mask in (some, far):
        truth = index.search(queries, 10, allow=mask, exact=True)[0]
        got = np.array([index.search(query, 10, allow=mask, recall=0.95)[0] for query in queries])
        assert mask[got[got >= 0]].all()
        assert ((got >= 0).sum(axis=1) == min(10, mask.sum())).all()
        assert recall(got, truth) >= 0.93


def test_one_query_and_many_get_the_same(index: nf.Index) -> None:
    queries = clustered(11, 5)
    ids, scores = index.search(queries, 5, recall=0.8)
    for row, query in enumerate(queries):
        one_ids, one_scores = index.search(query, 5, recall=0.8)
        assert (one_ids.tolist(), one_scores.tolist()) == (ids[row].tolist(), scores[row].tolist())


def test_files_and_pickles_hold_the_same_answers(index: nf.Index, tmp_path: Path) -> None:
    queries = clustered(20, 6)
    before = [index.search(query, 10, recall=0.8)[0].tolist() for query in queries]
    index.save(tmp_path / "it.nfi")
    loaded = nf.Index.load(tmp_path / "it.nfi")
    assert (loaded.kind, loaded.metric, len(loaded)) == (index.kind, index.metric, 15_000)
    for copy in (loaded, pickle.loads(pickle.dumps(index))):
        assert [copy.search(query, 10, recall=0.8)[0].tolist() for query in queries] == before
    (tmp_path / "cut.nfi").write_bytes((tmp_path / "it.nfi").read_bytes()[:-100])
    with pytest.raises(Corrupt):
        nf.Index.load(tmp_path / "cut.nfi")


WORK = """
import hashlib, sys
import numpy as np
import nearfield as nf
rng = np.random.default_rng(1)
rows = (rng.standard_normal((2000, 130)) / np.sqrt(1 + np.arange(130))).astype(np.float32)
digest = hashlib.sha256()
for kind in ("ivf", "ivf_pq", "lsh"):
    index = nf.Index(130, sys.argv[1], kind=kind, threads=int(sys.argv[2]))
    index.add(rows)
    index.save(sys.argv[3])
    digest.update(open(sys.argv[3], "rb").read())
    for row in rows[:20]:
        ids, scores, report = index.search(row + 0.01, 10, recall=0.8, report=True)
        digest.update(ids.tobytes() + scores.tobytes() + bytes([report.effort % 251]))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("metric", METRICS)
def test_every_simd_level_and_number_of_threads_builds_the_same(tmp_path: Path, metric: str) -> None:
    digests = set()
    for number, (level, threads) in enumerate(
        [*((level, 2) for level in nf.build_info()["simd_available"]), (None, 1), (None, 4)]
    ):
        environment = {**os.environ, **({"NEARFIELD_SIMD": level} if level else {})}
        command = [sys.executable, "-c", WORK, metric, str(threads), str(tmp_path / f"{number}.nfi")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1
