"""The graph index against its peers: recall and queries a second, one thread, one query at a time, from Python.

    pip install hnswlib==0.8.0 faiss-cpu==1.15.1 rabitqlib==0.7.1
    python benchmarks/hnsw.py                    # 69,000 real MiniLM vectors, 1,000 held out as queries
    python benchmarks/hnsw.py --data sift        # 200,000 real SIFT descriptors, l2
    python benchmarks/hnsw.py --data clustered --rows 1000000 --dimension 768 --k 100 --only nearfield rabitqlib

Every peer is built with the settings of its own documentation and walked with several widths (its `ef`). The rounds are
interleaved (every contender at every width once, then again); a figure is the median of its rounds. A peer that is not
installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "data"
REAL = SHARED / "passages" / "vectors.f16.npy"
TARGETS = (0.9, 0.95, 0.98, 0.99)
Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def load(options: argparse.Namespace) -> tuple[NDArray[np.float32], NDArray[np.float32], str, str]:
    """Rows, queries (not among the rows), their metric, and one line that describes them."""
    if options.data == "real":
        vectors = unit(np.load(REAL).astype(np.float32))
        return vectors[: -options.queries], vectors[-options.queries :], "cosine", "real MiniLM vectors of passages"
    if options.data == "sift":
        rows, queries = (np.load(SHARED / "sift" / f"{name}_u8.npy").astype(np.float32) for name in ("base", "queries"))
        return rows, queries[: options.queries], "l2", "real SIFT descriptors"
    rng = np.random.default_rng(0)
    spread = (1.0 / np.sqrt(1.0 + np.arange(options.dimension))).astype(np.float32)
    centres = rng.standard_normal((2000, options.dimension), dtype=np.float32) * spread
    count = options.rows + options.queries
    rows = np.empty((count, options.dimension), np.float32)
    for start in range(0, count, 50_000):
        piece = rows[start : start + 50_000]
        noise = rng.standard_normal(piece.shape, dtype=np.float32)
        piece[:] = unit(centres[rng.integers(2000, size=len(piece))] + np.float32(0.7) * spread * noise)
    described = "clustered synthetic vectors, variances falling as 1/i"
    return rows[: options.rows], rows[options.rows :], "cosine", described


def nearfield(rows: NDArray[np.float32], k: int, threads: int, metric: str) -> tuple[float, dict[str, Search], Any]:
    import nearfield as nf

    index = nf.Index(rows.shape[1], metric, kind="hnsw", threads=threads)
    seconds = timed(lambda: index.add(rows))
    index.threads = 1

    def at(recall: float) -> Search:
        return lambda query: index.search(query, k, recall=recall)[0]

    return seconds, {f"recall={recall}": at(recall) for recall in (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)}, index


def hnswlib(rows: NDArray[np.float32], k: int, threads: int, metric: str) -> tuple[float, dict[str, Search], Any]:
    import hnswlib as peer

    index = peer.Index("l2" if metric == "l2" else "ip", rows.shape[1])
    index.init_index(len(rows), M=24, ef_construction=200)
    index.set_num_threads(threads)
    seconds = timed(lambda: index.add_items(rows))
    index.set_num_threads(1)

    def at(ef: int) -> Search:
        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            index.set_ef(ef)
            return index.knn_query(query, k)[0][0]

        return search

    return seconds, {f"ef={ef}": at(ef) for ef in widths(k, 250)}, index


def faiss(rows: NDArray[np.float32], k: int, threads: int, metric: str) -> tuple[float, dict[str, Search], Any]:
    import faiss as peer

    peer.omp_set_num_threads(threads)
    kind = peer.METRIC_L2 if metric == "l2" else peer.METRIC_INNER_PRODUCT
    index = peer.IndexHNSWFlat(rows.shape[1], 32, kind)
    index.hnsw.efConstruction = 200
    seconds = timed(lambda: index.add(rows))
    peer.omp_set_num_threads(1)

    def at(ef: int) -> Search:
        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            index.hnsw.efSearch = ef
            return index.search(query[None], k)[1][0]

        return search

    return seconds, {f"ef={ef}": at(ef) for ef in widths(k, 250)}, index


def rabitqlib(rows: NDArray[np.float32], k: int, threads: int, metric: str) -> tuple[float, dict[str, Search], Any]:
    import rabitqlib as peer

    index = peer.SymqgIndex(rows.shape[1], 32, "l2")
    seconds = timed(lambda: index.build(rows, 200, threads))  # on rows of unit length the order is that of the cosine

    def at(ef: int) -> Search:
        return lambda query: np.asarray(index.search(query[None], k, ef)[0]).reshape(-1)

    return seconds, {f"ef={ef}": at(ef) for ef in widths(k, 400)}, index


def widths(k: int, most: int) -> list[int]:
    """Widths of the peers' walks for k answers."""
    found = [20, 40, 60, 100, 160, 250, 400, 640]
    return [ef for ef in found if ef >= k and ef <= max(most, 4 * k)]


CONTENDERS = {
    "nearfield hnsw": ("nearfield", nearfield),
    "hnswlib M=24": ("hnswlib", hnswlib),
    "faiss HNSW32": ("faiss", faiss),
    "rabitqlib SymphonyQG R=32": ("rabitqlib", rabitqlib),
}


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def recall(answers: list[NDArray[np.int64]], truth: NDArray[np.int64]) -> float:
    shares = [
        len(set(got.tolist()) & set(right.tolist())) / len(right) for got, right in zip(answers, truth, strict=True)
    ]
    return float(np.mean(shares))


def reached(curve: list[dict[str, float]], target: float) -> float | None:
    """Queries a second at exactly this recall, between the two measured points around it (log of misses)."""
    points = sorted((point["recall"], point["qps"]) for point in curve)
    if not points or points[-1][0] < target:
        return None
    above = next(i for i, point in enumerate(points) if point[0] >= target)
    if above == 0:
        return points[0][1]
    (r0, q0), (r1, q1) = points[above - 1], points[above]
    share = (np.log(1 - r0 + 1e-4) - np.log(1 - target + 1e-4)) / (np.log(1 - r0 + 1e-4) - np.log(1 - r1 + 1e-4))
    return float(np.exp(np.log(q0) + share * (np.log(q1) - np.log(q0))))


def table(result: dict[str, Any]) -> str:
    lines = ["| index | build, s | " + " | ".join(f"QPS at {target}" for target in TARGETS) + " |"]
    lines.append("|---|---:|" + "---:|" * len(TARGETS))
    for name, entry in result["contenders"].items():
        cells = [reached(entry["curve"], target) for target in TARGETS]
        shown = " | ".join("not reached" if cell is None else f"{cell:,.0f}" for cell in cells)
        lines.append(f"| {name} | {entry['build_seconds']:.1f} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", choices=["real", "sift", "clustered"], default="real" if REAL.exists() else "clustered"
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for builds; searches use one")
    parser.add_argument("--only", nargs="*", choices=[module for module, _ in CONTENDERS.values()])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "hnsw.json")
    options = parser.parse_args()
    rows, queries, metric, described = load(options)

    import nearfield as nf

    exact = nf.Index(rows.shape[1], metric, kind="flat")
    exact.add(rows)
    truth, _ = exact.search(queries, options.k)
    del exact
    searches: dict[tuple[str, str], Search] = {}
    contenders: dict[str, dict[str, Any]] = {}
    kept = []  # a contender's searches need its index
    for name, (module, build) in CONTENDERS.items():
        if options.only and module not in options.only:
            continue
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed", file=sys.stderr)
            continue
        seconds, settings, index = build(rows, options.k, options.threads, metric)
        print(f"{name}: built in {seconds:.1f} s", file=sys.stderr)
        contenders[name] = {"build_seconds": seconds, "curve": []}
        searches.update({(name, setting): search for setting, search in settings.items()})
        kept.append(index)

    times: dict[tuple[str, str], list[float]] = {key: [] for key in searches}
    answers: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    for number in range(-1, options.rounds):  # round -1 warms up
        for key, search in searches.items():
            start = time.perf_counter()
            got = [search(query) for query in queries]
            elapsed = time.perf_counter() - start
            if number >= 0:
                times[key].append(elapsed)
            answers[key] = got
        print(f"  round {number + 1} of {options.rounds}", file=sys.stderr)
    for (name, setting), seconds in times.items():
        qps = len(queries) / statistics.median(seconds)
        point = {"setting": setting, "recall": recall(answers[name, setting], truth), "qps": qps}
        if name == "nearfield hnsw":  # counts that do not depend on the machine
            work = [kept[0].search(query, options.k, recall=float(setting[7:]), report=True)[2] for query in queries]
            for count in ("rows_scanned", "rows_reread", "hops", "bytes_read"):
                point[count] = float(np.mean([getattr(report, count) for report in work]))
        contenders[name]["curve"].append(point)
        print(f"{name:28} {setting:14} recall {point['recall']:.4f}  {qps:9,.0f} QPS", file=sys.stderr)

    result = {
        "rows": len(rows),
        "dimension": rows.shape[1],
        "data": described,
        "k": options.k,
        "queries": len(queries),
        "rounds": options.rounds,
        "load_after_timing": os.getloadavg()[0],
        "build_threads": options.threads,
        "processor": platform.processor() or platform.machine(),
        "contenders": contenders,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
