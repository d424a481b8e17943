"""Reading records without a query: by id, by filter, sorted, counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from nearfield.columns import LiveColumns
from nearfield.derived import Derived
from nearfield.errors import NotFound, shown
from nearfield.filters import Filter
from nearfield.live import Moved, Version, consistent
from nearfield.store import Store
from nearfield.transaction import State, Transaction
from nearfield.types import Record

R = TypeVar("R")


class Reader:
    """The records of one collection."""

    def __init__(self, store: Store, derived: Derived, state: State) -> None:
        self._store = store
        self._derived = derived
        self._columns = derived.columns
        self._origin = state.origin
        self._name = state.name

    def get(
        self,
        *,
        ids: Sequence[str] | None,
        filter: Filter | None,
        order: Sequence[tuple[str, bool]],
        start: int,
        stop: int | None,
        include: set[str],
    ) -> list[Record]:
        """`Collection.get`, its arguments checked."""

        def read(transaction: Transaction) -> list[Record]:
            state = transaction.state(self._origin, self._name)
            named = None if ids is None else existing(transaction, state, ids)
            if order:
                mask = self._columns.allowed(transaction, state, filter, named)
                rows = self._columns.sorted(transaction, state, mask, order, start, stop).tolist()
            elif named is not None and filter is None:
                rows = named[start:stop]
            elif filter is None:
                rows = transaction.rows(state.id, start=start, stop=stop).tolist()
            else:
                mask = self._columns.allowed(transaction, state, filter, named)
                rows = np.flatnonzero(mask).tolist() if named is None else [row for row in named if mask[row]]
                rows = rows[start:stop]
            return _records(transaction, state, rows, include)

        return self._read(read)

    def scan(self, filter: Filter | None, include: set[str], size: int) -> Iterator[list[Record]]:
        """`Collection.scan`, its arguments checked."""
        lists = self._lists(filter, include, size)
        return lists if self._store.path is not None else iter(list(lists))  # in memory nobody could write meanwhile

    def _lists(self, filter: Filter | None, include: set[str], size: int) -> Iterator[list[Record]]:
        with self._store.reading() as transaction:
            state = transaction.state(self._origin, self._name)
            if filter is None:
                rows = transaction.rows(state.id)
            else:
                try:
                    mask = self._columns.allowed(transaction, state, filter)
                except Moved:  # the columns are newer than this view, which must not change from here on
                    mask = LiveColumns(self._store).allowed(transaction, state, filter)
                rows = np.flatnonzero(mask)
            for at in range(0, len(rows), size):
                yield _records(transaction, state, rows[at : at + size].tolist(), include)

    def known(self, ids: Sequence[str]) -> set[str]:
        """`Collection.known`, its arguments checked."""
        with self._store.reading() as transaction:
            return set(transaction.rows_of(transaction.state(self._origin, self._name).id, ids))

    def matching(self, filter: Filter, ids: Sequence[str] | None) -> tuple[Version, list[int]]:
        """The rows that pass, ascending, of these ids where they are given; and the version of the collection."""

        def read(transaction: Transaction) -> tuple[Version, list[int]]:
            state = transaction.state(self._origin, self._name)
            return Version.of(state), self.matching_now(transaction, state, filter, ids, self._columns)

        return self._read(read)

    @staticmethod
    def matching_now(
        transaction: Transaction, state: State, filter: Filter, ids: Sequence[str] | None, columns: LiveColumns
    ) -> list[int]:
        """`matching` in a transaction that is open already."""
        within = None if ids is None else list(transaction.rows_of(state.id, ids).values())
        found: list[int] = np.flatnonzero(columns.allowed(transaction, state, filter, within)).tolist()
        return found

    def count(self, filter: Filter | None) -> int:
        """`Collection.count`, its arguments checked."""

        def read(transaction: Transaction) -> int:
            state = transaction.state(self._origin, self._name)
            if filter is None:
                return state.live
            return int(np.count_nonzero(self._columns.allowed(transaction, state, filter)))

        return self._read(read)

    def facet(self, field: str, filter: Filter | None, limit: int | None) -> list[tuple[Any, int]]:
        """`Collection.facet`, its arguments checked."""

        def read(transaction: Transaction) -> list[tuple[Any, int]]:
            state = transaction.state(self._origin, self._name)
            mask = self._columns.allowed(transaction, state, filter)
            return self._columns.facet(transaction, state, mask, field, limit)

        return self._read(read)

    def _read(self, work: Callable[[Transaction], R]) -> R:
        found = consistent(self._store, self._derived.gates, work)
        self._derived.tend()
        return found


def existing(transaction: Transaction, state: State, ids: Sequence[str]) -> list[int]:
    """The rows of ids that must exist, in their order.

    Raises:
        NotFound: naming ids that do not.
    """
    rows = transaction.rows_of(state.id, ids)
    if missing := [id for id in ids if id not in rows]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NotFound(
            f"collection {state.name!r} has no records with the ids {', '.join(map(shown, missing[:3]))}{more}"
        )
    return [rows[id] for id in ids]


def _records(transaction: Transaction, state: State, rows: Sequence[int], include: set[str]) -> list[Record]:
    """The records in `rows`, which exist, with the parts that are wanted."""
    found = transaction.records(state.id, rows, documents="documents" in include)
    vectors = transaction.vectors_of(state, rows) if "embeddings" in include else [None] * len(rows)
    return [
        Record(
            found[row].id,
            found[row].document,
            json.loads(found[row].metadata) if "metadatas" in include else {},
            vector,
        )
        for row, vector in zip(rows, vectors, strict=True)
    ]
