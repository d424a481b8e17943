"""What can be read and changed inside one transaction of the catalog. All SQL about records and vectors is here."""

from __future__ import annotations

import functools
import json
import sqlite3
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from nearfield import _native, segments
from nearfield.beside import prefetched
from nearfield.catalog import Catalog, Generation, State, taken_message
from nearfield.errors import AlreadyExists, Corrupt, InvalidInput
from nearfield.types import FileRows

__all__ = ["MAX_ROWS", "SEAL_ROWS", "Generation", "NewRecords", "State", "Stored", "Transaction"]

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEAL_ROWS = 4096  # so many unsealed vectors become a segment
MAX_ROWS = 2**32  # rows are u32
_CHUNK = 1 << 24  # bytes of vectors handed on at once
_RECORD = "key & 4294967295, id, metadata, document, crc32, crc32_doc"
_WITHOUT_DOCUMENT = "key & 4294967295, id, metadata, NULL, crc32, 0"
_PIECE = 1 << 14  # records handed on at once, and
_CHARACTERS = 1 << 24  # of documents about so many
_FEW = 16  # records whose documents may be any length
_LINES = 128  # records that one statement stores; each has six parameters, and old SQLites allow 999
_MANY = 4096  # records whose lines are worth a thread, and
_MANY_LINES = 1024  # longer statements: it works while SQLite does
_PARAMETERS = 32_766  # that statements of new SQLites may have, unless they were built with another limit


class Stored(NamedTuple):
    """A row of the table `records`, metadata still as JSON."""

    row: int
    id: str
    metadata: str
    document: str | None


class Texts(Protocol):
    """Texts that are asked for in pieces, from the first to the last."""

    def __getitem__(self, piece: slice, /) -> Sequence[str]: ...


class NewRecords(NamedTuple):
    """Records that have no row yet, side by side; metadata as JSON."""

    ids: Sequence[str]
    documents: Sequence[str | None]
    metadatas: Texts


class Transaction(Catalog):
    """An open transaction: begun, and ended, by `Store.reading()` or `Store.writing()`."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def rows(self, collection: int, *, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """The rows of all records, ascending: from `start` to before `stop`."""
        found = self._sql.execute(
            "SELECT key & 4294967295 FROM records WHERE key >= ? AND key < ? ORDER BY key LIMIT ? OFFSET ?",
            (*_range(collection), -1 if stop is None else max(0, stop - start), start),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def rows_of(self, collection: int, ids: Iterable[str]) -> dict[str, int]:
        """The rows of those `ids` that exist.

        Raises:
            Corrupt: SQLite's index of ids and its table do not agree.
        """
        found = self._sql.execute(
            "SELECT listed.id, listed.key & 4294967295, records.id FROM records AS listed "
            "LEFT JOIN records ON records.key = listed.key "  # one is the index, the other the table
            "WHERE listed.collection = ? AND listed.id IN (SELECT value FROM json_each(?))",
            (collection, json.dumps(list(ids), ensure_ascii=False)),
        )
        rows = {}
        for id, row, stored in found:
            if id != stored:
                raise Corrupt(f"the catalog's index of ids is damaged at {id!r}; `nearfield repair` makes it again")
            rows[id] = row
        return rows

    def records(self, collection: int, rows: Iterable[int], *, documents: bool = True) -> dict[int, Stored]:
        """The records in `rows`, by row.

        Raises:
            Corrupt: naming a record whose bytes are not those that were written.
        """
        base = collection << 32
        found = self._sql.execute(
            f"SELECT {_RECORD if documents else _WITHOUT_DOCUMENT} FROM records "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps([base | int(row) for row in rows]),),
        )
        return {line[0]: verified(line) for line in found}

    def metadata(self, collection: int, first_row: int) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
        """Rows that have a record, from `first_row` on, ascending, and their metadata as JSON; in pieces."""
        found = self._sql.execute(
            f"SELECT {_WITHOUT_DOCUMENT} FROM records WHERE key >= ? AND key < ? ORDER BY key",
            (collection << 32 | first_row, (collection + 1) << 32),
        )
        while lines := found.fetchmany(_PIECE):
            if (bad := _native.first_damaged(lines)) is not None:
                verified(lines[bad])
            rows = np.fromiter((line[0] for line in lines), dtype=np.int64, count=len(lines))
            yield rows, [line[2] for line in lines]

    def documents(
        self, collection: int, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], list[str | None]]]:
        """The documents of `rows`, which ascend and have records; in pieces."""
        base = collection << 32
        for at in range(0, len(rows), _PIECE):
            piece = rows[at : at + _PIECE]
            span = (base | int(piece[0]), base | int(piece[-1]))
            if span[1] - span[0] < 4 * len(piece):  # most of them: read in sequence, and pass over some
                found = self._sql.execute(f"SELECT {_RECORD} FROM records WHERE key BETWEEN ? AND ? ORDER BY key", span)
                wanted = set(piece.tolist())
                yield piece, [verified(line).document for line in found if line[0] in wanted]
            else:
                found = self._sql.execute(
                    f"SELECT {_RECORD} FROM records WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key",
                    (json.dumps((piece + base).tolist()),),
                )
                yield piece, [verified(line).document for line in found]

    def texts(self, state: State, first_row: int) -> Generator[tuple[NDArray[np.int64], list[str]], None, None]:
        """Rows from `first_row` on that have a document, ascending, and their documents; in pieces.

        Raises:
            Corrupt: naming a record whose bytes are not those that were written.
        """
        found = self._sql.execute(
            "SELECT key & 4294967295, document, crc32_doc FROM records WHERE key >= ? AND key < ? ORDER BY key",
            (state.id << 32 | first_row, (state.id + 1) << 32),
        )
        rows: list[int] = []
        documents: list[str] = []
        size = 0
        while lines := found.fetchmany(_FEW):
            if (bad := _native.first_damaged_text(lines)) is not None:
                self.records(state.id, [lines[bad][0]])  # raises
            for row, document, _ in lines:
                if document is not None:
                    rows.append(row)
                    documents.append(document)
                    size += len(document)
            if size >= _CHARACTERS or len(rows) >= _PIECE:
                yield np.array(rows, dtype=np.int64), documents
                rows, documents, size = [], [], 0
        if rows:
            yield np.array(rows, dtype=np.int64), documents

    def dead_rows(self, collection: int, after: int) -> NDArray[np.int64]:
        """Rows that died after the change number `after`.

        Raises:
            Corrupt: all were asked for (`after` is 0), and they are not those that were written.
        """
        found = self._sql.execute("SELECT row FROM dead_rows WHERE collection = ? AND seq > ?", (collection, after))
        rows = np.fromiter((row for (row,) in found), dtype=np.int64)
        if after == 0 and (state := self.by_id(collection)) is not None and int(rows.sum()) != state.dead_sum:
            raise Corrupt(f"the list of dead rows of collection {state.name!r} is damaged; `nearfield repair` mends it")
        return rows

    def changed_rows(self, collection: int, after: int) -> NDArray[np.int64]:
        """Rows whose record was written anew in place after the change number `after`, and lives."""
        found = self._sql.execute(  # `changed > 0` lets SQLite use the index, which holds nothing else
            "SELECT key & 4294967295 FROM records WHERE collection = ? AND changed > 0 AND changed > ?",
            (collection, after),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def vectors(self, state: State, first_row: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All vectors from `first_row` on, dead rows too: (row of the first, (n, dimension) float32), in pieces.

        Raises:
            Corrupt: a file is missing, or its bytes are not those that were written.
        """
        if state.dimension is None:
            return
        step = max(1, _CHUNK // (4 * state.dimension))
        for segment in self.segments(state):
            end = segment.first_row + segment.rows
            if end <= first_row:
                continue
            vectors = segment.checked(state.dimension, self.checked)
            for at in range(max(first_row - segment.first_row, 0), segment.rows, step):
                yield segment.first_row + at, np.asarray(vectors[at : at + step], dtype=np.float32)
            segments.let_go(vectors)
            first_row = end
        found = self._sql.execute(
            "SELECT key & 4294967295, crc32, vector FROM unsealed WHERE key >= ? AND key < ? ORDER BY key",
            (state.id << 32 | first_row, (state.id + 1) << 32),
        )
        while lines := found.fetchmany(step):
            yield first_row, _unpacked(state, lines, range(first_row, first_row + len(lines)))
            first_row += len(lines)
        if first_row != state.next_row:
            raise Corrupt(f"collection {state.name!r} has {first_row} vectors for its {state.next_row} rows")

    def sealed(self, state: State, first_row: int = 0) -> Iterator[tuple[int, FileRows]]:
        """Where the sealed vectors from `first_row` on are, dead rows too: (row of the first, file), in order.

        Raises:
            Corrupt: as `vectors`.
        """
        for segment in self.segments(state):
            skipped = max(first_row - segment.first_row, 0)
            if skipped < segment.rows and state.dimension is not None:
                vectors = segment.checked(state.dimension, self.checked)
                start = vectors.offset + 4 * state.dimension * skipped
                segments.let_go(vectors)
                yield segment.first_row + skipped, FileRows(segment.path, start, segment.rows - skipped)

    def vectors_of(self, state: State, rows: Sequence[int]) -> NDArray[np.float32]:
        """The vectors of `rows`, in their order: shape (len(rows), dimension)."""
        wanted = np.asarray(rows, dtype=np.int64)
        vectors = np.empty((len(wanted), state.dimension or 0), dtype=np.float32)
        sealed = 0
        for segment in self.segments(state):
            sealed = segment.first_row + segment.rows
            here = np.flatnonzero((wanted >= segment.first_row) & (wanted < sealed))
            if len(here):
                vectors[here] = segment.checked(vectors.shape[1], self.checked)[wanted[here] - segment.first_row]
        for at in np.flatnonzero(wanted >= sealed):
            found = self._sql.execute(
                "SELECT key & 4294967295, crc32, vector FROM unsealed WHERE key = ?",
                (state.id << 32 | int(wanted[at]),),
            )
            vectors[at] = _unpacked(state, found.fetchall(), [int(wanted[at])])
        return vectors

    # -- changing ---------------------------------------------------------------------------------------------------

    def append(self, state: State, new: NewRecords, vectors: NDArray[np.float32]) -> None:
        """Store new records in new rows, with their vectors, (n, dimension) float32.

        Raises:
            AlreadyExists: naming ids that are taken.
        """
        first, count = self._next_row(state), len(new.ids)
        if first + count > MAX_ROWS:
            raise InvalidInput(
                f"collection {state.name!r} has used {first} of {MAX_ROWS} rows; {count} more do not fit in it"
            )
        sealed = sum(segment.rows for segment in self.segments(state))
        if self._root is not None and first + count - sealed >= SEAL_ROWS:
            self._seal(state, sealed, vectors, lambda: self.add_records(state, first, new))
        else:
            self.add_records(state, first, new)
            keys = range(state.id << 32 | first, (state.id << 32 | first) + count)
            blobs = [row.tobytes() for row in np.ascontiguousarray(vectors, dtype="<f4")]
            self._sql.executemany(
                "INSERT INTO unsealed (key, crc32, vector) VALUES (?, ?, ?)",
                zip(keys, map(zlib.crc32, blobs, range(first, first + count)), blobs, strict=True),
            )

    def bury(self, state: State, rows: Sequence[int]) -> None:
        """Remove the records in `rows`. Their vectors stay in place, and `dead_rows` says that they count no more."""
        base, count = state.id << 32, len(rows)
        seq = self._seq(state)
        self._sql.executemany("DELETE FROM records WHERE key = ?", [(base | int(row),) for row in rows])
        self._sql.executemany(
            "INSERT INTO dead_rows (collection, seq, row) VALUES (?, ?, ?)",
            [(state.id, seq + i, int(row)) for i, row in enumerate(rows, 1)],
        )
        self._sql.execute(
            "UPDATE collections SET seq = seq + ?, live = live - ?, dead_sum = dead_sum + ? WHERE id = ?",
            (count, count, sum(map(int, rows)), state.id),
        )
        self.settle(state.id)

    def rewrite(self, state: State, records: Iterable[Stored]) -> None:
        """Change documents and metadata in place; `changed_rows` tells others which."""
        seq = self._seq(state) + 1
        changed = self._sql.executemany(
            "UPDATE records SET changed = ?, crc32 = ?, crc32_doc = ?, metadata = ?, document = ? WHERE key = ?",
            [
                (
                    seq,
                    checksum(row, id, metadata),
                    document_checksum(row, document),
                    metadata,
                    document,
                    state.id << 32 | row,
                )
                for row, id, metadata, document in records
            ],
        )
        if changed.rowcount > 0:
            self._sql.execute("UPDATE collections SET seq = ? WHERE id = ?", (seq, state.id))
            self.settle(state.id)

    def _seal(self, state: State, sealed: int, vectors: NDArray[np.float32], beside: Callable[[], None]) -> None:
        """Write unsealed vectors and new ones as one segment, in place of their blobs. Do `beside` meanwhile."""
        folder = self.folder(state.name)
        tail = (state.id << 32 | sealed, (state.id + 1) << 32)
        blobs = self._sql.execute(
            "SELECT key & 4294967295, crc32, vector FROM unsealed WHERE key >= ? AND key < ? ORDER BY key", tail
        ).fetchall()
        before = _unpacked(state, blobs, range(sealed, sealed + len(blobs)))
        writing = segments.Beside(folder, [before, vectors])
        try:
            beside()
            self.add_segment(state, writing.file(), sealed)
        except BaseException:
            writing.abandon()
            raise
        self._sql.execute("DELETE FROM unsealed WHERE key >= ? AND key < ?", tail)

    def emptied(self, collection: int, count: int) -> bool:
        """Remove about `count` of what a hidden entry has, at last the entry; False when it is gone."""
        for table in ("records", "unsealed"):
            removed = self._sql.execute(
                f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE key >= ? AND key < ? LIMIT ?)",
                (*_range(collection), count),
            )
            if removed.rowcount:
                return True
        for table in ("segments", "dead_rows", "generations"):
            self._sql.execute(f"DELETE FROM {table} WHERE collection = ?", (collection,))
        self._sql.execute("DELETE FROM collections WHERE id = ?", (collection,))
        return False

    def piece(self, state: State, first_row: int, count: int, size: int) -> list[Stored]:
        """The next living records from `first_row` on: at most `count`, and none after the first `size` characters."""
        found = self._sql.execute(
            f"SELECT {_RECORD} FROM records WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
            (state.id << 32 | first_row, (state.id + 1) << 32, count),
        )
        records: list[Stored] = []
        while size >= 0 and (lines := found.fetchmany(_FEW)):
            if (bad := _native.first_damaged(lines)) is not None:
                verified(lines[bad])
            for row, id, metadata, document, _, _ in lines:
                size -= len(document or "") + len(metadata)
                records.append(Stored(row, id, metadata, document))
                if size < 0:
                    break
        return records

    def add_records(self, state: State, first: int, new: NewRecords) -> None:
        """Store records in the rows from `first` on, which are the next, without their vectors.

        Raises:
            AlreadyExists: as `append`.
        """
        count, key = len(new.ids), state.id << 32 | first
        allowed = min(_PARAMETERS, self._sql.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER))
        many = count >= _MANY and allowed >= 6 * _MANY_LINES
        step = _MANY_LINES if many else _LINES
        pieces = (
            _native.record_lines(key + at, new.ids[at:end], new.metadatas[at:end], new.documents[at:end])
            for at, end in zip(range(0, count, step), range(step, count + step, step), strict=True)
        )
        try:  # many records a statement, or most of the time goes into starting it
            with closing(prefetched(pieces) if many else pieces) as lines:
                for values in lines:
                    self._sql.execute(_insert(state.id, len(values) // 6), values)
        except sqlite3.IntegrityError:
            rows = self.rows_of(state.id, new.ids)
            taken = [id for id in new.ids if rows.get(id, first) < first]
            if not taken:
                raise Corrupt(f"collection {state.name!r} has records in rows that it has not given yet") from None
            raise AlreadyExists(taken_message(state.name, taken)) from None
        self._sql.execute(
            "UPDATE collections SET next_row = next_row + ?, live = live + ? WHERE id = ?", (count, count, state.id)
        )
        self.settle(state.id)

    def _next_row(self, state: State) -> int:
        return int(self._sql.execute("SELECT next_row FROM collections WHERE id = ?", (state.id,)).fetchone()[0])

    def _seq(self, state: State) -> int:
        return int(self._sql.execute("SELECT seq FROM collections WHERE id = ?", (state.id,)).fetchone()[0])

    # -- for verify and repair ----------------------------------------------------------------------------------------

    def listed_dead(self, state: State) -> NDArray[np.int64]:
        """The list of dead rows as it stands there."""
        found = self._sql.execute("SELECT row FROM dead_rows WHERE collection = ?", (state.id,))
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def lines(self, state: State) -> Iterator[tuple[int, str, str, str | None, int, int]]:
        """All records as they stand there, for `verified`: row, id, metadata, document, and the checksums."""
        yield from self._sql.execute(
            f"SELECT {_RECORD} FROM records WHERE key >= ? AND key < ? ORDER BY key", _range(state.id)
        )

    def counted(self, state: State) -> State:
        """The state with its counts counted again."""
        keys = _range(state.id)
        one = "SELECT coalesce(max({}), {}) FROM {} WHERE {}"
        here, mine = "key >= ? AND key < ?", "collection = ?"
        ends = [
            self._sql.execute(one.format("key & 4294967295", -1, table, here), keys).fetchone()[0] + 1
            for table in ("records", "unsealed")
        ]
        ends.append(self._sql.execute(one.format("first_row + rows", 0, "segments", mine), (state.id,)).fetchone()[0])
        seqs = [
            self._sql.execute(one.format(column, 0, table, mine), (state.id,)).fetchone()[0]
            for table, column in (("records", "changed"), ("dead_rows", "seq"))
        ]
        live = self._sql.execute(f"SELECT count(*) FROM records WHERE {here}", keys).fetchone()[0]
        dead = self._sql.execute(f"SELECT coalesce(sum(row), 0) FROM dead_rows WHERE {mine}", (state.id,)).fetchone()[0]
        return state._replace(next_row=max(ends), live=live, seq=max(state.seq, *seqs), dead_sum=dead)

    def damaged_unsealed(self, state: State, sealed: int) -> list[int]:
        """Rows from `sealed` on whose vector is not there as it was written."""
        good = set()
        for row, crc, vector in self._sql.execute(
            "SELECT key & 4294967295, crc32, vector FROM unsealed WHERE key >= ? AND key < ?", _range(state.id)
        ):
            if (
                isinstance(vector, bytes)
                and len(vector) == 4 * (state.dimension or 0)
                and crc == zlib.crc32(vector, row)
            ):
                good.add(row)
        return [row for row in range(sealed, self.counted(state).next_row) if row not in good]

    def set_dead(self, counted: State, rows: list[int]) -> None:
        """Write the list of dead rows anew, as changes after all that others may have seen."""
        self._sql.execute("DELETE FROM dead_rows WHERE collection = ?", (counted.id,))
        self._sql.executemany(
            "INSERT INTO dead_rows (collection, seq, row) VALUES (?, ?, ?)",
            [(counted.id, counted.seq + i, row) for i, row in enumerate(rows, 1)],
        )
        self.set_counts(counted._replace(seq=counted.seq + len(rows), dead_sum=sum(rows)))


def verified(line: tuple[int, str, str, str | None, int, int]) -> Stored:
    """A record from a line of the catalog.

    Raises:
        Corrupt: it is not what was written.
    """
    row, id, metadata, document, crc, document_crc = line
    try:
        good = crc == checksum(row, id, metadata) and document_crc == document_checksum(row, document)
    except (TypeError, ValueError, AttributeError):  # of another type than what was stored
        good = False
    if not good:
        raise Corrupt(f"the record {id!r} is damaged: its checksum is wrong; restore it from a backup")
    return Stored(row, id, metadata, document)


def checksum(row: int, id: str, metadata: str) -> int:
    """The CRC-32 that is kept with a record."""
    return zlib.crc32(f"{row}\0{id}\0{metadata}".encode())


def document_checksum(row: int, document: str | None) -> int:
    """The CRC-32 that is kept with a document."""
    return 0 if document is None else zlib.crc32(document.encode(), row)


def _unpacked(state: State, lines: list[tuple[int, int, bytes]], rows: Sequence[int]) -> NDArray[np.float32]:
    """Vectors from lines (row, CRC-32, blob) of `unsealed`, which must be these rows, each as it was written."""
    size = 4 * (state.dimension or 0)
    for row, (found, crc, blob) in zip(rows, lines, strict=False):
        if row != found or len(blob) != size or crc != zlib.crc32(blob, row):
            raise Corrupt(f"collection {state.name!r}: the vector of row {row} is damaged; restore it from a backup")
    if len(rows) != len(lines):
        raise Corrupt(f"collection {state.name!r}: vectors are missing; restore it from a backup")
    return np.frombuffer(b"".join(blob for _, _, blob in lines), dtype="<f4").reshape(len(lines), size // 4)


@functools.lru_cache(8)
def _insert(collection: int, records: int) -> str:
    line = f"(?, {collection}, ?, ?, ?, ?, ?)"
    return "INSERT INTO records (key, collection, id, crc32, crc32_doc, metadata, document) VALUES " + ", ".join(
        [line] * records
    )


def _range(collection: int) -> tuple[int, int]:
    return collection << 32, (collection + 1) << 32
