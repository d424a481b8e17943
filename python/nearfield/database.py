"""A database: collections in one folder, or in memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nearfield import backup, compaction, inputs, verify
from nearfield.catalog import ENGLISH
from nearfield.collection import Collection
from nearfield.derived import Derived
from nearfield.errors import InvalidInput, NotFound
from nearfield.schema import Durability
from nearfield.store import Store
from nearfield.types import Finding, Metric

if TYPE_CHECKING:
    from nearfield.embed import EmbedderLike


def open(
    path: str | os.PathLike[str] | None = None, *, durability: Durability = "full", snapshot: str | None = None
) -> Database:
    """Open the database in the folder `path`, made if missing; None makes one in memory, gone when it is closed.

    Args:
        path: a folder of its own.
        durability: "full": what was acknowledged survives a power cut. "relaxed": it survives a crash of the process,
            and a power cut takes at most the last writes, never the database; for loading much in small parts.
        snapshot: the name of a snapshot of the database: it is opened as it was then, for reading.

    Raises:
        NotFound: there is no snapshot of this name.
        NotADatabase: `path` is a file, or a folder with other things in it.
        FormatTooNew: written by a later nearfield.
        ReadOnly, DiskFull, Locked, Corrupt, StorageError: what the disk says. A database in a folder that cannot be
            written opens for reading.

    Example:
        >>> with nf.open("library.nf") as db:
        ...     docs = db.collection("docs")
    """
    return Database(path, durability=durability, snapshot=snapshot)


def restore(backup: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a database, a backup for one, into the new folder `target`. The backup stays as it is.

    Raises:
        NotFound: there is no database at `backup`. AlreadyExists: there is something at `target`.
        Corrupt: a segment of the backup is damaged; nothing was restored.
        NotADatabase, FormatTooNew, DiskFull, ReadOnly, StorageError: what the disk says.
    """
    if not os.path.exists(backup):
        raise NotFound(f"there is no backup at {os.fspath(backup)}")
    with open(backup) as source:
        source.backup(target)


class Database:
    """An open database. Any number of processes and threads may open and use the same one. See `open`."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "full",
        snapshot: str | None = None,
    ) -> None:
        self._path = None if path is None else _absolute(path)
        self._snapshot = snapshot
        if snapshot is None:
            self._store = Store(self._path, durability)
        else:
            inputs.collection_name(snapshot)
            if self._path is None:
                raise InvalidInput("a database in memory has no snapshots: give the path of the one that has")
            self._store = Store(backup.find_snapshot(self._path, snapshot), durability, frozen=True)
        self._derived: dict[int, Derived] = {}
        compaction.tidy_if_left(self._store)

    @property
    def path(self) -> Path | None:
        """The folder, absolute; None in memory."""
        return self._path

    def collection(
        self,
        name: str,
        *,
        embedder: EmbedderLike | None = "default",
        dimension: int | None = None,
        metric: Metric | None = None,
        language: str | None = None,
    ) -> Collection:
        """The collection of this name, made if missing.

        Args:
            name: letters (a-z, A-Z), digits, '-', '_', '.'; at most 128.
            embedder: what turns texts into vectors: "default" (a local model), a model's name, an `Embedder`, or a
                function from a list of texts to an array. It is loaded when the first text comes. None: vectors only.
            dimension: the length of the vectors. None: the first ones decide.
            metric: "cosine" (also where it is not given), "dot" or "l2". None: whatever an existing collection has.
            language: of the words in lexical and hybrid search: "english" (also where it is not given) or another of
                `nearfield.sparse.languages()`, or "none" (no endings cut, no stop words). None: whatever an existing
                collection has. Queries in another language are no error: words that are the same are found.

        Raises:
            InvalidInput: the name cannot be, or the collection has another dimension, metric or language.
            EmbedderMismatch: the collection was filled by another embedder (told here if nothing must be loaded to
                know it, else with the first text).

        Example:
            >>> db.collection("docs")
            <Collection 'docs': cosine>
        """
        inputs.collection_name(name)
        if metric is not None:
            inputs.metric(metric)
        if dimension is not None:
            dimension = inputs.dimension(dimension)
        if language is not None:
            inputs.language(language)
        if embedder is not None and not isinstance(embedder, (str, os.PathLike)):
            from nearfield.embed import resolve

            embedder = resolve(embedder)  # nothing has to be loaded: what cannot be an embedder is told now
        with self._store.reading() as transaction:
            state = transaction.find(name)
        if state is None:
            with self._store.writing() as transaction:
                if (state := transaction.find(name)) is None:  # someone may have been faster
                    state = transaction.create(name, metric or "cosine", dimension, None)
                    transaction.set_language(state, language or ENGLISH)
        if state.name != name:
            raise InvalidInput(f"there is a collection {state.name!r}, and {name!r} differs from it in case only")
        spoken = None
        if language is not None:
            with self._store.reading() as transaction:
                spoken = transaction.language(state)
        for what, wanted, found in (
            ("metric", metric, state.metric),
            ("dimension", dimension, state.dimension),
            ("language", language, spoken),
        ):
            if wanted is not None and found is not None and wanted != found:
                raise InvalidInput(
                    f"collection {name!r} has the {what} {found!r}, not {wanted!r}; leave it out or choose another name"
                )
        return Collection(
            self._store,
            self._derived.setdefault(state.origin or 0, Derived(self._store, state.origin)),
            state,
            embedder,
            self.collection,
        )

    def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        with self._store.reading() as transaction:
            return transaction.names()

    def drop(self, name: str) -> None:
        """Remove a collection with everything in it.

        Raises:
            NotFound: there is no collection of this name.
        """
        with self._store.writing() as transaction:
            state = transaction.known(name)
            transaction.drop(state)
            transaction.set_language(state, ENGLISH)
        if (derived := self._derived.pop(state.origin or 0, None)) is not None:
            derived.wait()  # it may hold the maintenance lock
        compaction.tidy(self._store)

    def rename(self, name: str, new: str) -> None:
        """Give a collection another name. Handles to it go on working.

        Raises:
            NotFound: there is no collection of this name. AlreadyExists: there is one of the new name.
            InvalidInput: the new name cannot be. Locked: another process is compacting or repairing the database.
        """
        inputs.collection_name(new)
        backup.rename(self._store, name, new)

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the database, as it is at this moment, into the new folder `target`, while others go on writing.

        The copy is a database: `nf.open(target)` opens it, `nf.restore(target, path)` copies it back. It is there when
        this returns, on the disk, and not before; every segment was compared with its checksum.

        Raises:
            AlreadyExists: there is something at `target`.
            Corrupt: a segment is damaged; no backup was made.
            DiskFull, ReadOnly, StorageError: what the disk says; nothing is left at `target`.

        Example:
            >>> db.backup("library-backup.nf")
        """
        backup.backup(self._store, _absolute(target))

    def snapshot(self, name: str) -> None:
        """Keep the database as it is at this moment under a name, to be read with `nf.open(path, snapshot=name)`.

        It takes the room of the catalog; vectors are shared with the database, whose files never change, so it is no
        backup against a failing disk. What is deleted later stays on the disk as long as a snapshot has it.

        Args:
            name: as a collection's: letters, digits, '-', '_', '.'; at most 128.

        Raises:
            AlreadyExists: there is a snapshot of this name. InvalidInput: the name cannot be.
            Locked: another process is compacting or repairing the database.
        """
        inputs.collection_name(name)
        backup.take_snapshot(self._store, name)

    def snapshots(self) -> list[str]:
        """The names of the snapshots, sorted."""
        return [] if self.path is None else backup.snapshots(self._store)

    def drop_snapshot(self, name: str) -> None:
        """Remove a snapshot, and what only it still kept on the disk.

        Raises:
            NotFound: there is no snapshot of this name.
        """
        inputs.collection_name(name)
        backup.drop_snapshot(self._store, name)

    def compact(self) -> None:
        """Give the disk back what deleted and replaced records took: `Collection.compact` for each collection."""
        for name in self.collections():
            self.collection(name, embedder=None).compact()

    def verify(self) -> list[Finding]:
        """Read all there is and compare it with its checksums; returns what is damaged, nothing when all is well.

        Example:
            >>> db.verify()
            []
        """
        return verify.verify(self._store)

    def repair(self, *, discard: bool = False) -> list[Finding]:
        """Make anew what is derived (indexes, counts, lists); returns what is damaged even so.

        Args:
            discard: give up records whose bytes or vectors are damaged, so that the rest can be used. Without it they
                stay, whoever meets one gets `Corrupt`, and a backup can bring them back. Ask `verify` first which they
                are: of a damaged segment, all records go.

        Raises:
            ReadOnly, Locked, DiskFull: what the disk says.
        """
        return verify.repair(self._store, discard=discard)

    def close(self) -> None:
        """Close the files; handles to collections are of no more use. May be called twice.

        What was made of new records for filters and keyword search is written down first: of a million, 0.2 seconds.
        """
        for derived in list(self._derived.values()):
            derived.finish()
        self._store.close()
        self._derived.clear()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise InvalidInput("a database in memory cannot be pickled: give it a path, or send its records")
        return _reopen, (str(self.path), self._store.durability, self._snapshot)

    def __repr__(self) -> str:
        snapshot = f" as of snapshot {self._snapshot!r}" if self._snapshot else ""
        return f"<Database {str(self.path) if self.path else 'in memory'}{snapshot}>"


def _absolute(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidInput(f"path must be a path or None, got {path!r} ({type(path).__name__})")
    return Path(os.fspath(path)).absolute()


def _reopen(path: str, durability: Durability, snapshot: str | None) -> Database:
    return Database(path, durability=durability, snapshot=snapshot)
