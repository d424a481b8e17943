"""A collection's documents as a keyword index in memory, kept equal to the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.errors import Corrupt
from nearfield.live import Published, Version
from nearfield.sparse import SparseIndex, languages
from nearfield.store import Store
from nearfield.transaction import State, Stored, Transaction
from nearfield.types import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RECORDS = 20_000  # read at once, and
_CHARACTERS = 1 << 25  # no more text than this


class LiveText(Published[SparseIndex]):
    """Built of the documents when they are first searched, or of the published index and what has happened since.

    Records without a document are not in it: they count neither as documents nor as answers.
    """

    kind = "text"

    def __init__(self, store: Store, gate: threading.RLock | None = None) -> None:
        super().__init__(store, gate)
        self._rules = SparseIndex()  # words are made by rules alone; what is indexed does not matter

    def advanced(
        self, transaction: Transaction, state: State, thing: SparseIndex | None, since: Version | None
    ) -> SparseIndex:
        if thing is None or since is None or since.id != state.id:
            language = transaction.language(state)
            if language != "none" and language not in languages():
                raise Corrupt(f"the catalog names a language that is none, {language!r}, for collection {state.name!r}")
            self._rules = SparseIndex(language=None if language == "none" else language)
        return super().advanced(transaction, state, thing, since)

    def search(
        self,
        transaction: Transaction,
        state: State,
        queries: list[str],
        k: int,
        **options: Any,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]:
        """`SparseIndex.search` with rows as ids: (rows (q, k), scores (q, k), report). To be called in `consistent`.

        Args:
            allow: which rows may be answered: rows, or a boolean mask of length `state.next_row`.

        Raises:
            Moved: another thread has brought the index further than this view.
        """
        with self.at(transaction, state) as index:
            rows, scores, report = index.search(queries, k, report=True, **options)
        return rows, scores, report

    def highlights(self, document: str, query: str) -> list[tuple[int, int]]:
        """Where words of the query stand in a document, see `SparseIndex.highlights`."""
        return self._rules.highlights(document, query)

    def fresh(self, state: State) -> SparseIndex:
        return SparseIndex(language=self._rules.language)

    def loaded(self, path: Path, state: State) -> SparseIndex:
        index, wanted = SparseIndex.load(path), self._rules
        if (index.kind, index.language) != (wanted.kind, wanted.language):
            raise Corrupt(f"{path} is an index of another kind")
        return index

    def saving(self, thing: SparseIndex) -> Callable[[Path], None] | None:
        return thing.save

    def caught_up(self, thing: SparseIndex, transaction: Transaction, state: State, since: Version) -> SparseIndex:
        if state.seq > since.seq and since.next_row > 0:
            changed = transaction.changed_rows(state.id, since.seq)
            changed = changed[changed < since.next_row]  # the others are read below, as they are now
            gone = np.union1d(transaction.dead_rows(state.id, since.seq), changed)
            thing.remove(gone[thing.contains(gone)])
            for start in range(0, len(changed), _RECORDS):
                _add(thing, transaction.records(state.id, changed[start : start + _RECORDS].tolist()).values())
        row = since.next_row
        while row < state.next_row and (records := transaction.piece(state, row, _RECORDS, _CHARACTERS)):
            _add(thing, records)
            row = records[-1].row + 1
        return thing


def _add(index: SparseIndex, records: Iterable[Stored]) -> None:
    found = [(record.row, record.document) for record in records if record.document is not None]
    index.add([document for _, document in found], np.array([row for row, _ in found], dtype=np.int64))
