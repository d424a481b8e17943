"""hnswlib, the reference HNSW: M = 24, ef_construction = 200, within the ranges of its ALGO_PARAMS.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hnswlib

from .base import Many, One, Peer, Rows, widths


class Adapter(Peer):
    def _empty(self) -> Any:
        return hnswlib.Index("l2" if self.metric == "l2" else "ip", self.dimension)

    def build(self, rows: Rows, path: Path) -> None:
        self.index = self._empty()
        self.index.init_index(len(rows), M=24, ef_construction=200)
        self.index.add_items(rows, num_threads=self.threads)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index = self._empty()
        self.index.load_index(str(path))

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        self.index.set_ef(effort)
        return lambda query: self.index.knn_query(query, k)[0][0], lambda queries: self.index.knn_query(queries, k)[0]

    def set_threads(self, count: int) -> None:
        self.index.set_num_threads(count)
