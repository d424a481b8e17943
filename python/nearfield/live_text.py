"""A collection's documents as a keyword index in memory, kept equal to the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.beside import prefetched
from nearfield.errors import Corrupt
from nearfield.given import Given
from nearfield.live import WORTH_PUBLISHING, Published, Version
from nearfield.sparse import SparseIndex, languages
from nearfield.store import Store
from nearfield.transaction import Generation, State, Stored, Transaction
from nearfield.types import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RECORDS = 20_000  # taken in at once


class LiveText(Published[SparseIndex]):
    """Built of the documents when they are first searched, from then on as they are written.

    Records without a document are not in it: they count neither as documents nor as answers.
    """

    kind = "text"
    far = WORTH_PUBLISHING

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.given: Given[str | None] = Given()  # documents
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

    def wanted(self, state: State, published: Generation | None) -> bool:
        return published is not None and super().wanted(state, published)  # else nobody has ever asked for words

    def saving(self, thing: SparseIndex) -> Callable[[Path], None] | None:
        return thing.save

    def caught_up(self, thing: SparseIndex, transaction: Transaction, state: State, since: Version) -> SparseIndex:
        for first, given in self.given.taken(state.id, since.next_row, state.next_row):
            for at in range(0, len(given), _RECORDS):
                _add(thing, enumerate(given[at : at + _RECORDS], first + at))
            since = since._replace(next_row=first + len(given))  # what happened to these rows came after `seq`
        if state.seq > since.seq and since.next_row > 0:
            changed = transaction.changed_rows(state.id, since.seq)
            changed = changed[changed < since.next_row]  # the others are read below, as they are now
            gone = np.union1d(transaction.dead_rows(state.id, since.seq), changed)
            thing.remove(gone[thing.contains(gone)])
            for start in range(0, len(changed), _RECORDS):
                records = transaction.records(state.id, changed[start : start + _RECORDS].tolist())
                _add(thing, _documents(records.values()))
        if state.next_row == since.next_row:
            return thing
        texts = transaction.texts(state, since.next_row)
        many = state.next_row >= since.next_row + _RECORDS  # reading them takes about as long as making words of them
        with closing(prefetched(texts) if many else texts) as pieces:
            for rows, documents in pieces:
                thing.add(documents, rows)
        return thing


def _documents(records: Iterable[Stored]) -> Iterable[tuple[int, str | None]]:
    return ((record.row, record.document) for record in records)


def _add(index: SparseIndex, documents: Iterable[tuple[int, str | None]]) -> None:
    found = [(row, document) for row, document in documents if document is not None]
    index.add([document for _, document in found], np.array([row for row, _ in found], dtype=np.int64))
