"""The two processes that a peer lives in: one builds it and writes it down, another answers the questions."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Prepared
from machine import Peak, cores, load, pin, resident

from . import make
from .base import Many, One

LEAST, ENOUGH = 0.85, 0.997  # the part of a curve that is measured: the points between, and one on either side
CHECKING = 5.0  # seconds that a setting's recall may take: all queries, but for exact scans


def build(pipe: Connection, name: str, data: Prepared, path: Path, threads: int) -> None:
    """Build and save; answers with the figures, or with the sentence why not."""
    try:
        peer = make(name, data.about["dimension"], data.about["metric"], threads)
        rows = data.rows()
        for start in range(0, len(rows), 50_000):
            rows[start : start + 50_000].max()  # read from disk before the clock runs
        busy = load()
        with Peak() as peak:
            started = time.perf_counter()
            peer.build(rows, path)
            seconds = time.perf_counter() - started
        peer.save(path)
        pipe.send({"build_seconds": seconds, "build_peak_bytes": peak.bytes, "threads": threads, "load_before": busy})
    except Exception as error:  # whatever a peer says belongs in the report, and must not end the others
        pipe.send(f"{type(error).__name__}: {error}".removeprefix("Unfit: "))


def serve(pipe: Connection, name: str, data: Prepared, path: Path, threads: int) -> None:
    """Load, then answer ("sweep", k, seconds), ("round", mode), ("counters",) and ("memory",) until the pipe closes."""
    try:
        peer = make(name, data.about["dimension"], data.about["metric"], threads)
        before = memory()
        started = time.perf_counter()
        peer.load(path, data.about["rows"])
        server = Server(peer, data, threads)
        pipe.send({"load_seconds": time.perf_counter() - started})
        while True:
            try:
                verb, *arguments = pipe.recv()
            except EOFError:
                return
            if verb == "memory":
                pipe.send({kind: held - before[kind] for kind, held in memory().items()})
            else:
                pipe.send(getattr(server, verb)(*arguments))
    except Exception as error:  # as above
        pipe.send(f"{type(error).__name__}: {error}".removeprefix("Unfit: "))


def memory() -> dict[str, int]:
    """Bytes of this process: those that it cannot give back, and pages of files that it has mapped and read."""
    return {"held": resident("RssAnon", "RssShmem"), "mapped": resident("RssFile")}


class Server:
    """Runs the questions of one peer. Modes: "one" query at a time on one thread, or "all" at once on all."""

    def __init__(self, peer: Any, data: Prepared, threads: int):
        self.peer, self.threads = peer, threads
        self.queries, self.truth = data.queries(), data.truth()
        self.cores = cores()
        self.k, self.kept = 10, list[tuple[Any, int]]()

    def _mode(self, mode: str) -> None:
        pin(self.cores[:1] if mode == "one" else self.cores)  # this thread alone; those of a pool stay free
        self.peer.set_threads(1 if mode == "one" else self.threads)

    def sweep(self, k: int, seconds: float, modes: list[str]) -> list[dict[str, Any]]:
        """Recall at every effort from fast to thorough, until it is high enough; keeps those worth measuring."""
        self.k, points, costs = k, [], []
        for effort in self.peer.efforts(k):
            together = 0.0
            if "all" in modes:
                self._mode("all")
                together = self._recall(self._at(effort)[1](self.queries))
            self._mode("one")
            one = self._at(effort)[0]
            each = timed(lambda one=one: [one(query) for query in self.queries[:20]]) / 20
            checked = self._count(CHECKING, each)
            found = [one(query) for query in self.queries[:checked]]
            each = timed(lambda one=one: [one(query) for query in self.queries[:20]]) / 20
            points.append((effort, self._recall(found), together, self._count(seconds, each)))
            costs.append(each)
            # More effort finds no more. (Settings that ask for less than the least effort finds cost the same.)
            flat = len(points) > 3 and points[-1][1] < points[-4][1] + 0.002 and costs[-1] > 1.5 * costs[-4]
            if points[-1][1] >= ENOUGH or flat:
                break
        first = max((place for place, point in enumerate(points) if point[1] < LEAST), default=0)
        points = points[first:]
        self.kept = [(effort, count) for effort, _, _, count in points]
        return [{"effort": effort, "recall": one, "recall_all": many} for effort, one, many, _ in points]

    def round(self, mode: str) -> list[float]:
        """Queries a second at every effort that was kept."""
        self._mode(mode)
        speeds = []
        for effort, count in self.kept:
            one, many = self._at(effort)
            if mode == "one":
                queries = list(self.queries[:count])
                speeds.append(count / timed(lambda one=one, queries=queries: [one(query) for query in queries]))
            else:
                speeds.append(len(self.queries) / timed(lambda many=many: many(self.queries)))
        return speeds

    def counters(self) -> list[dict[str, float]]:
        self._mode("one")
        return [self.peer.counters(effort, self.k, self.queries) for effort, _ in self.kept]

    def _at(self, effort: Any) -> tuple[One, Many]:
        searches: tuple[One, Many] = self.peer.at(effort, self.k)
        return searches

    def _count(self, seconds: float, each: float) -> int:
        return int(np.clip(seconds / each, min(50, len(self.queries)), len(self.queries)))

    def _recall(self, found: Any) -> float:
        return recall(found, self.truth[:, : self.k])


def recall(found: Any, truth: NDArray[np.int64]) -> float:
    """The share of the true neighbours that was found, over the queries answered."""
    pairs = zip(truth.tolist(), found, strict=False)  # perhaps only the first queries were asked
    return float(np.mean([len({*near}.intersection(np.asarray(ids).tolist())) / len(near) for near, ids in pairs]))


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
