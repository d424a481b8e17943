"""The exact index against NumPy and faiss: the same rows, the same queries, the same threads, in the same minutes.

    python benchmarks/flat.py                    # 1,000,000 x 384; needs 8 GB of memory and the extra `bench`
    python benchmarks/flat.py --rows 100000 --data clustered

All three answer by inner product over unit vectors. The rounds are interleaved (each contender once, then again), and
a figure is the median of its rounds. Before any timing, nearfield's answers are checked against float64.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HERE = Path(__file__).parent
BLOCK = 20_000  # rows that NumPy multiplies at a time in a batch: the products then stay in the cache
SINGLES = 8  # single queries a round

Timings = dict[str, dict[str, list[float]]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--checked", type=int, default=200, help="queries whose answers are compared with float64")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", choices=["shared", "clustered"], help="default: shared if it is there")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "flat.json")
    return parser.parse_args()


def mismatches(rows: NDArray[np.float32], queries: NDArray[np.float32], ids: NDArray[np.int64]) -> int:
    """How many queries' answers differ from exactly rounded brute force, in any place.

    float64 products find the k + 30 best; among these, exact sums decide. 30 is ample: it covers errors of 1e-13.
    """
    import numpy as np

    k = ids.shape[1]
    keep = min(k + 30, len(rows))
    scores = np.empty((len(queries), 0))
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), 50_000):
        block = queries.astype(np.float64) @ rows[start : start + 50_000].astype(np.float64).T
        scores = np.concatenate([scores, block], axis=1)
        places = np.concatenate(
            [places, np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)], axis=1
        )
        best = np.argpartition(-scores, min(keep, scores.shape[1] - 1), axis=1)[:, :keep]
        scores, places = np.take_along_axis(scores, best, axis=1), np.take_along_axis(places, best, axis=1)
    wrong = 0
    for query, near, got in zip(queries.astype(np.float64), places, ids, strict=True):
        exact = [math.fsum(terms) for terms in rows[near].astype(np.float64) * query]
        order = sorted(zip(exact, near.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
        wrong += [place for _, place in order[:k]] != got.tolist()
    return wrong


def numpy_one(rows: NDArray[np.float32], query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    import numpy as np

    scores = rows @ query
    best = np.argpartition(scores, len(scores) - k)[-k:]
    return best[np.argsort(-scores[best])]


def numpy_batch(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    import numpy as np

    scores = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK):
        block = queries @ rows[start : start + BLOCK].T
        best = np.argpartition(block, block.shape[1] - k, axis=1)[:, -k:]
        scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
        places = np.concatenate([places, best + start], axis=1)
    order = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(places, order, axis=1)


def numpy_product_alone(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    for start in range(0, len(rows), BLOCK):
        queries @ rows[start : start + BLOCK].T


def limits(threads: int) -> dict[str, float | None]:
    """Bytes a second from memory and 8-bit multiply-adds a second, by a small program; empty without rustc."""
    if shutil.which("rustc") is None or platform.machine() not in ("x86_64", "AMD64"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        subprocess.run(["rustc", "--edition", "2024", "-O", str(HERE / "limits.rs"), "-o", str(program)], check=True)
        run = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    return dict(json.loads(run.stdout))


def measure(contenders: dict[str, dict[str, Callable[[int], int]]], rounds: int) -> Timings:
    """Milliseconds a query of every contender at every task: a list with one figure a round.

    A contender's function takes the number of the round and returns how many queries it answered.
    """
    timings: Timings = {task: {name: [] for name in runs} for task, runs in contenders.items()}
    for number in range(-1, rounds):  # round -1 warms up
        for task, runs in contenders.items():
            for name, run in runs.items():
                start = time.perf_counter()
                count = run(number)
                elapsed = 1000 * (time.perf_counter() - start) / count
                if number >= 0:
                    timings[task][name].append(elapsed)
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
    return timings


def table(result: dict[str, Any]) -> str:
    """The Markdown table of the README: milliseconds a query, and how many times as long as nearfield."""
    lines = [
        "| ms a query (× nearfield) | " + " | ".join(result["tasks"]) + " |",
        "|---|" + "---:|" * len(result["tasks"]),
    ]
    names = {name: None for task in result["tasks"].values() for name in task}
    for name in names:
        cells = []
        for task in result["tasks"].values():
            if name not in task:
                cells.append("")
                continue
            ratio = task[name] / task["nearfield"]
            cells.append(
                f"{task[name]:.2f}"
                + ("" if name == "nearfield" else f" ({ratio:.1f}×{', faster' if ratio < 1 else ''})")
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lost = [
        f"{name} at {task}" for task, runs in result["tasks"].items() for name in runs if runs[name] < runs["nearfield"]
    ]
    lost += [
        f"build: {name}" for name, s in result["build_seconds"].items() if s < result["build_seconds"]["nearfield"]
    ]
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result["build_seconds"].items())
    memory = ", ".join(f"{name} {value:,}" for name, value in result["bytes_per_row"].items())
    lines += ["", f"Where nearfield loses: {'; '.join(lost) or 'nowhere in this table'}.",
              f"Build: {seconds}. Bytes a row: {memory}.",
              f"Answers that differ from float64: {result['mismatches']} of {result['checked']}. "
              f"Rows re-read a query: {result['rows_reread_per_query']:.0f} of {result['rows']:,}."]  # fmt: skip
    share = result["shares"]
    if "memory_bandwidth" in share:
        speed, part = share["bytes_per_second"] / 1e9, share["memory_bandwidth"]
        lines.append(
            f"One query reads {speed:.1f} GB/s, {part:.0%} of what this machine's memory gave in the same run."
        )
    if "multiply_add_peak" in share:
        speed, part = share["multiply_adds_per_second"] / 1e9, share["multiply_add_peak"]
        lines.append(f"A batch does {speed:.0f} G 8-bit multiply-adds a second, {part:.0%} of the peak.")
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read when the libraries are loaded, hence the imports below

    import faiss
    import numpy as np

    import data
    import machine
    import nearfield as nf

    build = nf.build_info()
    if build["profile"] != "release":
        sys.exit(
            f"this is a {build['profile']} build of nearfield: its figures would mean nothing. Run `make clean bench`"
        )
    k, batch = options.k, options.batch
    faiss.omp_set_num_threads(options.threads)
    held_out = max(options.checked, batch, 2 * SINGLES)
    rows, queries, described = data.load(options.data, options.rows, held_out, options.dimension)
    print(f"{len(rows):,} x {rows.shape[1]}: {described}; {options.threads} threads; {build}", file=sys.stderr)

    index, peer = nf.Index(rows.shape[1], "dot", kind="flat", threads=options.threads), faiss.IndexFlatIP(rows.shape[1])
    built, memory = {}, {"NumPy": 4 * rows.shape[1]}
    for name, filled in (("nearfield", index), ("faiss IndexFlatIP", peer)):
        before, start = machine.resident(), time.perf_counter()
        filled.add(rows)
        built[name] = time.perf_counter() - start
        memory[name] = round((machine.resident() - before) / len(rows))

    checked = queries[: options.checked]
    ids, _, report = index.search(checked, k, report=True)
    wrong = mismatches(rows, checked, ids)
    one_by_one = [index.search(query, k, report=True) for query in checked]
    wrong += sum(not np.array_equal(one[0], together) for one, together in zip(one_by_one, ids, strict=True))
    print(
        f"{wrong} mismatches in {len(checked)} queries, {report.rows_reread / len(checked):.0f} rows re-read",
        file=sys.stderr,
    )
    limit, load = limits(options.threads), machine.load()

    def each(search: Callable[[Any], Any]) -> Callable[[int], int]:
        def run(number: int) -> int:
            for turn in range(SINGLES):
                search(queries[(number * SINGLES + turn) % len(queries)])
            return SINGLES

        return run

    def together(search: Callable[[Any], Any]) -> Callable[[int], int]:
        def run(_number: int) -> int:
            search(queries[:batch])
            return batch

        return run

    timings = measure(
        {
            "one query": {
                "nearfield": each(lambda query: index.search(query, k)),
                "NumPy x @ q, argpartition": each(lambda query: numpy_one(rows, query, k)),
                "faiss IndexFlatIP": each(lambda query: peer.search(query[None], k)),
            },
            f"batch of {batch}": {
                "nearfield": together(lambda many: index.search(many, k)),
                "NumPy Q @ X.T, argpartition": together(lambda many: numpy_batch(rows, many, k)),
                "NumPy Q @ X.T alone": together(lambda many: numpy_product_alone(rows, many)),
                "faiss IndexFlatIP": together(lambda many: peer.search(many, k)),
            },
        },
        options.rounds,
    )
    for name, most in limits(options.threads).items():  # again: what the machine can do is the better of the two
        limit[name] = max(filter(None, (most, limit[name])), default=None)
    tasks = {task: {name: statistics.median(times) for name, times in runs.items()} for task, runs in timings.items()}
    one, many = (tasks[task]["nearfield"] / 1000 for task in tasks)
    shares = {
        "bytes_per_second": statistics.median(one[2].bytes_read for one in one_by_one) / one,
        "multiply_adds_per_second": rows.size / many,
    }
    for share, name, most in (
        ("memory_bandwidth", "bytes_per_second", limit.get("bytes_per_second")),
        ("multiply_add_peak", "multiply_adds_per_second", limit.get("multiply_adds_per_second")),
    ):
        if most:
            shares[share] = shares[name] / most
    result = {
        "rows": len(rows),
        "dimension": rows.shape[1],
        "k": k,
        "data": described,
        "threads": options.threads,
        "rounds": options.rounds,
        "checked": len(checked),
        "mismatches": int(wrong),
        "rows_reread_per_query": report.rows_reread / len(checked),
        "rows_reread_most": max(one[2].rows_reread for one in one_by_one),
        "tasks": tasks,
        "rounds_ms": timings,
        "build_seconds": built,
        "bytes_per_row": memory,
        "limits": limit,
        "load_before_timing": load,
        "shares": shares,
        "versions": {
            "nearfield": build,
            "numpy": np.__version__,
            "faiss": faiss.__version__,
            "python": sys.version.split()[0],
        },
        "processor": machine.processor(),
        "commit": machine.commit(),
        "command": " ".join(["python", "benchmarks/flat.py", *sys.argv[1:]]),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
