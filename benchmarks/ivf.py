"""The inverted lists against faiss's: recall and queries a second, from Python.

    pip install faiss-cpu==1.15.1
    python benchmarks/ivf.py                    # real MiniLM vectors if they are at hand, 1,000 held out as queries
    python benchmarks/ivf.py --data clustered --rows 200000 --dimension 768
    python benchmarks/ivf.py --data sift        # 199,000 SIFT descriptors, Euclidean distance

faiss is built as its wiki says: IVF with 4 sqrt(n) lists, and with lists with 4-bit product quantisation (2
dimensions a part, "fast scan") whose best 10 k are re-ranked in float32; `nprobe` is swept. nearfield is asked for
recalls and chooses its effort itself. One query at a time on one thread, and all queries at once on `--threads`. The
rounds are interleaved; a figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import load

HERE = Path(__file__).parent
SIFT = HERE.parents[1] / "shared" / "data" / "sift"
TARGETS = (0.9, 0.95, 0.98, 0.99)
RECALLS = (0.8, 0.9, 0.95, 0.98, 0.99)
PROBES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


class Nearfield:
    def __init__(self, kind: str, rows: NDArray[np.float32], metric: str, k: int, threads: int):
        import nearfield as nf

        self.index = nf.Index(rows.shape[1], metric, kind=kind, threads=threads)
        self.seconds = timed(lambda: self.index.add(rows))
        self.settings = [(f"recall={recall}", recall) for recall in RECALLS]
        self.k = k

    def threads(self, count: int) -> None:
        self.index.threads = count

    def at(self, recall: Any) -> Search:
        return lambda queries: self.index.search(queries, self.k, recall=recall)[0]


class Faiss:
    def __init__(self, factory: str, rows: NDArray[np.float32], metric: str, k: int, threads: int):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.faiss, self.k = faiss, k
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(rows.shape[1], factory, kind)
        self.refined = factory.endswith("RFlat")
        self.lists = faiss.extract_index_ivf(self.index)

        def build() -> None:
            self.index.train(rows)
            self.index.add(rows)

        self.seconds = timed(build)
        self.settings = [(f"nprobe={probes}", probes) for probes in PROBES]
        if self.refined:
            self.index.k_factor = 10

    def threads(self, count: int) -> None:
        self.faiss.omp_set_num_threads(count)

    def at(self, probes: Any) -> Search:
        def search(queries: NDArray[np.float32]) -> NDArray[np.int64]:
            self.lists.nprobe = probes
            return self.index.search(queries.reshape(-1, self.lists.d), self.k)[1]

        return search


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def recall(got: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(got.tolist(), truth.tolist(), strict=True)]))


def at_recall(points: list[tuple[float, float]], target: float) -> float | None:
    """Queries a second at a recall, between the two measured points around it; None where it is not reached."""
    best = None
    points = sorted(points)
    for (low, fast), (high, slow) in itertools.pairwise(points):
        if low <= target <= high and high > low:
            best = fast * (slow / fast) ** ((target - low) / (high - low))
    return best or next((speed for reached, speed in points if reached >= target), None)


def data(options: argparse.Namespace) -> tuple[NDArray[np.float32], NDArray[np.float32], str, str]:
    if options.data == "sift":
        rows = np.load(SIFT / "base_u8.npy").astype(np.float32)
        return rows, np.load(SIFT / "queries_u8.npy").astype(np.float32)[: options.queries], "SIFT descriptors", "l2"
    rows, queries, about = load(options.data, options.rows, options.queries, options.dimension)
    return rows, queries, about, "cosine"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("shared", "clustered", "sift"))
    parser.add_argument("--rows", type=int, default=69_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows, queries, about, metric = data(options)
    print(f"{about}: {len(rows):,} rows, {len(queries):,} queries, dimension {rows.shape[1]}, k = {options.k}")
    import nearfield as nf

    exact = nf.Index(rows.shape[1], metric, kind="flat")
    exact.add(rows)
    truth = exact.search(queries, options.k)[0]
    lists = int(4 * len(rows) ** 0.5)
    parts = rows.shape[1] // 2
    contenders: dict[str, Any] = {
        kind: Nearfield(kind, rows, metric, options.k, options.threads) for kind in ("ivf", "ivf_pq")
    }
    for factory in (f"IVF{lists},Flat", f"IVF{lists},PQ{parts}x4fs,RFlat"):
        contenders[f"faiss {factory}"] = Faiss(factory, rows, metric, options.k, options.threads)
    runs = [(name, setting, peer.at(value)) for name, peer in contenders.items() for setting, value in peer.settings]
    times: dict[tuple[str, str, str], list[float]] = {}
    found: dict[tuple[str, str], float] = {}
    for _ in range(options.rounds):
        for name, setting, search in runs:
            contenders[name].threads(1)
            started = time.perf_counter()
            got = [search(query) for query in queries]
            times.setdefault((name, setting, "one"), []).append(time.perf_counter() - started)
            found[name, setting] = recall(np.array(got).reshape(len(queries), -1), truth)
            contenders[name].threads(options.threads)
            times.setdefault((name, setting, "all"), []).append(timed(lambda search=search: search(queries)))
    results = []
    for name, peer in contenders.items():
        points = []
        for setting, _ in peer.settings:
            one, many = (len(queries) / statistics.median(times[name, setting, mode]) for mode in ("one", "all"))
            points.append({"setting": setting, "recall": found[name, setting], "one": one, "all": many})
        results.append({"name": name, "build_seconds": peer.seconds, "points": points})
    for mode, title in (("one", "one query at a time, one thread"), ("all", f"all at once, {options.threads} threads")):
        print(f"\nqueries a second at recall@{options.k}, {title}")
        print(f"{'index':<32}{'build s':>8}" + "".join(f"{target:>10}" for target in TARGETS))
        for result in results:
            speeds = [at_recall([(p["recall"], p[mode]) for p in result["points"]], target) for target in TARGETS]
            figures = "".join(f"{'-' if speed is None else format(round(speed), ','):>10}" for speed in speeds)
            print(f"{result['name']:<32}{result['build_seconds']:>8.1f}{figures}")
    if options.json:
        head = {
            "data": about,
            "rows": len(rows),
            "dimension": rows.shape[1],
            "k": options.k,
            "cpu": platform.processor(),
        }
        options.json.write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
