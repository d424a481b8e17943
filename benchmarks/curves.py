"""The pictures of docs/concepts: recall and queries a second of each kind, one query at a time on one thread.

python benchmarks/curves.py                  # real MiniLM vectors if they are at hand
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from data import load

HERE = Path(__file__).parent
KINDS = ("hnsw", "ivf", "ivf_pq", "lsh")
RECALLS = (0.8, 0.9, 0.95, 0.98, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=69_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "curves.json")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import nearfield as nf

    rows, queries, about = load(None, options.rows, options.queries, 384)
    indexes = {kind: nf.Index(384, kind=kind) for kind in ("flat", *KINDS)}
    seconds = {}
    for kind, index in indexes.items():
        started = time.perf_counter()
        index.add(rows)
        seconds[kind] = time.perf_counter() - started
        index.threads = 1
    truth = indexes["flat"].search(queries, 10)[0]
    runs = [("flat", 1.0), *((kind, recall) for kind in KINDS for recall in RECALLS)]
    times: dict[tuple[str, float], list[float]] = {run: [] for run in runs}
    reached = {}
    for _ in range(options.rounds):
        for kind, recall in runs:
            started = time.perf_counter()
            got = [indexes[kind].search(query, 10, recall=recall)[0] for query in queries]
            times[kind, recall].append(time.perf_counter() - started)
            pairs = zip(np.array(got).tolist(), truth.tolist(), strict=True)
            reached[kind, recall] = float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))
    result = {
        kind: {
            "build_seconds": round(seconds[kind], 2),
            "bytes_a_vector": round(index.memory / len(rows)),
            "points": [
                {
                    "asked": recall,
                    "recall": round(reached[kind, recall], 4),
                    "qps": round(len(queries) / statistics.median(times[kind, recall])),
                }
                for name, recall in runs
                if name == kind
            ],
        }
        for kind, index in indexes.items()
    }
    options.output.write_text(json.dumps({"data": about, "rows": len(rows), "kinds": result}, indent=1) + "\n")
    for kind in indexes:
        figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
        for name, entry in result.items():
            curve = [(point["recall"], point["qps"]) for point in entry["points"]]
            strong = name == kind
            axes.plot(
                *zip(*curve, strict=True), marker="o", color="C0" if strong else "0.75", zorder=3 if strong else 2
            )
            axes.annotate(name, curve[-1], textcoords="offset points", xytext=(6, 2), color="C0" if strong else "0.5")
        axes.set(xlabel="recall@10", ylabel="queries a second, one thread", yscale="log", xlim=(0.78, 1.03))
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(HERE.parent / "docs" / "concepts" / f"{kind}.png")
        plt.close(figure)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
