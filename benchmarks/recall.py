"""Recall as the knob: whether queries that no index has seen find as much as was asked for, and at what speed.

    python benchmarks/recall.py                            # every data set that is at hand, hnsw; some minutes
    python benchmarks/recall.py --data minilm --kinds hnsw ivf ivf_pq lsh
    python benchmarks/recall.py --churn                    # the same after all rows were replaced
    python benchmarks/recall.py --drift --data minilm sift # against a fresh graph of the same rows, at equal effort
    python benchmarks/recall.py --splits 24 --data "ir cisi"  # graphs of other rows, in other orders: what is not luck

For each data set and k the recall asked for is swept finely. *Reached* is the share of the true answers found, on the
average over held-out queries. *Speed* is the queries a second at the recall asked for (one thread, one at a time),
divided by those of the best fixed setting: the fastest of all settings swept whose recall on these same queries is the
one asked for, as one who knows the answers would choose it. Settings take turns; a time is the median of the rounds.
*Work* is the same of the rows scored, which no machine changes. Both are above 1 where the recall asked for is missed.
*Drift* is what a graph whose rows were all replaced finds more than a fresh one that scores as many rows. *Splits* are
graphs of the same data in random orders, without an eighth of the rows, which ask as well: the mean of what each target
reached, less the target, and how far single graphs are from that mean.

With `--data` the other sets' lines of the output file are kept; each line says of which commit it is.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import data
import machine
import nearfield as nf

HERE = Path(__file__).parent
IR = data.SHARED / "ir"
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
SWEPT = (0.7, 0.75, 0.8, 0.83, 0.86, 0.88, 0.9, 0.915, 0.93, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.993)
SWEPT += (0.995, 0.9965, 0.998, 0.999)
HELD = 2000  # rows that ask, at the most, where graphs are made of the others
SEARCHES = 6000  # a setting, at the least: of fewer the best of all settings is the luckiest


class Data(NamedTuple):
    metric: Any
    rows: data.Rows
    queries: data.Rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="default: all that are at hand")
    parser.add_argument("--kinds", nargs="+", default=["hnsw"])
    parser.add_argument("--k", type=int, nargs="+", default=[1, 10, 30, 100])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for the build")
    parser.add_argument("--churn", action="store_true", help="replace all rows first, a fiftieth at a time")
    parser.add_argument("--drift", action="store_true", help="compare what --churn makes with a fresh graph")
    parser.add_argument(
        "--splits", type=int, help="so many graphs of each set: the mean and spread of the recall reached"
    )
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "nearfield-bench")
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/recall.json, recall-churn.json and so on"
    )
    return parser.parse_args()


def sets(wanted: list[str] | None, queries: int, cache: Path) -> Iterator[tuple[str, Data]]:
    """Name and data; what is not at hand is left out."""
    made = {
        "made, cosine": lambda: Data("cosine", *data.clustered(100_000, queries, 256)[:2]),
        "made, l2": lambda: _moved(queries),
        "made, dot": lambda: _scaled(queries),
    }
    if data.REAL.exists():
        made["minilm"] = lambda: Data("cosine", *data.real(69_000, queries)[:2])
    if data.SIFT.exists():
        made["sift"] = lambda: _sift(queries)
    for folder in sorted(IR.glob("*")):
        made[f"ir {folder.name}"] = lambda name=folder.name: _ir(name, queries, cache)
    for name in wanted or made:
        yield name, made[name]()


def _moved(queries: int) -> Data:
    """Vectors of different lengths, far from the origin."""
    rows, asked, _ = data.clustered(50_000, queries, 96, seed=1)
    rng = np.random.default_rng(2)
    return Data("l2", *(part * rng.uniform(0.5, 2, (len(part), 1)).astype(np.float32) + 3 for part in (rows, asked)))


def _scaled(queries: int) -> Data:
    """Rows whose lengths are log-normal: 95 % of them between 0.55 and 1.8."""
    rows, asked, _ = data.clustered(50_000, queries, 128, seed=3)
    return Data("dot", rows * np.random.default_rng(4).lognormal(0, 0.3, (len(rows), 1)).astype(np.float32), asked)


def _sift(queries: int) -> Data:
    """Its own queries; where more are wanted, rows that are then held out."""
    rows, asked = (np.load(data.SIFT / f"{part}_u8.npy").astype(np.float32) for part in ("base", "queries"))
    indexed = len(rows) - max(queries - len(asked), 0)
    return Data("l2", rows[:indexed], np.concatenate([asked, rows[indexed:]])[:queries])


def _ir(name: str, queries: int, cache: Path) -> Data:
    """Documents and the questions people asked about them, encoded once by the local model."""
    path = cache / f"ir-{name}.npz"
    if not path.exists():
        from nearfield.embed import resolve

        model = resolve("default")
        parts = ([json.loads(line) for line in (IR / name / f"{part}.jsonl").open()] for part in ("corpus", "queries"))
        texts = [[f"{one.get('title', '')} {one['text']}".strip() for one in part] for part in parts]
        texts = [[text for text in part if text] for part in texts]  # one document has no words
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, train=model.encode_documents(texts[0]), test=model.encode_queries(texts[1]))
    with np.load(path) as arrays:
        return Data("cosine", arrays["train"], arrays["test"][:queries])


def replaced(index: nf.Index, rows: data.Rows) -> None:
    """Fill the index with the first half of the rows, then replace these by the other half, in a random order."""
    half = len(rows) // 2
    ids = np.random.default_rng(5).permutation(index.add(rows[:half]))
    for old, new in zip(np.array_split(ids, 50), np.array_split(rows[half : 2 * half], 50), strict=True):
        index.remove(old)
        index.add(new)


def recall(scores: NDArray[np.float32], worst: NDArray[np.float32]) -> float:
    """Of equal rows any is right: what scores as the k-th best does, or better."""
    return float((scores >= worst).mean())


def measured(index: nf.Index, asked: data.Rows, k: int, rounds: int) -> dict[str, Any]:
    truth = index.search(asked, k, exact=True)[1]
    found, scored, times = {}, {}, {setting: [] for setting in SWEPT}
    for number in range(max(rounds, SEARCHES // len(asked))):
        first = number * 7 % len(SWEPT)
        for setting in (*SWEPT[first:], *SWEPT[:first]):
            began = time.perf_counter()
            answers = [index.search(query, k, recall=setting) for query in asked]
            times[setting].append((time.perf_counter() - began) / len(asked))
            found[setting] = recall(np.array([scores for _, scores in answers]), truth[:, -1:])
    for setting in SWEPT:
        reports = [index.search(query, k, recall=setting, report=True)[2] for query in asked]
        scored[setting] = statistics.mean(report.rows_scanned for report in reports)
    seconds = {setting: statistics.median(times[setting]) for setting in SWEPT}
    lines = {}
    for target in TARGETS:
        report = index.search(asked[0], k, recall=target, report=True)[2]
        enough = [setting for setting in SWEPT if found[setting] >= target]
        lines[str(target)] = {
            "reached": round(found[target], 4),
            "speed": round(min(seconds[one] for one in enough) / seconds[target], 3) if enough else None,
            "work": round(min(scored[one] for one in enough) / scored[target], 3) if enough else None,
            "rows_scored": round(scored[target]),
            "microseconds": round(1e6 * seconds[target], 1),
            "way": report.plan,
            "effort": report.effort,
        }
    return lines


def curve(index: nf.Index, asked: data.Rows, k: int) -> NDArray[np.float64]:
    """Rows scored and nodes expanded a query, and the recall this reaches, for every setting that walks answer."""
    truth = index.search(asked, k, exact=True)[1][:, -1:]
    points = []
    for setting in SWEPT:
        found = [index.search(query, k, recall=setting, report=True) for query in asked]
        counts = np.mean([(report.rows_scanned, report.hops) for _, _, report in found], axis=0)
        if all(report.hops for _, _, report in found):
            points.append((*counts, recall(np.array([scores for _, scores, _ in found]), truth)))
    return np.unique(np.array(points), axis=0)


def drifted(rows: data.Rows, asked: data.Rows, k: int, kind: Any) -> dict[str, Any]:
    """A graph whose rows were all replaced against a fresh one of the rows it has then. Misses fall about as a power of
    the rows scored, so between two settings both are taken as lines of their logarithms.
    """
    half = len(rows) // 2
    index, fresh = kind(), kind()
    replaced(index, rows)
    fresh.add(rows[half : 2 * half])
    then, new = curve(index, asked, k), curve(fresh, asked, k)

    def at(points: NDArray[np.float64], scored: NDArray[np.float64], column: int) -> NDArray[np.float64]:
        known = points[:, 1] if column == 1 else np.log(1.0001 - points[:, 2])
        between = np.interp(np.log(scored), np.log(points[:, 0]), known)
        return between if column == 1 else 1.0001 - np.exp(between)

    scored = new[(new[:, 0] >= then[0, 0]) & (new[:, 0] <= then[-1, 0]), 0]
    line: dict[str, Any] = {
        "rows": half,
        "rows_scored": [round(one) for one in scored],
        "fresh": [round(one, 4) for one in at(new, scored, 2)],
        "drift": [round(one, 4) for one in at(then, scored, 2) - at(new, scored, 2)],
        "hops": [round(one, 3) for one in at(then, scored, 1) / at(new, scored, 1)],
        "memory": [fresh.memory, index.memory],
    }
    index.compact()
    same = all(np.array_equal(index.search(one, k)[1], fresh.search(one, k)[1]) for one in asked)
    return line | {"memory_compacted": index.memory, "compacted_answers_as_fresh": same}


def counted(index: nf.Index, asked: data.Rows, k: int) -> tuple[list[float], list[float]]:
    """For every setting the recall reached and the rows scored, one query at a time."""
    worst = index.search(asked, k, exact=True)[1][:, -1:]
    found, scored = [], []
    for setting in SWEPT:
        answers = [index.search(query, k, recall=setting, report=True) for query in asked]
        found.append(recall(np.array([scores for _, scores, _ in answers]), worst))
        scored.append(statistics.mean(report.rows_scanned for _, _, report in answers))
    return found, scored


def split(number: int, rows: data.Rows, asked: data.Rows, ks: list[int], kind: Any) -> Iterator[dict[str, Any]]:
    """For each k, and for rows and questions that ask, what so many graphs reach on the average."""
    held = min(len(rows) // 8, HELD)
    points: dict[tuple[int, str], list[Any]] = {}
    for seed in range(number):
        order = np.random.default_rng(seed).permutation(len(rows))
        index = kind()
        index.add(rows[order[held:]])
        for k in ks:
            for who, queries in (("rows", rows[order[:held]]), ("queries", asked)):
                points.setdefault((k, who), []).append(counted(index, queries, k))
    for (k, who), runs in points.items():
        found, scored = np.array(runs).transpose(1, 0, 2)
        line: dict[str, Any] = {"k": k, "asked": who, "queries": held if who == "rows" else len(asked), "targets": {}}
        for target in TARGETS:
            place = SWEPT.index(target)
            enough = scored.mean(axis=0)[found.mean(axis=0) >= target]
            line["targets"][str(target)] = {
                "over": round(float(found[:, place].mean() - target), 4),
                "spread": round(float(found[:, place].std()), 4),
                "reached": round(float((found[:, place] >= target - 0.01).mean()), 3),
                "rows_scored": round(float(scored[:, place].mean())),
                "work": round(float(enough.min() / scored[:, place].mean()), 3) if len(enough) else None,
            }
        yield line


def main() -> None:
    options = arguments()
    name = "recall-drift.json" if options.drift else "recall-churn.json" if options.churn else "recall.json"
    output = options.output or HERE / "results" / ("recall-splits.json" if options.splits else name)
    about = {"processor": machine.processor(), "commit": machine.commit(), "load": machine.load(), **nf.build_info()}
    table: list[dict[str, Any]] = []
    if options.data and output.exists():
        table = [one for one in json.loads(output.read_text())["table"] if one["data"] not in options.data]
    for name, (metric, rows, asked) in sets(options.data, options.queries, options.cache):
        if options.splits:
            make = functools.partial(nf.Index, rows.shape[1], metric, kind="hnsw", threads=options.threads)
            for line in split(options.splits, rows, asked, options.k, make):
                head = {"data": name, "commit": about["commit"], "rows": len(rows), "splits": options.splits}
                table.append(head | line)
                cells = (f"{one['over']:+.4f} ({one['spread']:.4f}, {one['work']})" for one in line["targets"].values())
                print(f"| {name} | {line['asked']} | {line['k']} | {' | '.join(cells)} |", flush=True)
                output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")
            continue
        for kind in options.kinds if options.drift else ():
            make = functools.partial(nf.Index, rows.shape[1], metric, kind=kind, threads=options.threads)
            for k in options.k:
                table.append(
                    {"data": name, "commit": about["commit"], "kind": kind, "k": k} | drifted(rows, asked, k, make)
                )
                print(json.dumps(table[-1]), flush=True)
                output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")
        for kind in options.kinds if not options.drift else ():
            index = nf.Index(rows.shape[1], metric, kind=kind, threads=options.threads)
            replaced(index, rows) if options.churn else index.add(rows)
            index.threads = 1
            for k in options.k:
                line = {
                    "data": name,
                    "commit": about["commit"],
                    "metric": metric,
                    "rows": len(index),
                    "dimension": rows.shape[1],
                    "kind": kind,
                }
                line |= {"k": k, "queries": len(asked), "targets": measured(index, asked, k, options.rounds)}
                table.append(line)
                cells = (
                    f"{one['reached']:.3f} ({one['speed'] or 0:.2f}, {one['work'] or 0:.2f})"
                    for one in line["targets"].values()
                )
                print(f"| {name} | {kind} | {k} | {' | '.join(cells)} |", flush=True)
                output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
