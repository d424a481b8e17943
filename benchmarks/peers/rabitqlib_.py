"""rabitqlib, by the authors of RaBitQ and SymphonyQG, with the settings of its own graph benchmark.

SymphonyQG: degree 32, ef_construction 200, raw vectors, PiPNN start. HNSW: M = 16, ef_construction 200, 1 + 8 bits, 16
centroids by its own k-means, which counts as building. On rows of unit length the order by l2 is that by cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rabitqlib

from .base import Many, One, Peer, Rows, widths


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int, kind: str):
        super().__init__(dimension, metric, threads)
        self.type = rabitqlib.SymqgIndex if kind == "symphonyqg" else rabitqlib.HnswIndex
        self.kind = kind

    def build(self, rows: Rows, path: Path) -> None:
        if self.kind == "symphonyqg":
            self.index = self.type(self.dimension, 32, "l2")
            self.index.build(rows, 200, self.threads)
            return
        means = rabitqlib.RaBitQKMeans(self.dimension, 16, num_threads=self.threads)
        means.train(rows)
        self.index = self.type(self.dimension, len(rows), 16, 200, 9, "l2")
        self.index.build(rows, means.centroids, means.assignments, self.threads)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index = self.type.load(str(path))

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        def many(queries: Rows) -> Any:
            return self.index.search(queries, k, effort, self.count)[0]

        return lambda query: many(query[None])[0], many

    def set_threads(self, count: int) -> None:
        self.count = count
