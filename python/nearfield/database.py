"""A database: collections in one folder, or in memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nearfield import compaction, inputs
from nearfield.collection import Collection
from nearfield.derived import Derived
from nearfield.errors import InvalidInput, NotFound
from nearfield.schema import Durability
from nearfield.store import Store
from nearfield.types import Metric

if TYPE_CHECKING:
    from nearfield.embed import EmbedderLike


def open(path: str | os.PathLike[str] | None = None, *, durability: Durability = "full") -> Database:
    """Open the database in the folder `path`, made if missing; None makes one in memory, gone when it is closed.

    Args:
        path: a folder of its own.
        durability: "full": what was acknowledged survives a power cut. "relaxed": it survives a crash of the process,
            and a power cut takes at most the last writes, never the database; for loading much in small parts.

    Raises:
        NotADatabase: `path` is a file, or a folder with other things in it.
        FormatTooNew: written by a later nearfield.
        ReadOnly, DiskFull, Locked, Corrupt, StorageError: what the disk says. A database in a folder that cannot be
            written opens for reading.

    Example:
        >>> with nf.open("library.nf") as db:
        ...     docs = db.collection("docs")
    """
    return Database(path, durability=durability)


class Database:
    """An open database. Any number of processes and threads may open and use the same one. See `open`."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, durability: Durability = "full") -> None:
        if path is not None and (not isinstance(path, (str, os.PathLike)) or not os.fspath(path)):
            raise InvalidInput(f"path must be a path or None, got {path!r} ({type(path).__name__})")
        self._store = Store(None if path is None else Path(os.fspath(path)).absolute(), durability)
        self._derived: dict[int, Derived] = {}
        compaction.tidy_if_left(self._store)

    @property
    def path(self) -> Path | None:
        """The folder, absolute; None in memory."""
        return self._store.path

    def collection(
        self,
        name: str,
        *,
        embedder: EmbedderLike | None = "default",
        dimension: int | None = None,
        metric: Metric | None = None,
    ) -> Collection:
        """The collection of this name, made if missing.

        Args:
            name: letters (a-z, A-Z), digits, '-', '_', '.'; at most 128.
            embedder: what turns texts into vectors: "default" (a local model), a model's name, an `Embedder`, or a
                function from a list of texts to an array. It is loaded when the first text comes. None: vectors only.
            dimension: the length of the vectors. None: the first ones decide.
            metric: "cosine" (also where it is not given), "dot" or "l2". None: whatever an existing collection has.

        Raises:
            InvalidInput: the name cannot be, or the collection has another dimension or metric.
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
        if embedder is not None and not isinstance(embedder, (str, os.PathLike)):
            from nearfield.embed import resolve

            embedder = resolve(embedder)  # nothing has to be loaded: what cannot be an embedder is told now
        with self._store.reading() as transaction:
            state = transaction.find(name)
        if state is None:
            with self._store.writing() as transaction:  # someone may have been faster
                state = transaction.find(name) or transaction.create(name, metric or "cosine", dimension, None)
        if state.name != name:
            raise InvalidInput(f"there is a collection {state.name!r}, and {name!r} differs from it in case only")
        for what, wanted, found in (("metric", metric, state.metric), ("dimension", dimension, state.dimension)):
            if wanted is not None and found is not None and wanted != found:
                raise InvalidInput(
                    f"collection {name!r} has the {what} {found!r}, not {wanted!r}; leave it out or choose another name"
                )
        return Collection(
            self._store,
            self._derived.setdefault(state.origin or 0, Derived(self._store)),
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
            state = transaction.find(name) if isinstance(name, str) else None
            if state is None or state.name != name:
                there = ", ".join(map(repr, transaction.names())) or "none"
                raise NotFound(f"there is no collection {name!r}; there are: {there}")
            transaction.drop(state)
        self._derived.pop(state.origin or 0, None)
        compaction.tidy(self._store)

    def compact(self) -> None:
        """Give the disk back what deleted and replaced records took: `Collection.compact` for each collection."""
        for name in self.collections():
            self.collection(name, embedder=None).compact()

    def close(self) -> None:
        """Close the files; handles to collections are of no more use. May be called twice."""
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
        return _reopen, (str(self.path), self._store.durability)

    def __repr__(self) -> str:
        return f"<Database {str(self.path) if self.path else 'in memory'}>"


def _reopen(path: str, durability: Durability) -> Database:
    return Database(path, durability=durability)
