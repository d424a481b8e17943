"""A collection's metadata as columns in memory: what answers a filter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import _native
from nearfield.errors import Corrupt
from nearfield.filters import Filter, Node, to_json
from nearfield.given import Given
from nearfield.live import WORTH_PUBLISHING, Published, Version
from nearfield.store import Store
from nearfield.transaction import State, Transaction

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LiveColumns(Published[_native.Columns]):
    """Built of metadata as it is written, or when a filter first needs it; brought up to date before each answer.

    `allowed`, `sorted` and `facet` are to be called in `live.consistent`, and raise `Moved`.
    """

    kind = "columns"
    far = WORTH_PUBLISHING

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.given: Given[str] = Given()  # metadata as JSON

    def allowed(
        self, transaction: Transaction, state: State, filter: Filter | None, within: Sequence[int] | None = None
    ) -> NDArray[np.bool_]:
        """Which rows have a record that passes: shape (state.next_row,); only rows of `within` where it is given."""
        fields = None if filter is None else filter.fields
        if filter is not None and fields is None:  # no columns are needed to tell which records there are
            mask = np.zeros(state.next_row, dtype=np.bool_)
            mask[transaction.rows(state.id) if within is None else within] = True
        else:
            with self.at(transaction, state) as columns:
                mask = columns.matches(None if fields is None else to_json(fields))
        if within is not None:
            inside = np.zeros_like(mask)
            inside[within] = True
            mask &= inside
        if filter is not None and filter.document is not None:
            _look_into_documents(transaction, state, filter.document, mask)
        return mask

    def sorted(
        self,
        transaction: Transaction,
        state: State,
        mask: NDArray[np.bool_],
        by: Sequence[tuple[str, bool]],
        start: int = 0,
        stop: int | None = None,
    ) -> NDArray[np.int64]:
        """The rows of `mask`, sorted by fields (True: descending): from `start` to before `stop`."""
        with self.at(transaction, state) as columns:
            return columns.sorted(mask, list(by), start, stop)

    def facet(
        self, transaction: Transaction, state: State, mask: NDArray[np.bool_], field: str, limit: int | None
    ) -> list[tuple[Any, int]]:
        """The values of `field` in the rows of `mask`, and how many rows have each; the most frequent first."""
        with self.at(transaction, state) as columns:
            counts = columns.facet(mask, field, limit)
        return [(value, count) for value, count in json.loads(counts)]

    def fresh(self, state: State) -> _native.Columns:
        return _native.Columns()

    def loaded(self, path: Path, state: State) -> _native.Columns:
        return _native.Columns.load(path)

    def saving(self, thing: _native.Columns) -> Callable[[Path], None]:
        return thing.save

    def caught_up(
        self, thing: _native.Columns, transaction: Transaction, state: State, since: Version
    ) -> _native.Columns:
        for first, given in self.given.taken(state.id, since.next_row, state.next_row):
            end = first + len(given)
            thing.add(np.arange(first, end, dtype=np.int64), given, end)
            since = since._replace(next_row=end)  # what has happened to these rows has a greater number than `seq`
        if state.seq > since.seq and since.next_row:
            dead = transaction.dead_rows(state.id, since.seq)
            thing.remove(dead[dead < since.next_row])
            changed = transaction.changed_rows(state.id, since.seq)
            records = transaction.records(state.id, changed[changed < since.next_row].tolist(), documents=False)
            rows = np.fromiter(records, dtype=np.int64, count=len(records))
            thing.replace(rows, [record.metadata for record in records.values()])
        if state.next_row > since.next_row:
            for rows, metadata in transaction.metadata(state.id, since.next_row):
                thing.add(rows, metadata, int(rows[-1]) + 1)
            thing.add(np.empty(0, dtype=np.int64), [], state.next_row)  # the last rows may have no record
        if len(thing) != state.live:
            raise Corrupt(
                f"collection {state.name!r} has {state.live} records and metadata for {len(thing)}; "
                "`nearfield verify` says what is damaged"
            )
        return thing


def _look_into_documents(transaction: Transaction, state: State, node: Node, mask: NDArray[np.bool_]) -> None:
    """Take out of `mask` the rows whose document does not pass."""
    condition = to_json(node)
    for rows, documents in transaction.documents(state.id, np.flatnonzero(mask)):
        mask[rows] = _native.documents_matching(condition, documents)
