"""VSAG's hgraph: 8-bit codes with a float32 copy to re-rank, degree 32, ef_construction 400 (its default).

It has no call for several queries, and calls from several threads at once came to a deadlock (0.18.5): its batch is a
loop on one thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvsag

from .base import Many, One, Peer, Rows, widths

pyvsag.set_logger_off()


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int):
        super().__init__(dimension, metric, threads)
        settings = {
            "base_quantization_type": "sq8_uniform",
            "use_reorder": True,
            "precise_quantization_type": "fp32",
            "max_degree": 32,
            "ef_construction": 400,
            "build_thread_count": threads,
        }
        metric = "l2" if metric == "l2" else "ip"
        about = {"dtype": "float32", "metric_type": metric, "dim": dimension, "index_param": settings}
        self.index = pyvsag.Index("hgraph", json.dumps(about))

    def build(self, rows: Rows, path: Path) -> None:
        self.index.build(vectors=rows, ids=np.arange(len(rows)), num_elements=len(rows), dim=self.dimension)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index.load(str(path))

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        settings = json.dumps({"hgraph": {"ef_search": effort}})

        def one(query: Rows) -> Any:
            return self.index.knn_search(query, k, settings)[0]

        return one, lambda queries: [one(query) for query in queries]

    def set_threads(self, count: int) -> None:
        """It is one, see above."""
