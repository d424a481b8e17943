"""faiss: exact, graph, lists, and lists with 4-bit product quantisation.

Settings after its wiki ("Guidelines to choose an index", "Fast accumulation of PQ and AQ codes"): 4 sqrt(n) lists, two
dimensions a part of the product quantiser, re-ranking of the best 10 k in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss

from .base import Many, One, Peer, Rows, widths

PROBES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int, kind: str):
        super().__init__(dimension, metric, threads)
        self.kind = kind

    def build(self, rows: Rows, path: Path) -> None:
        faiss.omp_set_num_threads(self.threads)
        lists = int(4 * len(rows) ** 0.5)
        factory = {
            "flat": "Flat",
            "hnsw": "HNSW32,Flat",
            "hnsw-sq8": "HNSW32,SQ8",
            "ivf": f"IVF{lists},Flat",
            "ivfpqfs": f"IVF{lists},PQ{self.dimension // 2}x4fs,RFlat",
        }[self.kind]
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(self.dimension, factory, metric)
        if self.kind.startswith("hnsw"):
            self.index.hnsw.efConstruction = 200
        self.index.train(rows)
        self.index.add(rows)

    def save(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index = faiss.read_index(str(path))
        if self.kind == "ivfpqfs":
            self.index.k_factor = 10
        if self.kind.startswith("ivf"):
            self.lists = faiss.extract_index_ivf(self.index)

    def efforts(self, k: int) -> Sequence[int]:
        return (0,) if self.kind == "flat" else PROBES if self.kind.startswith("ivf") else widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        if self.kind.startswith("ivf"):
            self.lists.nprobe = effort
        elif self.kind != "flat":
            self.index.hnsw.efSearch = effort
        return lambda query: self.index.search(query[None], k)[1][0], lambda queries: self.index.search(queries, k)[1]

    def set_threads(self, count: int) -> None:
        faiss.omp_set_num_threads(count)
