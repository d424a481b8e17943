"""Filtered searches in the graph: recall, time and the way chosen, by how many rows a filter lets through and where.

    python benchmarks/filtered.py                      # 69,000 real MiniLM vectors
    python benchmarks/filtered.py --data clustered --rows 1000000 --dimension 768

A filter lets through random rows, a cluster (the rows nearest to some row, which has nothing to do with the query), or
the rows farthest from the query. One thread, one query at a time; each filtered search is timed beside an exact scan of
the rows let through, and beside a walk that ignores the filter and asks for as many answers as hold ten of those let
through on an average, with three standard deviations more. The ratio is to the better of these two; where the filter
has to do with places such a walk does not find the answers, and the scan alone counts.
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
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.95, 0.99])
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
    """Milliseconds, and what came of it; the better of two, as one is interrupted now and then."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        found = work()
        times.append(1000 * (time.perf_counter() - began))
    return min(times), found


def main() -> None:
    options = arguments()
    rows, queries, described = load(options.data, options.rows, options.queries, options.dimension)
    index = nf.Index(rows.shape[1], kind="hnsw", threads=options.threads)
    index.add(rows)
    index.threads = 1
    table = []
    print(f"{'share':>8} {'place':>8} {'recall':>7} {'found':>7} {'ms':>8} {'scan':>8} {'walk':>8} {'ratio':>6}  way")
    for share in SHARES:
        deep = min(int((10 + 3 * 10**0.5) / share), len(rows))  # answers that hold ten of those allowed
        for place in PLACES:
            # [way], [ms of the search, of a scan, of a walk without the filter], recall: for each recall asked for
            seen: dict[float, list[tuple[str, float, float, float, float]]] = {r: [] for r in options.recalls}
            for query, mask in zip(queries, masks(index, queries, rows, share, place), strict=True):
                scan, (truth, _) = timed(lambda q=query, m=mask: index.search(q, 10, allow=m, exact=True))
                right = set(truth.tolist()) - {-1}
                for asked, figures in seen.items():
                    took, (ids, _, report) = timed(
                        lambda q=query, m=mask, r=asked: index.search(q, 10, allow=m, recall=r, report=True)
                    )
                    walk, _ = timed(lambda q=query, r=asked, k=deep: index.search(q, k, recall=r))
                    figures.append((report.plan, took, scan, walk, len(right & set(ids.tolist())) / len(right)))
            for asked, figures in seen.items():
                took, scan, walk, found = (float(np.mean([one[i] for one in figures])) for i in (1, 2, 3, 4))
                ways = {way: sum(one[0] == way for one in figures) for way in {one[0] for one in figures}}
                line = {"share": share, "place": place, "recall": asked, "reached": found, "ms": took, "scan_ms": scan}
                line |= {"walk_ms": walk, "ratio": took / min(scan, walk if place == "random" else scan), "ways": ways}
                table.append(line)
                print(
                    f"{share:>8.2%} {place:>8} {asked:>7} {found:>7.4f} {took:>8.3f} {scan:>8.3f} {walk:>8.3f} "
                    f"{line['ratio']:>6.2f}  {ways}",
                    flush=True,
                )
    about = {"rows": len(rows), "dimension": rows.shape[1], "data": described, "queries": len(queries)}
    about |= {"processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0], **nf.build_info()}
    options.output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
