"""usearch, in float32 and int8. Degree 32 and expansion 200 at build, the settings of its own comparison with faiss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index

from .base import Many, One, Peer, Rows, Unfit, widths


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int, dtype: str):
        super().__init__(dimension, metric, threads)
        self.dtype = dtype
        if dtype == "i8" and metric != "cosine":
            raise Unfit("usearch's int8 takes numbers in [-1, 1] for angles; its Euclidean distance would saturate")

    def build(self, rows: Rows, path: Path) -> None:
        metric = "l2sq" if self.metric == "l2" else "cos" if self.dtype == "i8" else "ip"
        self.index = Index(ndim=self.dimension, metric=metric, dtype=self.dtype, connectivity=32, expansion_add=200)
        self.index.add(np.arange(len(rows)), rows, threads=self.threads)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index = Index.restore(str(path))

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        self.index.expansion_search = effort

        def search(queries: Rows) -> Any:
            return self.index.search(queries, k, threads=self.count).keys

        return search, search

    def set_threads(self, count: int) -> None:
        self.count = count
