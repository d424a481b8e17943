"""A collection's index in memory, kept equal to the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.index import Index
from nearfield.transaction import State, Transaction
from nearfield.types import Metric, Report

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LiveIndex:
    """Built from the vectors on disk when it is first searched, and brought up to date before every search.

    All calls are made inside `Store.reading()`, whose lock also keeps the threads apart. What to catch up with is read
    from the catalog, in the same snapshot as the records of the answer: no answer is stale or torn, whoever wrote.
    """

    def __init__(self) -> None:
        self._index: Index | None = None
        self._next_row = 0
        self._seq = 0

    def search(
        self,
        transaction: Transaction,
        state: State,
        queries: NDArray[np.float32],
        k: int,
        **options: Any,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]:
        """`Index.search` with rows as ids: (rows (q, k), scores (q, k), report)."""
        try:
            index = self._up_to_date(transaction, state)
        except BaseException:
            self._index = None  # it may have taken in a part: the next search starts afresh
            raise
        rows, scores, report = index.search(queries, k, report=True, **options)
        return rows, scores, report

    def _up_to_date(self, transaction: Transaction, state: State) -> Index:
        assert state.dimension is not None
        if self._index is None:
            metric: Metric = state.metric  # type: ignore[assignment]  # the catalog holds what Metric allows
            self._index, self._next_row, self._seq = Index(state.dimension, metric), 0, 0
        if state.seq > self._seq:
            dead = transaction.dead_rows(state.id, self._seq)
            if len(known := dead[dead < self._next_row]):
                self._index.remove(known)
        else:
            dead = np.empty(0, dtype=np.int64)
        if state.next_row > self._next_row:
            for first, vectors in transaction.vectors(state, self._next_row):
                rows = np.arange(first, first + len(vectors), dtype=np.int64)
                alive = ~np.isin(rows, dead)
                if alive.all():
                    self._index.add(vectors, rows)
                elif alive.any():
                    self._index.add(vectors[alive], rows[alive])
        self._next_row, self._seq = state.next_row, state.seq
        return self._index
