"""What the catalog says of collections, their files and their indexes, inside one transaction."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nearfield import segments
from nearfield.errors import Corrupt, NotFound, shown
from nearfield.schema import LANGUAGES
from nearfield.segments import Segment, SegmentFile

ENGLISH = "english"  # the language of the words of a collection, where none was chosen
HIDDEN = "~"  # in the name of an entry that is no collection, after the name of its folders


class State(NamedTuple):
    """A row of the table `collections`, as this transaction sees it.

    `id` numbers the space of its rows: keys are `id << 32 | row`. Compaction moves a collection into a new space, with
    a new id and new rows, so whoever keeps rows compares the id too. `origin` stays: handles know a collection by it.
    """

    id: int
    origin: int | None
    name: str
    metric: str
    dimension: int | None
    embedder: str | None
    next_row: int
    live: int
    seq: int
    dead_sum: int
    crc32: int

    def checksum(self) -> int:
        return zlib.crc32("\0".join("" if fact is None else str(fact) for fact in self[:-1]).encode())


class Generation(NamedTuple):
    """A published derived index: its file, and the rows and changes that are in it."""

    path: Path
    next_row: int
    seq: int


class Catalog:
    """The part of a transaction that knows collections, not records."""

    def __init__(
        self, connection: sqlite3.Connection, root: Path | None, known: set[tuple[Path, int]] | None = None
    ) -> None:
        self._sql = connection
        self._root = root
        self.checked = set() if known is None else known  # segments that were read through, and are good
        self.fresh: list[Path] = []  # segments written by this transaction: to be removed if it fails

    def names(self) -> list[str]:
        found = self._sql.execute("SELECT name FROM collections WHERE origin IS NOT NULL ORDER BY name")
        return [name for (name,) in found]

    def known(self, name: str) -> State:
        """The collection of this name, which must exist."""
        state = self.find(name) if isinstance(name, str) else None
        if state is None or state.name != name:
            there = ", ".join(map(repr, self.names())) or "none"
            raise NotFound(f"there is no collection {name!r}; there are: {there}")
        return state

    def find(self, name: str) -> State | None:
        """The collection of this name. Names that differ only in case are the same one (they share a folder)."""
        return self._state("name = ?", name)

    def state(self, origin: int | None, name: str) -> State:
        """The collection that a handle was made for, whatever its rows and its name have become."""
        if (found := self._state("origin = ?", origin)) is None:
            raise NotFound(f"the collection {name!r} was dropped; make it anew with db.collection({name!r})")
        return found

    def by_id(self, collection: int) -> State | None:
        """The collection whose rows are in this space."""
        return self._state("id = ?", collection)

    def create(self, name: str, metric: str, dimension: int | None, embedder: str | None) -> State:
        made = self._sql.execute(
            "INSERT INTO collections (name, metric, dimension, embedder) VALUES (?, ?, ?, ?)",
            (name, metric, dimension, embedder),
        )
        assert made.lastrowid is not None
        return self.settle(made.lastrowid, origin=made.lastrowid)

    def language(self, state: State) -> str:
        """The language of the words of a collection; "none" where words are taken as they are."""
        if not self._has_languages():
            return ENGLISH
        source = self.find(state.name.partition(HIDDEN)[0]) if state.origin is None else state  # of a copy
        origin = None if source is None else source.origin
        found = self._sql.execute("SELECT language FROM languages WHERE origin = ?", (origin,)).fetchone()
        return ENGLISH if found is None else found[0]

    def set_language(self, state: State, language: str) -> None:
        """Write it down; English goes without saying."""
        if language != ENGLISH and not self._has_languages():
            self._sql.execute(LANGUAGES)
        if language != ENGLISH:
            self._sql.execute("INSERT OR REPLACE INTO languages VALUES (?, ?)", (state.origin, language))
        elif self._has_languages():
            self._sql.execute("DELETE FROM languages WHERE origin = ?", (state.origin,))

    def _has_languages(self) -> bool:
        found = self._sql.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'languages'")
        return found.fetchone() is not None

    def settle(self, collection: int, **facts: int | str | None) -> State:
        """Write down facts about a collection, origin, name, dimension or embedder, and the checksum of its entry."""
        for column, value in facts.items():
            self._sql.execute(f"UPDATE collections SET {column} = ? WHERE id = ?", (value, collection))
        state = self._state("id = ?", collection, checked=False)
        assert state is not None
        state = state._replace(crc32=state.checksum())
        self._sql.execute("UPDATE collections SET crc32 = ? WHERE id = ?", (state.crc32, collection))
        return state

    def _state(self, condition: str, value: int | str | None, *, checked: bool = True) -> State | None:
        columns = ", ".join(State._fields)
        found = self._sql.execute(f"SELECT {columns} FROM collections WHERE {condition}", (value,)).fetchone()
        if found is None:
            return None
        state = State(*found)
        if checked and state.crc32 != state.checksum():
            raise Corrupt(f"the catalog's entry of collection {state.name!r} is damaged; restore it from a backup")
        return state

    def drop(self, state: State) -> None:
        """Make a collection an entry that is none; `emptied` does the rest."""
        self.settle(state.id, origin=None, name=f"{state.name}{HIDDEN}{state.id}")

    # -- files ------------------------------------------------------------------------------------------------------

    def segments(self, state: State) -> list[Segment]:
        if self._root is None:
            return []
        folder = self.folder(state.name)
        found = self._sql.execute(
            "SELECT number, first_row, rows, dtype, crc32 FROM segments WHERE collection = ? ORDER BY first_row",
            (state.id,),
        )
        listed = [Segment(folder / segments.file_name(number), *rest) for number, *rest in found]
        row = 0
        for segment in listed:
            if segment.first_row != row:
                raise Corrupt(f"collection {state.name!r}: no segment has row {row} first; restore it from a backup")
            row += segment.rows
        return listed

    def files(self) -> list[Path]:
        """The files of all segments and index generations of all collections."""
        found = self._sql.execute(
            "SELECT name, NULL, number FROM segments JOIN collections ON collections.id = segments.collection "
            "UNION ALL "
            "SELECT name, kind, number FROM generations JOIN collections ON collections.id = generations.collection"
        )
        return [
            self.folder(name) / segments.file_name(number)
            if kind is None
            else self.index_folder(name) / segments.index_name(kind, number)
            for name, kind, number in found
        ]

    def files_of(self, state: State) -> list[Path]:
        """The files of one collection's segments and index generations."""
        indexes = [
            self.index_folder(state.name) / segments.index_name(kind, number)
            for kind, number, *_ in self.generations(state)
        ]
        return [segment.path for segment in self.segments(state)] + indexes

    def copy_to(self, other: sqlite3.Connection) -> None:
        """Copy the catalog as this transaction sees it."""
        self.ids()  # SQLite takes its view at the first look; it is to be one view for the catalog and for the files
        self._sql.backup(other)

    def add_segment(self, state: State, file: SegmentFile, first_row: int) -> None:
        """Register a finished segment."""
        self.fresh.append(file.path)
        self.checked.add((file.path, file.crc32))
        self._sql.execute(
            "INSERT INTO segments (collection, number, first_row, rows, dtype, crc32) VALUES (?, ?, ?, ?, '<f4', ?)",
            (state.id, file.number, first_row, file.rows, file.crc32),
        )

    # -- entries that are no collection: what was dropped, and copies that are not finished ---------------------------

    def hidden(self) -> list[int]:
        return [id for (id,) in self._sql.execute("SELECT id FROM collections WHERE origin IS NULL")]

    def create_hidden(self, state: State) -> State:
        """An entry for a copy of a collection: its files stand beside the collection's."""
        (last,) = self._sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'collections'").fetchone()
        name = f"{state.name}{HIDDEN}{last + 1}"
        made = self.create(name, state.metric, state.dimension, state.embedder)
        return self.settle(made.id, origin=None)

    def take_over(self, state: State, copy: State) -> None:
        """Put the copy in the place of the collection."""
        self.drop(state)
        self.settle(copy.id, origin=state.origin, name=state.name, dimension=state.dimension, embedder=state.embedder)

    def vacuumed(self, pages: int) -> int:
        """Give so many free pages of the catalog back; returns how many are left."""
        self._sql.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()  # it works while it is read
        return int(self._sql.execute("PRAGMA freelist_count").fetchone()[0])

    # -- generations of derived indexes -------------------------------------------------------------------------------

    def newest(self, state: State, kind: str) -> Generation | None:
        """The published index of this kind, if there is one: a file that covers the rows up to `next_row` as they were
        after change `seq`. It may be gone or damaged when it is opened, and is then to be made again from the records.
        """
        found = self._sql.execute(
            "SELECT number, next_row, seq, crc32 FROM generations WHERE collection = ? AND kind = ?", (state.id, kind)
        ).fetchone()
        if found is None or self._root is None:
            return None
        number, next_row, seq, crc = found
        if crc != generation_checksum(state.id, kind, number, next_row, seq) or next_row > state.next_row:
            return None  # derived: what cannot be trusted is not there
        return Generation(self.index_folder(state.name) / segments.index_name(kind, number), next_row, seq)

    def register(self, state: State, kind: str, number: int, next_row: int, seq: int) -> None:
        """Name the file of a new generation; the one before becomes an orphan."""
        self._sql.execute(
            "INSERT OR REPLACE INTO generations (collection, kind, number, next_row, seq, crc32) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (state.id, kind, number, next_row, seq, generation_checksum(state.id, kind, number, next_row, seq)),
        )

    def forget(self, state: State, kind: str, path: Path) -> None:
        """Take the generation in this file out of the catalog, unless there is a newer one by now."""
        if (found := self.newest(state, kind)) is None or found.path == path:
            self._sql.execute("DELETE FROM generations WHERE collection = ? AND kind = ?", (state.id, kind))

    def index_folder(self, name: str) -> Path:
        assert self._root is not None
        return self._root / segments.INDEXES / name.partition(HIDDEN)[0]

    def folder(self, name: str) -> Path:
        assert self._root is not None
        return self._root / segments.VECTORS / name.partition(HIDDEN)[0]

    # -- for verify and repair ----------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What SQLite finds wrong with its file."""
        found = [problem for (problem,) in self._sql.execute("PRAGMA integrity_check") if problem != "ok"]
        broken = self._sql.execute("PRAGMA foreign_key_check").fetchall()
        return found + [f"a line of {table} belongs to no collection" for table in sorted({line[0] for line in broken})]

    def schema(self) -> str:
        """The tables and indexes as the catalog describes them."""
        found = self._sql.execute("SELECT sql FROM sqlite_master WHERE sql NOT LIKE '%sqlite_%' ORDER BY rowid")
        return "".join(f"{sql};\n" for (sql,) in found)

    def reindex(self) -> None:
        """Make SQLite's own indexes again from its tables."""
        self._sql.execute("REINDEX")

    def ids(self) -> list[int]:
        return [id for (id,) in self._sql.execute("SELECT id FROM collections ORDER BY id")]

    def entry(self, collection: int) -> tuple[State, str]:
        """An entry as it stands there, and what is wrong with it."""
        state = self._state("id = ?", collection, checked=False)
        assert state is not None
        return state, "" if state.crc32 == state.checksum() else f"the entry of collection {state.name!r} is damaged"

    def generations(self, state: State) -> list[tuple[str, int, int, int, int]]:
        return self._sql.execute(
            "SELECT kind, number, next_row, seq, crc32 FROM generations WHERE collection = ?", (state.id,)
        ).fetchall()

    def forget_file(self, path: Path) -> None:
        """Take the generation in this file out of the catalog."""
        for collection in self.ids():
            state, _ = self.entry(collection)
            for kind, number, *_ in self.generations(state):
                if self.index_folder(state.name) / segments.index_name(kind, number) == path:
                    self._sql.execute("DELETE FROM generations WHERE collection = ? AND kind = ?", (state.id, kind))

    def set_counts(self, state: State) -> None:
        self._sql.execute(
            "UPDATE collections SET next_row = ?, live = ?, seq = ?, dead_sum = ? WHERE id = ?",
            (state.next_row, state.live, state.seq, state.dead_sum, state.id),
        )
        self.settle(state.id)


def generation_checksum(collection: int, kind: str, number: int, next_row: int, seq: int) -> int:
    return zlib.crc32(f"{collection}\0{kind}\0{number}\0{next_row}\0{seq}".encode())


def taken_message(collection: str, taken: Sequence[str]) -> str:
    """What `AlreadyExists` says about ids."""
    more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
    return (
        f"collection {collection!r} has records with the ids {', '.join(map(shown, taken[:3]))}{more}: nothing was "
        "added; upsert() replaces records, update() changes parts of them"
    )


def mismatch_message(state: State, identity: str) -> str:
    """What `EmbedderMismatch` says."""
    return (
        f"collection {state.name!r} was filled by the embedder {state.embedder!r}, not by {identity!r}; their vectors "
        "cannot be compared. Open it with the embedder that filled it; or make a new collection and add the documents "
        "again; or open it with embedder=None, to read it and to search with vectors"
    )
