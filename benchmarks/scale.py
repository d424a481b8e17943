"""From 100,000 to 10,000,000 vectors with the rows on the disk: build, memory, recall, and what a query costs.

    python benchmarks/scale.py                                    # the sizes of docs/scale.md; 16 GB of disk
    python benchmarks/scale.py --rows 20000 100000 --folder /tmp  # small ones

Clustered synthetic vectors (variances falling as 1/i) are made and added piece by piece, in one call. A collection
grows in two ways: more is said of the same 2,000 subjects (clusters become denser, and the nearest harder to tell from
the others), or there are more subjects, of 500 vectors each. The time to make vectors is not counted. Each size has a
process of its own, which searches on one core; those of up to 1,000,000 vectors stay, and search in turn with each of
the larger ones: how costs grow is the median of the ratios inside rounds. Memory is what the process holds and cannot
give back (RssAnon of /proc/self/status, the peak of samples taken five times a second); pages of files that the system
keeps while there is room are not in it. The truth is the index's own exact search.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
PIECE = 50_000
CLUSTERS = 2000
EACH = 500  # vectors, where clusters grow in number
K = 10


def held() -> int:
    """Bytes of this process that are in no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Peak:
    """The most bytes that were held while this was open."""

    def __enter__(self) -> Peak:
        self.bytes, self.done = held(), threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.2):
            self.bytes = max(self.bytes, held())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def clustered(count: int, dimension: int, clusters: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Pieces of unit vectors: normal about one of so many centres, the same for every seed."""
    rng = np.random.default_rng(0)
    spread = (1.0 / np.sqrt(1.0 + np.arange(dimension))).astype(np.float32)
    centres = rng.standard_normal((clusters, dimension), dtype=np.float32) * spread
    rng = np.random.default_rng(seed)
    for start in range(0, count, PIECE):
        size = min(PIECE, count - start)
        piece = rng.standard_normal((size, dimension), dtype=np.float32)
        piece *= np.float32(0.7) * spread
        piece += centres[rng.integers(clusters, size=size)]
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        yield piece


def serve(options: argparse.Namespace) -> None:
    """One size, in this process: prints what it is, a round of searches after each line of the input, and what loading
    it costs at the end."""
    import nearfield as nf

    rows, dimension, clusters = options.rows[0], options.dimension, options.clusters
    queries = next(clustered(options.queries, dimension, clusters, 2))
    index = nf.Index(dimension, kind="hnsw", threads=options.threads, on_disk=options.folder)
    making = 0.0

    def pieces() -> Iterator[NDArray[np.float32]]:
        nonlocal making
        started = time.perf_counter()
        for piece in clustered(rows, dimension, clusters, 1):
            making += time.perf_counter() - started
            yield piece
            started = time.perf_counter()

    with Peak() as peak:
        started = time.perf_counter()
        index.add(pieces())
        seconds = time.perf_counter() - started - making
    found: dict[str, Any] = {
        "rows": rows,
        "clusters": clusters,
        "build_seconds": round(seconds, 1),
        "build_peak_gb": round(peak.bytes / 1e9, 2),
        "held_gb": round(held() / 1e9, 2),
        "held_bytes_a_vector": round(index.memory / rows),
        "mapped_bytes_a_vector": round(index.mapped / rows),
    }
    truth = index.search(queries, K, exact=True)[0]
    index.threads = 1
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    def asked(recall: float) -> list[NDArray[np.int64]]:
        return [index.search(query, K, recall=recall)[0] for query in queries]

    points = []
    for recall in options.recalls:
        started = time.perf_counter()
        answers = asked(recall)
        first = time.perf_counter() - started  # rows come from the disk that nobody asked for before
        report = index.search(queries, K, recall=recall, report=True)[2]
        hits = [len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(answers, truth, strict=True)]
        each = {"hops": report.hops, "rows_scored": report.rows_scanned, "rows_reread": report.rows_reread}
        points.append(
            {
                "target": recall,
                "recall": round(float(np.mean(hits)), 4),
                "qps_first_pass": round(len(queries) / first),
                "exact": report.exact,
                **{name: round(count / len(queries), 1) for name, count in each.items()},
            }
        )
    print(json.dumps({**found, "points": points}), flush=True)
    for _ in sys.stdin:
        took = []
        for recall in options.recalls:
            started = time.perf_counter()
            asked(recall)
            took.append(1e6 * (time.perf_counter() - started) / len(queries))
        print(json.dumps(took), flush=True)
    again: dict[str, float] = {}
    if rows <= options.save_up_to:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "index.nfi"
            index.save(path)
            del index
            before = held()
            for name, verify in (("load_seconds", False), ("load_and_verify_seconds", True)):
                started = time.perf_counter()
                loaded = nf.Index.load(path, threads=options.threads, verify=verify)
                again[name] = round(time.perf_counter() - started, 3)
                again["loaded_bytes_a_vector"] = round((held() - before) / rows)
                del loaded
            again["file_gb"] = round(path.stat().st_size / 1e9, 2)
    print(json.dumps(again))


class Size:
    """A process that holds one size."""

    def __init__(self, options: argparse.Namespace, rows: int, clusters: int):
        command = [sys.executable, __file__, "--one", "--rows", str(rows), "--clusters", str(clusters)]
        for name in ("dimension", "queries", "threads", "save_up_to", "folder"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        command += ["--recalls", *map(str, options.recalls)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.found: dict[str, Any] = self.told()
        self.rounds: list[list[float]] = []

    def told(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended with code {self.process.wait()}")  # type: ignore[arg-type]
        return json.loads(line)

    def round(self) -> None:
        """Searches once more: `rounds` has the microseconds of a query, for each recall."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.rounds.append(self.told())

    def compare(self, other: Size, count: int) -> None:
        """Notes what a query costs beside one of a smaller size, by the last rounds of both."""
        for number, point in enumerate(self.found["points"]):
            rounds = zip(self.rounds[-count:], other.rounds[-count:], strict=True)
            times = statistics.median(own[number] / smaller[number] for own, smaller in rounds)
            name = f"{other.found['rows']} in {other.found['clusters']}"
            point.setdefault("times_that_of", {})[name] = round(times, 3)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        for point, took in zip(self.found["points"], zip(*self.rounds, strict=True), strict=True):
            point["qps"] = round(1e6 / statistics.median(took))
        self.found |= self.told()
        self.process.wait()


def compared(options: argparse.Namespace, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """All sizes, searched in turn: the small ones together with each of the others."""
    stay = [Size(options, *size) for size in sizes if size[0] <= options.save_up_to]
    found = [size.found for size in stay]
    for large in [size for size in sizes if size[0] > options.save_up_to] or [None]:
        group = [*stay, *([Size(options, *large)] if large else [])]
        for number in range(options.rounds):
            for size in group if number % 2 == 0 else group[::-1]:
                size.round()
        for size, other in itertools.product(group, stay):
            if other.found["rows"] < size.found["rows"]:
                size.compare(other, options.rounds)
        if large:
            group[-1].end()
            found.append(group[-1].found)
            print(json.dumps(found[-1], indent=1), flush=True)
    for size in stay:
        size.end()
        print(json.dumps(size.found, indent=1), flush=True)
    return found


def draw(results: list[dict[str, Any]], target: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    ways = {
        "2,000 clusters that become denser": [size for size in results if size["clusters"] == CLUSTERS],
        "more and more clusters of 500": [size for size in results if size["rows"] == EACH * size["clusters"]],
    }
    for name, sizes in ways.items():
        first = f"{sizes[0]['rows']} in {sizes[0]['clusters']}" if sizes else ""
        cost = [
            (size["rows"], point.get("times_that_of", {}).get(first, 1.0))
            for size in sizes
            for point in size["points"]
            if point["target"] == target
        ]
        if cost:
            rows, times = np.array(cost).T
            # One way's numbers stand on the left of its line, the other's on the right.
            aside = 20 if axes.lines else -20
            (line,) = axes.loglog(rows, times, "o-", label=name)
            for at in cost:
                beside = {"xytext": (aside, 0), "textcoords": "offset points", "ha": "center", "va": "center"}
                axes.annotate(f"{at[1]:.2f}", at, color=line.get_color(), **beside)
    axes.loglog(rows, (rows / rows[0]) ** 0.25, ":", color="gray", label="$n^{0.25}$")
    axes.set_title(f"what a query costs, recall {target}, one thread", fontsize="medium")
    axes.set(xlabel="vectors", ylabel="times the cost of the fewest", yticks=[1, 2, 3, 4])
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--clusters", type=int, nargs="+", help=f"default: {CLUSTERS}, and one for {EACH} vectors")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save-up-to", type=int, default=1_000_000, help="rows up to which a file is saved and loaded")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scale.json")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "scale.png")
    parser.add_argument("--one", action="store_true", help="one size in this process, printed")
    options = parser.parse_args()
    if options.one:
        options.clusters = options.clusters[0]
        serve(options)
        return
    ways = {rows: sorted(set(options.clusters or (CLUSTERS, max(1, rows // EACH)))) for rows in sorted(options.rows)}
    results = compared(options, [(rows, clusters) for rows, ways in ways.items() for clusters in ways])
    about = {"dimension": options.dimension, "k": K, "threads_of_build": options.threads, "cpu": cpu()}
    options.output.write_text(json.dumps({**about, "sizes": results}, indent=1) + "\n")
    draw(results, 0.95 if 0.95 in options.recalls else options.recalls[0], options.picture)


def cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    main()
