"""nearfield's indexes against its peers': recall and queries a second, memory and build, every peer in its own process.

    pip install 'nearfield[bench]'
    python benchmarks/ann.py                              # 69,000 real MiniLM vectors, 1,000 held out as queries
    python benchmarks/ann.py --data sift --only nearfield-hnsw symphonyqg hnswlib --k 10 100
    python benchmarks/ann.py --data clustered --rows 1000000 --dimension 768 --build   # build only: files are kept
    python benchmarks/ann.py --data glove-100-angular.hdf5                             # or .npz with train and test

Each peer is built in a process of its own on all cores, saved, and loaded by another process, which answers. What was
built before with the same version is not built again (`--again` does). In every round each peer runs each of its
settings once, in a changing order; a figure is the median of its rounds. One query at a time means one thread, pinned
to a core (`--modes one`); all at once is one call on all cores (`--modes all`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import data
import machine
from peers import EXACT, PEERS
from report import MODES, draw, table

HERE = Path(__file__).parent
THREADS = ("OMP", "MKL", "OPENBLAS", "RAYON", "NUMEXPR")
SETTLE = 0.25  # seconds in which the threads of the peer before fall asleep
BUILD_LIMIT = 3 * 3600  # seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = "minilm" if data.REAL.exists() else "clustered"
    parser.add_argument("--data", default=there, help="minilm, sift, clustered, or a .npz or .hdf5 file")
    parser.add_argument("--rows", type=int, help="default: all there are, 1,000,000 for clustered")
    parser.add_argument("--dimension", type=int, default=768, help="of clustered data")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, nargs="+", default=[10])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="see above; default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="the most a setting may take of a round")
    parser.add_argument("--threads", type=int, default=len(machine.cores()))
    parser.add_argument("--only", nargs="+", choices=list(PEERS), metavar="PEER", default=list(PEERS))
    parser.add_argument("--without", nargs="+", choices=list(PEERS), metavar="PEER", default=[])
    parser.add_argument("--build", action="store_true", help="build what is missing, and measure no searches")
    parser.add_argument("--again", action="store_true", help="build although it was built before")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "nearfield-bench")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/ann-<data>.json, with a .png a k")
    parser.add_argument("--list", action="store_true", help="print the peers and stop")
    return parser.parse_args()


def versions(name: str) -> dict[str, str]:
    """The versions that a built index depends on; of nearfield also the build itself."""
    if name.startswith("nearfield"):
        import nearfield as nf

        native = Path(import_module("nearfield._native").__file__ or "").read_bytes()
        return {"nearfield": f"{nf.__version__}+{hashlib.sha256(native).hexdigest()[:10]}"}
    return {package: version(package) for package in PEERS[name].packages}


class Child:
    """A process at the other end of a pipe."""

    def __init__(self, target: str, *arguments: Any):
        from peers import child

        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=getattr(child, target), args=(other, *arguments), daemon=True)
        self.process.start()
        other.close()

    def answer(self, limit: float = 600) -> Any:
        """What it says; a sentence (str) if it failed, died or said nothing for `limit` seconds."""
        try:
            if not self.pipe.poll(limit):
                self.process.kill()
                return f"it did not answer within {limit:.0f} s"
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return f"its process ended with code {self.process.exitcode}"

    def ask(self, *question: Any) -> Any:
        with contextlib.suppress(OSError):  # then the answer says why
            self.pipe.send(question)
        return self.answer()

    def end(self) -> None:
        pipe: Connection = self.pipe
        pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()


def built(name: str, prepared: data.Prepared, options: argparse.Namespace) -> tuple[Path, dict[str, Any] | str]:
    """The saved index of a peer and the figures of its build, or why there is none."""
    try:
        tag = "-".join(versions(name).values())
    except (PackageNotFoundError, ImportError) as error:
        return Path(), f"not installed ({error})"
    folder = prepared.folder / f"{name}-{tag}"
    meta = folder / "meta.json"
    if options.again or not meta.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        child = Child("build", name, prepared, folder / "index", options.threads)
        figures = child.answer(BUILD_LIMIT)
        child.end()
        if isinstance(figures, str):
            shutil.rmtree(folder)
            return folder, figures
        figures["file_bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        meta.write_text(json.dumps(figures))
        say(f"{name}: built in {figures['build_seconds']:.1f} s (load {figures['load_before']})")
    return folder, json.loads(meta.read_text())


def measure(children: dict[str, Child], k: int, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The curve of every peer: for each effort its recall and, by mode, the queries a second of each round."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, child in children.items():
        points = child.ask("sweep", k, options.seconds, options.modes)
        if isinstance(points, str):
            say(f"{name}: {points}")
            continue
        curves[name] = points
        say(f"{name}: recall@{k} {points[0]['recall']:.3f} to {points[-1]['recall']:.3f}, {len(points)} settings")
    for mode in options.modes:
        for number in range(options.rounds):
            names = list(curves)
            turn = number * len(names) // options.rounds
            for name in names[turn:] + names[:turn]:
                time.sleep(SETTLE)
                speeds = children[name].ask("round", mode)
                if isinstance(speeds, str):
                    say(f"{name}: {speeds}")
                    del curves[name]
                    continue
                for point, speed in zip(curves[name], speeds, strict=True):
                    point.setdefault(f"rounds_{mode}", []).append(round(speed, 1))
            say(f"  {mode}: round {number + 1} of {options.rounds}")
    for name, points in curves.items():
        for point, counted in zip(points, children[name].ask("counters"), strict=True):
            point.update({f"qps_{mode}": statistics.median(point[f"rounds_{mode}"]) for mode in options.modes})
            point.update(counted)
    return curves


def main() -> None:
    options = arguments()
    if options.list:
        print("\n".join(PEERS))
        return
    for library in THREADS:
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)  # every child inherits it
    machine.pin(machine.cores()[: options.threads])
    prepared = data.prepare(options.data, options.cache, options.rows, options.dimension, options.queries)
    say(f"{prepared.about}")
    indexes, left_out, children = {}, {}, {}
    for name in (name for name in options.only if name not in options.without):
        folder, figures = built(name, prepared, options)
        if isinstance(figures, str):
            left_out[name] = figures
            say(f"{name} is left out: {figures}")
        else:
            indexes[name] = {**figures, "versions": versions(name), "exact": name in EXACT}
            if not options.build:
                children[name] = Child("serve", name, prepared, folder / "index", options.threads)
                loaded = children[name].answer()
                if isinstance(loaded, str):
                    left_out[name] = loaded
                    say(f"{name} is left out: {loaded}")
                    children.pop(name).end()
                    indexes.pop(name)
                else:
                    indexes[name].update(loaded)
    if options.build:
        return
    stem = Path(options.data).stem + (f"-{options.rows}" if options.rows else "")
    output = options.output or HERE / "results" / f"ann-{stem}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        **prepared.about,
        "threads": options.threads,
        "rounds": options.rounds,
        "modes": options.modes,
        "processor": machine.processor(),
        "commit": machine.commit(),
        "load_before": machine.load(),
        "command": " ".join(["python benchmarks/ann.py", *sys.argv[1:]]),
        "left_out": left_out,
        "indexes": indexes,
        "k": {},
    }
    for k in options.k:
        result["k"][str(k)] = measure(children, k, options)
        for name in result["k"][str(k)]:
            for kind, held in children[name].ask("memory").items():
                indexes[name][f"{kind}_bytes_a_vector"] = round(max(held, 0) / prepared.about["rows"])
        result["load_after"] = machine.load()
        output.write_text(json.dumps(result, indent=1) + "\n")  # a later k may take long
    for child in children.values():
        child.end()
    print(table(result))
    draw(result, output)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
