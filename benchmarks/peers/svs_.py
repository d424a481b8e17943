"""Intel's Scalable Vector Search: Vamana of degree 64, window 200, on LVQ 4x8 codes or on float16.

LVQ runs on Intel processors alone; on others the library says so and only float16 is left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import svs

from .base import Many, One, Peer, Rows, Unfit, widths


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int, kind: str):
        super().__init__(dimension, metric, threads)
        self.kind = kind
        self.distance = svs.L2 if metric == "l2" else svs.MIP
        cpu = Path("/proc/cpuinfo")
        if kind == "lvq4x8" and cpu.exists() and "GenuineIntel" not in cpu.read_text():
            raise Unfit("SVS runs LVQ on Intel processors alone, and this is none")

    def build(self, rows: Rows, path: Path) -> None:
        settings = svs.VamanaBuildParameters(
            graph_max_degree=64, window_size=200, alpha=1.2 if self.metric == "l2" else 0.95
        )
        if self.kind == "float16":
            data: Any = rows.astype(np.float16)
        else:
            with tempfile.TemporaryDirectory() as folder:  # LVQ reads its vectors from a file
                svs.write_vecs(np.ascontiguousarray(rows), f"{folder}/rows.fvecs")
                whole = svs.VectorDataLoader(f"{folder}/rows.fvecs", svs.float32, self.dimension)
                data = svs.LVQLoader(whole, primary=4, residual=8, padding=32)
                self.index = svs.Vamana.build(settings, data, self.distance, num_threads=self.threads)
                return
        self.index = svs.Vamana.build(settings, data, self.distance, num_threads=self.threads)

    def save(self, path: Path) -> None:
        path.mkdir()
        self.index.save(*(str(path / part) for part in ("config", "graph", "data")))

    def load(self, path: Path, rows: int) -> None:
        data: Any = svs.VectorDataLoader(str(path / "data"), svs.float16, self.dimension)
        if self.kind == "lvq4x8":
            data = svs.LVQLoader(str(path / "data"))
        graph = svs.GraphLoader(str(path / "graph"))
        self.index = svs.Vamana(str(path / "config"), graph, data, self.distance, num_threads=self.threads)

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        self.index.search_window_size = effort
        return lambda query: self.index.search(query[None], k)[0][0], lambda queries: self.index.search(queries, k)[0]

    def set_threads(self, count: int) -> None:
        self.index.num_threads = count
