"""Google's ScaNN: 2 sqrt(n) leaves, 4-bit asymmetric hashing, re-ranking; SOAR for dot products, as its docs advise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scann

from .base import Many, One, Peer, Rows

LEAVES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Adapter(Peer):
    def build(self, rows: Rows, path: Path) -> None:
        dot = self.metric != "l2"
        settings = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if dot else {}
        builder = scann.scann_ops_pybind.builder(rows, 10, "dot_product" if dot else "squared_l2")
        builder = builder.set_n_training_threads(self.threads)
        builder = builder.tree(
            num_leaves=int(2 * len(rows) ** 0.5),
            num_leaves_to_search=20,
            training_sample_size=min(len(rows), 250_000),
            **settings,
        )
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2 if dot else float("nan"))
        self.index = builder.reorder(100).build()

    def save(self, path: Path) -> None:
        path.mkdir()
        self.index.serialize(str(path))

    def load(self, path: Path, rows: int) -> None:
        self.index = scann.scann_ops_pybind.load_searcher(str(path))

    def efforts(self, k: int) -> Sequence[tuple[int, int]]:
        return [(leaves, max(3 * k, min(10 * k, 300))) for leaves in LEAVES]

    def at(self, effort: Any, k: int) -> tuple[One, Many]:
        leaves, reordered = effort
        index = self.index
        return (
            lambda query: index.search(query, k, reordered, leaves)[0],
            lambda queries: index.search_batched_parallel(queries, k, reordered, leaves, batch_size=64)[0],
        )

    def set_threads(self, count: int) -> None:
        if count > 1:  # a single search uses one thread as it is
            self.index.set_num_threads(count)
