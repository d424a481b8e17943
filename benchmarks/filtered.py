"""Filtered searches in the graph: recall, time and the way chosen, by how many rows a filter lets through and where.

    python benchmarks/filtered.py                      # 69,000 real MiniLM vectors
    python benchmarks/filtered.py --data clustered --rows 1000000 --dimension 768

A filter lets through random rows, a cluster (the rows nearest to some row, which has nothing to do with the query), or
the rows farthest from the query. One thread, one query at a time, k = 10, all at a recall of .99. Beside each filtered
search are timed:

* *scan*: the exact scan of the rows let through;
* *walk + filter*: a walk without the filter, for as many answers as hold ten of those let through, with three
  standard deviations more. Where the filter has to do with places it does not find them, and the scan alone counts;
* *plain walk*: the walk for ten answers without any filter. It answers another question, with a part of the work: among
  its ten answers are five of a filter that lets through half.

*Ratio* is to the better of the first two. Rows scored, hops and rows read in full say what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nearfield as nf
from data import load

HERE = Path(__file__).parent
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
PLACES = ("random", "cluster", "far")
Mask = NDArray[np.bool_]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", choices=("shared", "clustered"), default=None)
    parser.add_argument("--rows", type=int, default=69_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for the build")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "filtered.json")
    return parser.parse_args()


def masks(index: nf.Index, queries: NDArray[np.float32], rows: NDArray[np.float32], share: float, place: str) -> Any:
    """A mask for each query."""
    rng = np.random.default_rng(1)
    count, wanted = len(rows), max(int(share * len(rows)), 1)
    for query in queries:
        mask = np.zeros(count, dtype=bool)
        if place == "random":
            mask[rng.permutation(count)[:wanted]] = True
        elif place == "cluster":
            mask[index.search(rows[rng.integers(count)], wanted, exact=True)[0]] = True
        else:
            mask[index.search(query, count, exact=True)[0][-wanted:]] = True
        yield mask


def timed(work: Any) -> tuple[float, Any]:
    """Microseconds, and what came of it; the better of three, as one is interrupted now and then."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        found = work()
        times.append(1e6 * (time.perf_counter() - began))
    return min(times), found


def measured(index: nf.Index, query: Any, mask: Mask, share: float, recall: float) -> dict[str, Any]:
    """Figures of one query with one filter."""
    deep = min(int((10 + 3 * (10 * (1 - share)) ** 0.5) / share), len(index))
    scan, (truth, _) = timed(lambda: index.search(query, 10, allow=mask, exact=True))
    filtered, (ids, _) = timed(lambda: index.search(query, 10, allow=mask, recall=recall))
    plain, _ = timed(lambda: index.search(query, 10, recall=recall))
    after, _ = timed(lambda: index.search(query, deep, recall=recall))
    right = set(truth.tolist()) - {-1}
    figures = {"reached": len(right & set(ids.tolist())) / len(right), "filtered": filtered, "scan": scan}
    figures |= {"walk_and_filter": after, "plain_walk": plain}
    for name, k, allow in (("filtered", 10, mask), ("plain_walk", 10, None)):
        report = index.search(query, k, allow=allow, recall=recall, report=True)[2]
        counts = {"scored": report.rows_scanned, "hops": report.hops, "read": report.rows_reread}
        figures |= {f"{name}_{what}": count for what, count in counts.items()}
        figures.setdefault("way", report.plan)
    return figures


def main() -> None:
    options = arguments()
    rows, queries, described = load(options.data, options.rows, options.queries, options.dimension)
    index = nf.Index(rows.shape[1], kind="hnsw", threads=options.threads)
    index.add(rows)
    index.threads = 1
    table = []
    print(
        "| let through | where | recall | µs | scan | walk + filter | ratio | plain walk | scored, hops, read | way |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---|---|")
    for share in SHARES:
        for place in PLACES:
            seen = [
                measured(index, query, mask, share, options.recall)
                for query, mask in zip(queries, masks(index, queries, rows, share, place), strict=True)
            ]
            ways = {way: sum(one["way"] == way for one in seen) for way in {one["way"] for one in seen}}
            line = {
                "share": share,
                "place": place,
                "ways": ways,
                "reached": float(np.mean([o["reached"] for o in seen])),
            }
            for name in seen[0].keys() - {"way", "reached"}:
                line[name] = float(np.median([one[name] for one in seen]))
            better = min(line["scan"], line["walk_and_filter"]) if place == "random" else line["scan"]
            line["ratio"] = line["filtered"] / better
            table.append(line)
            cells = [f"{100 * share:g} %", place, f"{line['reached']:.4f}"]
            cells += [f"{line[name]:.0f}" for name in ("filtered", "scan", "walk_and_filter")]
            cells += [f"{line['ratio']:.2f}", f"{line['plain_walk']:.0f}"]
            cells += [", ".join(f"{line[f'filtered_{what}']:,.0f}" for what in ("scored", "hops", "read"))]
            print(f"| {' | '.join(cells)} | {max(ways, key=lambda way: ways[way])} |", flush=True)
    about = {"rows": len(rows), "dimension": rows.shape[1], "data": described, "queries": len(queries)}
    about |= {"processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0], **nf.build_info()}
    options.output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
