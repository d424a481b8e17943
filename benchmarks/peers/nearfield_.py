"""nearfield itself. The effort is the recall asked for: there is no other knob.

An index that was loaded leaves its vectors in the file; with `mapped=False` the answering process builds its own,
and holds all of it in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nearfield as nf

from .base import Many, One, Peer, Rows

RECALLS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998)
COUNTED = 100  # queries whose reports are averaged


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int, kind: str, mapped: bool = True):
        super().__init__(dimension, metric, threads)
        self.kind, self.mapped = kind, mapped

    def build(self, rows: Rows, path: Path) -> None:
        self.index = nf.Index(self.dimension, "l2" if self.metric == "l2" else "cosine", kind=self.kind)
        self.index.threads = self.threads
        self.index.add(rows)

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path, rows: int) -> None:
        if self.mapped:
            self.index = nf.Index.load(path)
        else:
            self.build(np.load(path.parents[1] / "rows.npy", mmap_mode="r"), path)

    def efforts(self, k: int) -> Sequence[float]:
        return (1.0,) if self.kind == "flat" else RECALLS

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        def search(queries: Rows) -> Any:
            return self.index.search(queries, k, recall=effort)[0]

        return search, search

    def set_threads(self, count: int) -> None:
        self.index.threads = count

    def counters(self, effort: Any, k: int, queries: Rows) -> dict[str, float]:
        reports = [self.index.search(query, k, recall=effort, report=True)[2] for query in queries[:COUNTED]]
        names = ("rows_scanned", "rows_reread", "hops", "bytes_read")
        return {name: float(np.mean([getattr(report, name) for report in reports])) for name in names}
