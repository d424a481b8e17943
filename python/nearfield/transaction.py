"""What can be read and changed inside one transaction of the catalog. All SQL about records and vectors is here."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield import segments
from nearfield.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from nearfield.segments import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEAL_ROWS = 4096  # so many unsealed vectors become a segment
MAX_ROWS = 2**32  # rows are u32
_CHUNK = 1 << 24  # bytes of vectors handed on at once


class State(NamedTuple):
    """A row of the table `collections`, as this transaction sees it."""

    id: int
    name: str
    metric: str
    dimension: int | None
    embedder: str | None
    next_row: int
    live: int
    seq: int


class Stored(NamedTuple):
    """A row of the table `records`, metadata still as JSON."""

    row: int
    id: str
    metadata: str
    document: str | None


class Transaction:
    """An open transaction: begun, and ended, by `Store.reading()` or `Store.writing()`."""

    def __init__(self, connection: sqlite3.Connection, root: Path | None) -> None:
        self._sql = connection
        self._root = root
        self.fresh: list[Path] = []  # segments written by this transaction: to be removed if it fails

    # -- collections ------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return [name for (name,) in self._sql.execute("SELECT name FROM collections ORDER BY name")]

    def find(self, name: str) -> State | None:
        """The collection of this name. Names that differ only in case are the same one (they share a folder)."""
        found = self._sql.execute(
            f"SELECT {', '.join(State._fields)} FROM collections WHERE name = ?", (name,)
        ).fetchone()
        return State(*found) if found else None

    def state(self, collection: int, name: str) -> State:
        found = self._sql.execute(
            f"SELECT {', '.join(State._fields)} FROM collections WHERE id = ?", (collection,)
        ).fetchone()
        if found is None:
            raise NotFound(f"the collection {name!r} was dropped; make it anew with db.collection({name!r})")
        return State(*found)

    def create(self, name: str, metric: str, dimension: int | None, embedder: str | None) -> State:
        self._sql.execute(
            "INSERT INTO collections (name, metric, dimension, embedder) VALUES (?, ?, ?, ?)",
            (name, metric, dimension, embedder),
        )
        created = self.find(name)
        assert created is not None
        return created

    def settle(self, collection: int, dimension: int | None, embedder: str | None) -> None:
        """Write down what the first vectors decide."""
        self._sql.execute(
            "UPDATE collections SET dimension = ?, embedder = ? WHERE id = ?", (dimension, embedder, collection)
        )

    def drop(self, collection: int) -> None:
        """Remove a collection. Its segments become orphans: the caller removes them once this is committed."""
        for table in ("records", "unsealed"):
            self._sql.execute(f"DELETE FROM {table} WHERE key >= ? AND key < ?", _range(collection))
        for table in ("segments", "dead_rows"):
            self._sql.execute(f"DELETE FROM {table} WHERE collection = ?", (collection,))
        self._sql.execute("DELETE FROM collections WHERE id = ?", (collection,))

    # -- reading ----------------------------------------------------------------------------------------------------

    def rows(
        self,
        collection: int,
        condition: tuple[str, list[Any]] | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> NDArray[np.int64]:
        """The rows of all records, or of those that meet an SQL condition, ascending: from `start` to before `stop`."""
        sql, parameters = condition or ("1", [])
        found = self._sql.execute(
            f"SELECT key & 4294967295 FROM records WHERE key >= ? AND key < ? AND {sql} ORDER BY key LIMIT ? OFFSET ?",
            (*_range(collection), *parameters, -1 if stop is None else max(0, stop - start), start),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def rows_of(self, collection: int, ids: Iterable[str]) -> dict[str, int]:
        """The rows of those `ids` that exist."""
        found = self._sql.execute(
            "SELECT id, key & 4294967295 FROM records WHERE collection = ? AND id IN (SELECT value FROM json_each(?))",
            (collection, json.dumps(list(ids), ensure_ascii=False)),
        )
        return dict(found.fetchall())

    def records(self, collection: int, rows: Iterable[int], *, documents: bool = True) -> dict[int, Stored]:
        """The records in `rows`, by row."""
        base = collection << 32
        found = self._sql.execute(
            f"SELECT key & 4294967295, id, metadata, {'document' if documents else 'NULL'} FROM records "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps([base | int(row) for row in rows]),),
        )
        return {record[0]: Stored(*record) for record in found}

    def dead_rows(self, collection: int, after: int) -> NDArray[np.int64]:
        """Rows that died after the change number `after`."""
        found = self._sql.execute("SELECT row FROM dead_rows WHERE collection = ? AND seq > ?", (collection, after))
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def changed_rows(self, collection: int, after: int) -> NDArray[np.int64]:
        """Rows whose record was written anew in place after the change number `after`, and lives."""
        found = self._sql.execute(  # `changed > 0` lets SQLite use the index, which holds nothing else
            "SELECT key & 4294967295 FROM records WHERE collection = ? AND changed > 0 AND changed > ?",
            (collection, after),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def segments(self, state: State) -> list[Segment]:
        if self._root is None:
            return []
        folder = self._folder(state.name)
        found = self._sql.execute(
            "SELECT number, first_row, rows, dtype, crc32 FROM segments WHERE collection = ? ORDER BY first_row",
            (state.id,),
        )
        return [Segment(folder / segments.file_name(number), *rest) for number, *rest in found]

    def segment_files(self) -> list[Path]:
        """The files of all segments of all collections."""
        found = self._sql.execute(
            "SELECT name, number FROM segments JOIN collections ON collections.id = segments.collection"
        )
        return [self._folder(name) / segments.file_name(number) for name, number in found]

    def vectors(self, state: State, first_row: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All vectors from `first_row` on, dead rows too: (row of the first, (n, dimension) float32), in pieces.

        Raises:
            Corrupt: a file is missing, or its bytes are not those that were written (checked when it is read whole).
        """
        if state.dimension is None:
            return
        step = max(1, _CHUNK // (4 * state.dimension))
        for segment in self.segments(state):
            end = segment.first_row + segment.rows
            if end <= first_row:
                continue
            vectors = segment.open(state.dimension)
            start, crc = max(first_row - segment.first_row, 0), 0
            for at in range(start, segment.rows, step):
                piece = vectors[at : at + step]
                crc = zlib.crc32(piece.data, crc)
                yield segment.first_row + at, np.asarray(piece, dtype=np.float32)
            if start == 0 and crc != segment.crc32:
                raise Corrupt(f"the bytes of {segment.path} are not those that were written; restore it from a backup")
            first_row = end
        found = self._sql.execute(
            "SELECT vector FROM unsealed WHERE key >= ? AND key < ? ORDER BY key",
            (state.id << 32 | first_row, (state.id + 1) << 32),
        )
        while blobs := found.fetchmany(step):
            piece = np.frombuffer(b"".join(blob for (blob,) in blobs), dtype="<f4").reshape(len(blobs), state.dimension)
            yield first_row, piece
            first_row += len(blobs)
        if first_row < state.next_row:
            raise Corrupt(f"collection {state.name!r}: vectors of rows {first_row} to {state.next_row - 1} are missing")

    def vectors_of(self, state: State, rows: Sequence[int]) -> NDArray[np.float32]:
        """The vectors of `rows`, in their order: shape (len(rows), dimension)."""
        wanted = np.asarray(rows, dtype=np.int64)
        vectors = np.empty((len(wanted), state.dimension or 0), dtype=np.float32)
        sealed = 0
        for segment in self.segments(state):
            sealed = segment.first_row + segment.rows
            here = np.flatnonzero((wanted >= segment.first_row) & (wanted < sealed))
            if len(here):
                vectors[here] = segment.open(vectors.shape[1])[wanted[here] - segment.first_row]
        for at in np.flatnonzero(wanted >= sealed):
            (blob,) = self._sql.execute(
                "SELECT vector FROM unsealed WHERE key = ?", (state.id << 32 | int(wanted[at]),)
            ).fetchone()
            vectors[at] = np.frombuffer(blob, dtype="<f4")
        return vectors

    # -- changing ---------------------------------------------------------------------------------------------------

    def append(
        self,
        state: State,
        ids: Sequence[str],
        documents: Sequence[str | None],
        metadatas: Sequence[str],
        vectors: NDArray[np.float32],
    ) -> None:
        """Store new records in new rows. `metadatas` are JSON; `vectors` is (n, dimension) float32.

        Raises:
            AlreadyExists: naming ids that are taken.
        """
        first, count = self.state(state.id, state.name).next_row, len(ids)
        if first + count > MAX_ROWS:
            raise InvalidInput(
                f"collection {state.name!r} has used {first} of {MAX_ROWS} rows; {count} more do not fit in it"
            )
        keys = range(state.id << 32 | first, (state.id << 32 | first) + count)
        try:
            self._sql.executemany(
                "INSERT INTO records (key, collection, id, metadata, document) VALUES (?, ?, ?, ?, ?)",
                zip(keys, [state.id] * count, ids, metadatas, documents, strict=True),
            )
        except sqlite3.IntegrityError:
            rows = self.rows_of(state.id, ids)
            taken = [id for id in ids if rows.get(id, first) < first]
            raise AlreadyExists(taken_message(state.name, taken)) from None
        self._sql.execute(
            "UPDATE collections SET next_row = next_row + ?, live = live + ? WHERE id = ?", (count, count, state.id)
        )
        sealed = sum(segment.rows for segment in self.segments(state))
        if self._root is not None and first + count - sealed >= SEAL_ROWS:
            self._seal(state, sealed, vectors)
        else:
            blobs = (row.tobytes() for row in np.ascontiguousarray(vectors, dtype="<f4"))
            self._sql.executemany("INSERT INTO unsealed (key, vector) VALUES (?, ?)", zip(keys, blobs, strict=True))

    def bury(self, state: State, rows: Sequence[int]) -> None:
        """Remove the records in `rows`. Their vectors stay in place, and `dead_rows` says that they count no more."""
        base, count = state.id << 32, len(rows)
        seq = self.state(state.id, state.name).seq
        self._sql.executemany("DELETE FROM records WHERE key = ?", [(base | int(row),) for row in rows])
        self._sql.executemany(
            "INSERT INTO dead_rows (collection, seq, row) VALUES (?, ?, ?)",
            [(state.id, seq + i, int(row)) for i, row in enumerate(rows, 1)],
        )
        self._sql.execute(
            "UPDATE collections SET seq = seq + ?, live = live - ? WHERE id = ?", (count, count, state.id)
        )

    def rewrite(self, state: State, records: Iterable[Stored]) -> None:
        """Change documents and metadata in place; `changed_rows` tells others which."""
        seq = self.state(state.id, state.name).seq + 1
        changed = self._sql.executemany(
            "UPDATE records SET metadata = ?, document = ?, changed = ? WHERE key = ?",
            [(record.metadata, record.document, seq, state.id << 32 | record.row) for record in records],
        )
        if changed.rowcount > 0:
            self._sql.execute("UPDATE collections SET seq = ? WHERE id = ?", (seq, state.id))

    def _seal(self, state: State, sealed: int, vectors: NDArray[np.float32]) -> None:
        """Write the unsealed vectors and the new ones as one segment, in place of their blobs."""
        folder, dimension = self._folder(state.name), vectors.shape[1]
        tail = (state.id << 32 | sealed, (state.id + 1) << 32)
        blobs = self._sql.execute(
            "SELECT vector FROM unsealed WHERE key >= ? AND key < ? ORDER BY key", tail
        ).fetchall()
        before = np.frombuffer(b"".join(blob for (blob,) in blobs), dtype="<f4").reshape(len(blobs), dimension)
        (last,) = self._sql.execute(
            "SELECT coalesce(max(number), 0) FROM segments WHERE collection = ?", (state.id,)
        ).fetchone()
        number = segments.next_number(folder, last)
        path, crc = segments.write(folder, number, [before, vectors])
        self.fresh.append(path)
        self._sql.execute(
            "INSERT INTO segments (collection, number, first_row, rows, dtype, crc32) VALUES (?, ?, ?, ?, '<f4', ?)",
            (state.id, number, sealed, len(blobs) + len(vectors), crc),
        )
        self._sql.execute("DELETE FROM unsealed WHERE key >= ? AND key < ?", tail)

    def _folder(self, name: str) -> Path:
        assert self._root is not None
        return self._root / segments.VECTORS / name


def taken_message(collection: str, taken: Sequence[str]) -> str:
    """What `AlreadyExists` says about ids."""
    more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
    return (
        f"collection {collection!r} has records with the ids {', '.join(map(repr, taken[:3]))}{more}: nothing was "
        "added; upsert() replaces records, update() changes parts of them"
    )


def mismatch_message(state: State, identity: str) -> str:
    """What `EmbedderMismatch` says."""
    return (
        f"collection {state.name!r} was filled by the embedder {state.embedder!r}, not by {identity!r}; their vectors "
        "cannot be compared. Open it with the embedder that filled it; or make a new collection and add the documents "
        "again; or open it with embedder=None, to read it and to search with vectors"
    )


def _range(collection: int) -> tuple[int, int]:
    return collection << 32, (collection + 1) << 32
