"""Filtered searches in the graph: recall, time and the way chosen, by how many rows a filter lets through and where.

    python benchmarks/filtered.py                      # MiniLM, SIFT, a made million of 384 dimensions; what is at hand
    python benchmarks/filtered.py --data clustered --rows 300000 --dimension 768

A filter lets through random rows, a cluster (the rows nearest to some row, which has nothing to do with the query), or
the rows farthest from the query. One thread, one query at a time, k = 10, all at a recall of .99. Beside the filtered
searches are timed, in turn with them:

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import data
import nearfield as nf

HERE = Path(__file__).parent
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
PLACES = ("random", "cluster", "far")
ROUNDS = 3
DEEPEST = 10_000  # answers asked of a walk without the filter: beyond, it is the slowest by far
Mask = NDArray[np.bool_]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", choices=("minilm", "sift", "clustered"), help="default: what is at hand")
    parser.add_argument("--rows", type=int, help="default: all, and a million made ones")
    parser.add_argument("--dimension", type=int, default=384, help="of made vectors")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for the build")
    parser.add_argument("--keep", type=Path, help="a folder for built indexes, which the next run uses again")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "filtered.json")
    return parser.parse_args()


def sets(options: argparse.Namespace) -> Iterator[tuple[str, str, data.Rows, data.Rows]]:
    """Name, metric, rows and queries."""
    at_hand = [name for name, path in (("minilm", data.REAL), ("sift", data.SIFT)) if path.exists()]
    for name in options.data or [*at_hand, "clustered"]:
        if name == "minilm":
            rows, asked, _ = data.real(options.rows or 99_000, options.queries)
            yield "MiniLM", "cosine", rows, asked
        elif name == "sift":
            rows, asked = (np.load(data.SIFT / f"{part}_u8.npy").astype(np.float32) for part in ("base", "queries"))
            yield "SIFT", "l2", rows[: options.rows], asked[: options.queries]
        else:
            rows, asked, _ = data.clustered(options.rows or 1_000_000, options.queries, options.dimension)
            yield "made", "cosine", rows, asked


def made(options: argparse.Namespace, name: str, metric: Any, rows: data.Rows) -> nf.Index:
    path = options.keep and options.keep / f"{name}-{len(rows)}x{rows.shape[1]}.nfi"
    if path and path.exists():
        index = nf.Index.load(path)
    else:
        index = nf.Index(rows.shape[1], metric, kind="hnsw", threads=options.threads)
        index.add(rows)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            index.save(path)
    index.threads = 1
    return index


def masks(
    index: nf.Index, queries: data.Rows, rows: data.Rows, place: str, shares: list[float]
) -> dict[float, list[NDArray[np.uint8]]]:
    """What a filter lets through, for every share and query: the first of an order, eight places a byte."""
    rng, count = np.random.default_rng(1), len(rows)
    wanted = {share: max(int(share * count), 1) for share in shares}
    masks: dict[float, list[NDArray[np.uint8]]] = {share: [] for share in shares}
    for query in queries:
        if place == "random":
            order = rng.permutation(count)
        elif place == "cluster":
            order = index.search(rows[rng.integers(count)], max(wanted.values()), exact=True)[0]
        else:
            order = index.search(query, count, exact=True)[0][::-1]
        for share, number in wanted.items():
            mask = np.zeros(count, dtype=bool)
            mask[order[:number]] = True
            masks[share].append(np.packbits(mask))
    return masks


def measured(
    index: nf.Index, queries: data.Rows, packed: list[NDArray[np.uint8]], share: float, recall: float
) -> dict[str, Any]:
    """Medians over the queries, each asked every way with its own filter: one way after the other in an order that
    turns, and the best of some rounds, as one is interrupted now and then."""
    deep = min(int((10 + 3 * (10 * (1 - share)) ** 0.5) / share), len(index))
    ways: dict[str, Callable[[Any, Mask], Any]] = {
        "filtered": lambda query, mask: index.search(query, 10, allow=mask, recall=recall),
        "scan": lambda query, mask: index.search(query, 10, allow=mask, exact=True),
        "plain_walk": lambda query, mask: index.search(query, 10, recall=recall),
        "walk_and_filter": lambda query, mask: index.search(query, deep, recall=recall),
    }
    names = list(ways)[: 4 if deep <= DEEPEST else 3]
    masks = [np.unpackbits(mask, count=len(index)).view(np.bool_) for mask in packed]
    asked = list(zip(queries, masks, strict=True))
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    found: dict[str, list[Any]] = {}
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken, answers, way = [], [], ways[name]
            for query, mask in asked:
                began = time.perf_counter()
                answer = way(query, mask)
                taken.append(1e6 * (time.perf_counter() - began))
                answers.append(set(answer[0].tolist()) - {-1})
            times[name].append(taken)
            found[name] = answers
    figures: dict[str, Any] = {name: round(float(np.median(np.min(times[name], axis=0))), 2) for name in names}
    right = zip(found["scan"], found["filtered"], strict=True)
    figures["reached"] = round(float(np.mean([len(truth & got) / len(truth) for truth, got in right])), 4)
    reports = [index.search(query, 10, allow=mask, recall=recall, report=True)[2] for query, mask in asked]
    for name, counts in (("scored", "rows_scanned"), ("hops", "hops"), ("read", "rows_reread")):
        figures[name] = float(np.median([getattr(report, counts) for report in reports]))
    plans = [report.plan for report in reports]
    return figures | {"ways": {way: plans.count(way) for way in sorted(set(plans))}}


def printed(line: dict[str, Any]) -> str:
    cells = [line["data"], f"{100 * line['share']:g} %", line["place"], f"{line['reached']:.4f}"]
    cells += [f"{line[name]:.0f}" if name in line else "" for name in ("filtered", "scan", "walk_and_filter")]
    cells += [f"{line['ratio']:.2f}", f"{line['plain_walk']:.0f}"]
    cells += [", ".join(f"{line[what]:,.0f}" for what in ("scored", "hops", "read"))]
    return f"| {' | '.join(cells)} | {max(line['ways'], key=lambda way: line['ways'][way])} |"


def main() -> None:
    options = arguments()
    table: list[dict[str, Any]] = []
    about = {"processor": platform.processor() or platform.machine(), "queries": options.queries, "sets": {}}
    about |= {"load": os.getloadavg()[0], **nf.build_info()}
    print(
        "| data | let through | where | recall | µs | scan | walk + filter | ratio | plain | scored, hops, read | way |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---|---|")
    for name, metric, rows, queries in sets(options):
        index = made(options, name, metric, rows)
        about["sets"] |= {name: {"rows": len(rows), "dimension": rows.shape[1], "metric": metric}}
        lines = []
        for place in options.places:
            for share, packed in masks(index, queries, rows, place, options.shares).items():
                line = {"data": name, "share": share, "place": place}
                line |= measured(index, queries, packed, share, options.recall)
                counts = place == "random" and "walk_and_filter" in line
                better = min(line["scan"], line["walk_and_filter"]) if counts else line["scan"]
                lines.append(line | {"ratio": round(line["filtered"] / better, 3)})
                print(printed(lines[-1]), flush=True)
        table += sorted(lines, key=lambda line: (-line["share"], PLACES.index(line["place"])))
        options.output.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
