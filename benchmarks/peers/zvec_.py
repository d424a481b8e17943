"""zvec: HNSW on int8 codes with its refiner, memory in one piece, by the call its documentation calls the fast one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zvec
from zvec.typing import DataType, MetricType, QuantizeType

from .base import Crowd, Many, One, Peer, Rows, widths

PIECE = 500  # records an insert


class Adapter(Peer):
    def __init__(self, dimension: int, metric: str, threads: int):
        super().__init__(dimension, metric, threads)
        zvec.init(query_threads=threads, optimize_threads=threads, log_level=zvec.LogLevel.ERROR)
        self.crowd = Crowd()

    def build(self, rows: Rows, path: Path) -> None:
        settings = zvec.HnswIndexParam(
            metric_type=MetricType.L2 if self.metric == "l2" else MetricType.COSINE,
            m=32,
            ef_construction=300,
            quantize_type=QuantizeType.INT8,
            use_contiguous_memory=True,
        )
        vector = zvec.VectorSchema("vector", DataType.VECTOR_FP32, self.dimension, index_param=settings)
        collection = zvec.create_and_open(str(path), zvec.CollectionSchema(name="bench", vectors=[vector]))
        for start in range(0, len(rows), PIECE):
            piece = enumerate(rows[start : start + PIECE], start)
            done = collection.insert([zvec.Doc(id=str(place), vectors={"vector": row}) for place, row in piece])
            assert all(status.ok() for status in done)
        collection.optimize()
        collection.close()

    def save(self, path: Path) -> None:
        """It is there already."""

    def load(self, path: Path, rows: int) -> None:
        self.collection = zvec.open(str(path), zvec.CollectionOption(read_only=True, enable_mmap=True))
        self.places = np.array([int(name) for name in self.collection.resolve_internal_ids(np.arange(rows))])

    def efforts(self, k: int) -> Sequence[int]:
        return widths(k)

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        settings = zvec.HnswQueryParam(ef=effort, is_using_refiner=True)

        def one(query: Rows) -> Any:
            asked = zvec.Query("vector", vector=query, param=settings)
            return self.places[self.collection.query_internal_ids(asked, topk=k)]

        return one, self.crowd.many(one)

    def set_threads(self, count: int) -> None:
        self.crowd.resize(count)
