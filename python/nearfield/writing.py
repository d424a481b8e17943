"""Writing records: checked as a whole, embedded, and stored in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import compaction, filters, inputs
from nearfield.catalog import mismatch_message, taken_message
from nearfield.columns import LiveColumns
from nearfield.derived import Derived, ahead
from nearfield.encoding import Encoder
from nearfield.errors import AlreadyExists, EmbedderMismatch, InvalidInput
from nearfield.live import Version
from nearfield.reading import Reader, existing
from nearfield.store import Store
from nearfield.transaction import NewRecords, State, Stored, Transaction
from nearfield.types import Where

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Writer:
    """Changes to one collection."""

    def __init__(self, store: Store, derived: Derived, reader: Reader, encoder: Encoder, state: State) -> None:
        self._store = store
        self._derived = derived
        self._reader = reader
        self._encoder = encoder
        self._origin = state.origin
        self._name = state.name

    def put(self, documents: Any, ids: Any, embeddings: Any, metadatas: Any, *, replace: bool) -> list[str]:
        """`Collection.add`, or with `replace` `Collection.upsert`."""
        if documents is None and embeddings is None:
            raise InvalidInput("give documents, embeddings, or both")
        texts = None if documents is None else inputs.documents(documents)
        names = None if ids is None else inputs.ids(ids)
        fields = None if metadatas is None else inputs.Metadatas(metadatas)
        state = self._current()
        vectors = None if embeddings is None else inputs.vectors(embeddings, state.dimension)
        count = inputs.same_length(documents=texts, ids=names, embeddings=vectors, metadatas=fields)
        json_fields = ["{}"] * count if fields is None else fields.made
        if count == 0:
            return []
        identity = None
        if vectors is None:
            assert texts is not None
            said = inputs.texts(texts, "documents")
            _ = fields and fields[:count]  # what is wrong with them is said before the embedding is paid for
            if names is not None and not replace:
                with self._store.reading() as transaction:  # before the embedding is paid for
                    state = transaction.state(self._origin, self._name)
                    if taken := transaction.rows_of(state.id, names):
                        raise AlreadyExists(taken_message(self._name, [name for name in names if name in taken]))
            vectors, identity = self._encoder.documents(state, said)
        names = inputs.new_ids(count) if names is None else names
        with self._store.writing() as transaction:
            state = self._settled(transaction, vectors, identity)
            if replace and (old := transaction.rows_of(state.id, names)):
                transaction.bury(state, list(old.values()))
            new = NewRecords(names, texts or [None] * count, json_fields if fields is None else fields)
            transaction.append(state, new, vectors)  # metadata becomes JSON beside it
            state = transaction.state(self._origin, self._name)
        self._derived.written(state, texts, json_fields)
        compaction.compact_if_due(self._store, state, ahead(self._store))
        return names

    def update(self, ids: Any, documents: Any, embeddings: Any, metadatas: Any) -> None:
        """`Collection.update`."""
        names = inputs.ids(ids)
        texts = None if documents is None else inputs.documents(documents)
        fields = None if metadatas is None else inputs.metadatas(metadatas)
        state = self._current()
        vectors = None if embeddings is None else inputs.vectors(embeddings, state.dimension)
        if texts is None and fields is None and vectors is None:
            raise InvalidInput("update() was given nothing to change: give documents, embeddings or metadatas")
        inputs.same_length(ids=names, documents=texts, embeddings=vectors, metadatas=fields)
        moved = list(range(len(names))) if vectors is not None else []
        identity = None
        with self._store.reading() as transaction:
            existing(transaction, transaction.state(self._origin, self._name), names)  # before anything is paid for
        if texts is not None and vectors is None and state.embedder is not None:
            moved = [at for at, text in enumerate(texts) if text is not None]
            vectors, identity = self._encoder.documents(state, inputs.texts([texts[at] for at in moved], "documents"))
        with self._store.writing() as transaction:
            state = transaction.state(self._origin, self._name)
            rows = existing(transaction, state, names)
            if moved and vectors is not None:
                state = self._settled(transaction, vectors, identity)
            old = transaction.records(state.id, rows)
            new = [
                Stored(
                    row,
                    name,
                    old[row].metadata if fields is None or (field := fields[at]) is None else field,
                    old[row].document if texts is None or (text := texts[at]) is None else text,
                )
                for at, (name, row) in enumerate(zip(names, rows, strict=True))
            ]
            skip = set(moved)
            transaction.rewrite(state, [record for at, record in enumerate(new) if at not in skip])
            if moved and vectors is not None:  # a new vector is a new row
                transaction.bury(state, [rows[at] for at in moved])
                _, ids_, metadatas_, documents_ = zip(*(new[at] for at in moved), strict=True)
                transaction.append(state, NewRecords(ids_, documents_, metadatas_), vectors)
            state = transaction.state(self._origin, self._name)
        compaction.compact_if_due(self._store, state, ahead(self._store))

    def delete(self, ids: Any, where: Where | None, where_document: Where | None) -> int:
        """`Collection.delete`."""
        if ids is None and where is None and where_document is None:
            raise InvalidInput("delete() needs ids or a filter; Database.drop(name) removes a whole collection")
        filter = filters.parse(where, where_document)
        if ids is None and filter is None:
            raise InvalidInput(f"where={where!r} matches every record; Database.drop(name) removes a whole collection")
        names = None if ids is None else inputs.ids(ids, unique=False)
        for last in (False, False, False, True):
            found = None if filter is None or last else self._reader.matching(filter, names)
            with self._store.writing() as transaction:
                state = transaction.state(self._origin, self._name)
                if filter is None:
                    rows = list(transaction.rows_of(state.id, names or ()).values())
                elif found is not None and found[0] == Version.of(state):
                    rows = found[1]
                elif last:  # others write all the time: nobody can now
                    rows = self._reader.matching_now(transaction, state, filter, names, LiveColumns(self._store))
                else:
                    continue
                if rows:
                    transaction.bury(state, rows)
                    state = transaction.state(self._origin, self._name)
                break
        compaction.compact_if_due(self._store, state, ahead(self._store))
        return len(rows)

    def adopt(self, identity: str) -> None:
        """`Collection.adopt`."""
        with self._store.writing() as transaction:
            state = transaction.state(self._origin, self._name)
            if state.embedder == identity:
                return
            if state.embedder is not None:
                raise EmbedderMismatch(mismatch_message(state, identity))
            if state.next_row:
                raise InvalidInput(
                    f"collection {self._name!r} has vectors already, and nobody knows what made them; add those of "
                    f"{identity!r} to a new collection"
                )
            transaction.settle(state.id, embedder=identity)

    def _settled(self, transaction: Transaction, vectors: NDArray[np.float32], identity: str | None) -> State:
        """The state, in which dimension and embedder agree with these vectors: the first ones decide."""
        state = transaction.state(self._origin, self._name)
        dimension = vectors.shape[1]
        if state.dimension not in (None, dimension):
            who = f"the embedder {identity!r} makes vectors of" if identity else "embeddings have"
            raise InvalidInput(f"{who} {dimension} dimensions, collection {self._name!r} has {state.dimension}")
        if identity is not None and state.embedder not in (None, identity):
            raise EmbedderMismatch(mismatch_message(state, identity))
        if state.dimension is None or (identity is not None and state.embedder is None):
            state = transaction.settle(state.id, dimension=dimension, embedder=identity or state.embedder)
        return state

    def _current(self) -> State:
        with self._store.reading() as transaction:
            return transaction.state(self._origin, self._name)
