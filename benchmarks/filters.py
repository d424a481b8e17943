"""Filters on metadata: `count(where)` against SQLite's own JSON functions on the same catalog, in the same minutes.

    python benchmarks/filters.py                     # 1,000,000 records x 5 fields; needs 3 GB of disk and of memory
    python benchmarks/filters.py --rows 100000

Both must count the same. The rounds are interleaved, and a figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

import nearfield as nf

HERE = Path(__file__).parent
LANGUAGES = ["en", "de", "fr", "es", "it", "pt", "nl", "pl", "ja", "zh", "ko", "ar"]
START = datetime(2000, 1, 1, tzinfo=UTC)
DAY = datetime(2010, 1, 1, tzinfo=UTC)

# What is asked, and how SQLite is asked the same.
FIELD = "json_extract(metadata, '$.{}')".format
QUESTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("year = 1999", {"year": 1999}, f"{FIELD('year')} = 1999"),
    ("year < 1970", {"year": {"$lt": 1970}}, f"{FIELD('year')} < 1970"),
    ("price between", {"price": {"$gte": 10.5, "$lt": 20}}, f"{FIELD('price')} >= 10.5 AND {FIELD('price')} < 20"),
    ("language = de", {"language": "de"}, f"{FIELD('language')} = 'de'"),
    ("language in 3", {"language": {"$in": ["de", "fr", "ja"]}}, f"{FIELD('language')} IN ('de', 'fr', 'ja')"),
    ("language like", {"language": {"$like": "_e"}}, f"{FIELD('language')} LIKE '_e'"),
    ("published >=", {"published": {"$gte": DAY}}, f"{FIELD('published')} >= '{DAY.isoformat()}'"),
    (
        "tags contain",
        {"tags": {"$contains": "tag 7"}},
        "EXISTS (SELECT 1 FROM json_each(metadata, '$.tags') WHERE value = 'tag 7')",
    ),
    ("tags missing", {"tags": {"$exists": False}}, "json_type(metadata, '$.tags') IS NULL"),
    ("year not 1999", {"year": {"$ne": 1999}}, f"{FIELD('year')} IS NOT 1999"),
    (
        "three, and",
        {"year": {"$gte": 1990}, "language": "de", "price": {"$lt": 50.0}},
        f"{FIELD('year')} >= 1990 AND {FIELD('language')} = 'de' AND {FIELD('price')} < 50.0",
    ),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "filters.json")
    return parser.parse_args()


def fill(path: Path, rows: int) -> float:
    """Make the database; seconds."""
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    with nf.open(path, durability="relaxed") as db:
        collection = db.collection("c", embedder=None)
        for first in range(0, rows, 50_000):
            count = min(50_000, rows - first)
            years, prices = rng.integers(1950, 2025, count).tolist(), np.round(rng.gamma(2, 20, count), 2).tolist()
            languages, seconds = rng.integers(len(LANGUAGES), size=count), rng.integers(0, 7 * 10**8, count).tolist()
            tags = rng.integers(0, 50, (count, 2)).tolist()
            metadatas = [
                {
                    "year": years[i],
                    "price": prices[i],
                    "language": LANGUAGES[languages[i]],
                    "published": START + timedelta(seconds=seconds[i]),
                    **({"tags": [f"tag {tag}" for tag in tags[i]]} if tags[i][0] else {}),
                }
                for i in range(count)
            ]
            collection.add(
                ["x" * 200] * count,
                ids=[str(first + i) for i in range(count)],
                embeddings=rng.standard_normal((count, 8), dtype=np.float32),
                metadatas=metadatas,
            )
    return time.perf_counter() - began


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    began = time.perf_counter()
    found = work()
    return 1000 * (time.perf_counter() - began), found


def measure(path: Path, rounds: int) -> dict[str, Any]:
    """All questions, and what else a filter costs."""
    figures: dict[str, Any] = {"questions": {}}
    with nf.open(path) as db:
        built, _ = timed(lambda: db.collection("c", embedder=None).count({"year": 0}))
    with nf.open(path) as db:
        opened, collection = timed(lambda: db.collection("c", embedder=None))
        first, _ = timed(lambda: collection.count({"year": 0}))
        figures |= {"first_filter_ever_ms": built, "first_filter_after_opening_ms": opened + first}
        sql = sqlite3.connect(path / "catalog.sqlite")
        for name, where, condition in QUESTIONS:
            ours, theirs = [], []
            for number in range(rounds):
                took, count = timed(lambda w=where: collection.count(w))  # type: ignore[misc]
                ours.append(took)
                if number < 2:
                    query = f"SELECT count(*) FROM records WHERE {condition}"
                    took, (other,) = timed(lambda q=query: sql.execute(q).fetchone())  # type: ignore[misc]
                    theirs.append(took)
                    assert count == other, (name, count, other)
            figures["questions"][name] = {
                "matches": count,
                "ms": statistics.median(ours),
                "all_ms": ours,
                "sqlite_ms": statistics.median(theirs),
            }
        sql.close()
        changes: dict[str, Callable[[int], Any]] = {
            "count after an update of one record": lambda i: collection.update(str(7 * i), metadatas={"year": 0}),
            "count after an add of one record": lambda i: collection.add(ids=f"new {i}", embeddings=[1.0] * 8),
            "count after a delete of one record": lambda i: collection.delete(f"new {i}"),
        }
        for name, change in changes.items():
            times = []
            for i in range(rounds):
                change(i)
                times.append(timed(lambda: collection.count({"year": 1999}))[0])
            figures[name] = statistics.median(times)
        ids = [str(i) for i in np.random.default_rng(1).permutation(collection.count() // 2)[: 1000 * rounds]]
        deleting = [timed(lambda i=i: collection.delete(ids[1000 * i : 1000 * i + 1000]))[0] for i in range(rounds)]  # type: ignore[misc]
        figures["delete of 1,000 by id"] = statistics.median(deleting)
        price = [timed(lambda p=p: collection.delete(where={"price": p}))[0] for p in (30.01, 30.02, 30.03)]  # type: ignore[misc]
        figures["delete of about 300 by where"] = statistics.median(price)
        figures["get 10 of a where"] = timed(lambda: collection.get(where={"year": 1999}, limit=10))[0]
        figures["get 10 of all, sorted"] = timed(lambda: collection.get(order_by="-published", limit=10))[0]
        figures["facet of language"] = timed(lambda: collection.facet("language"))[0]
    return figures


def main() -> None:
    options = arguments()
    if nf.build_info()["profile"] != "release":
        raise SystemExit("this is a debug build; install a release build first")
    folder = Path(tempfile.mkdtemp(prefix="nearfield-bench-"))
    try:
        load = os.getloadavg()[0]
        seconds = fill(folder / "x.nf", options.rows)
        figures = measure(folder / "x.nf", options.rounds)
    finally:
        shutil.rmtree(folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    about = {"rows": options.rows, "filled_seconds": seconds, "load_before": load, "commit": commit.stdout.strip()}
    about |= {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), **nf.build_info()}
    options.output.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(f"{options.rows:,} records, load {load:.1f} before")
    print(f"{'':<40}{'matches':>10}{'nearfield':>12}{'SQLite':>12}")
    for name, found in figures.pop("questions").items():
        print(f"{name:<40}{found['matches']:>10,}{found['ms']:>9.2f} ms{found['sqlite_ms']:>9.0f} ms")
    for name, took in figures.items():
        print(f"{name:<40}{'':>10}{took:>9.2f} ms")


if __name__ == "__main__":
    main()
