"""What a collection keeps in memory, equal to the catalog.

Searches share it; catching up with the catalog waits for them. What to catch up with is read from the catalog, in the
same view as the records of the answer: no answer is stale or torn, whoever wrote, and whoever searches beside it.
"""

from __future__ import annotations

import functools
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from nearfield.errors import Corrupt, NearfieldError, StorageError
from nearfield.index import Index
from nearfield.store import Store
from nearfield.transaction import Generation, State, Transaction
from nearfield.types import FileRows, Metric, Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 4
_MERGED = 1 << 26  # bytes of vectors that an index takes in at once
WORTH_PUBLISHING = 50_000  # rows; fewer are quicker to index than to write down


class Moved(Exception):
    """What is in memory is already newer than the caller's view of the catalog: see `consistent`."""


class Version(NamedTuple):
    """How far something has followed a collection: the space of its rows, the rows, and the changes to them."""

    id: int
    next_row: int
    seq: int

    @classmethod
    def of(cls, state: State) -> Version:
        return cls(state.id, state.next_row, state.seq)

    def newer(self, other: Version) -> bool:
        return self.id > other.id or (self.id == other.id and (self.next_row > other.next_row or self.seq > other.seq))


class Live(ABC, Generic[T]):
    """Something derived from the records of one collection, for any number of threads at once."""

    def __init__(self, store: Store) -> None:
        self.gate = threading.RLock()  # held while catching up, and by those who must not be overtaken
        self._store = store
        self._changed = threading.Condition()
        self._sharing = 0
        self._advancing = False
        self._thing: T | None = None
        self._version: Version | None = None

    @abstractmethod
    def advanced(self, transaction: Transaction, state: State, thing: T | None, since: Version | None) -> T:
        """The thing, brought from `since` to `state`; made afresh where there is none, or of another space of rows."""

    @contextmanager
    def at(self, transaction: Transaction, state: State) -> Iterator[T]:
        """The thing exactly as of `state`, which stays so within the block.

        Raises:
            Moved: another thread has brought it further.
        """
        thing = self._shared(transaction, state)
        try:
            yield thing
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    def _shared(self, transaction: Transaction, state: State) -> T:
        wanted = Version.of(state)
        with self._changed:
            while self._advancing:
                self._changed.wait()
            if self._version == wanted and self._thing is not None:
                self._sharing += 1
                return self._thing
        with self.gate:
            if self._version is not None and self._version.newer(wanted):
                raise Moved
            with self._changed:
                self._advancing = True
            try:
                with self._changed:
                    while self._sharing:
                        self._changed.wait()
                if self._version != wanted or self._thing is None:
                    thing, since = self._thing, self._version
                    self._thing = self._version = None  # should this fail, the next search starts afresh
                    self._thing = self.advanced(transaction, state, thing, since)
                    self._version = wanted
                self._sharing += 1
                return self._thing
            finally:
                with self._changed:
                    self._advancing = False
                    self._changed.notify_all()


def consistent(store: Store, gates: Sequence[threading.RLock], work: Callable[[Transaction], R]) -> R:
    """What `work` makes of one view of the catalog and of `Live` things that are exactly as of it.

    `work` may be begun several times: when a thing has moved on between the view and its use, there is a newer view.

    Args:
        gates: of all things that `work` uses; in one order everywhere.
    """
    for _ in range(_TRIES):
        with suppress(Moved), store.reading() as transaction:
            return work(transaction)
    # Many write and search at once. With the gates held nobody overtakes: a view from now on is the newest.
    with store.unforked(), ExitStack() as held:
        for gate in gates:
            held.enter_context(gate)
        with store.reading() as transaction:
            return work(transaction)


class Published(Live[T]):
    """Something that is written down now and then, so that the next process need not begin with nothing."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._published = 0  # rows

    kind: str
    """The name of its generations on the disk."""

    far: float = float("inf")
    """So many rows ahead, a generation is read sooner than what it has more."""

    @abstractmethod
    def fresh(self, state: State) -> T:
        """An empty one."""

    @abstractmethod
    def loaded(self, path: Path, state: State) -> T:
        """A published one; `Corrupt` if it is not one of this collection."""

    @abstractmethod
    def caught_up(self, thing: T, transaction: Transaction, state: State, since: Version) -> T:
        """The thing with what happened after `since`."""

    @abstractmethod
    def saving(self, thing: T) -> Callable[[Path], None] | None:
        """What writes it down; None if it is not worth that."""

    def frozen(self, thing: T) -> T | None:
        """The thing as it is now, to be written down while it goes on changing; None if it has to stay as it is."""
        return None

    @property
    def in_use(self) -> bool:
        return self._thing is not None

    @property
    def publishable(self) -> bool:
        """Whether it is worth writing down: its rows have grown by half since it last was."""
        thing, version = self._thing, self._version
        due = version is not None and self._worth(version.next_row, self._published)
        return due and self._store.path is not None and thing is not None and self.saving(thing) is not None

    def _worth(self, rows: int, published: int) -> bool:
        return rows >= max(WORTH_PUBLISHING, published * 3 // 2) and not self._store.read_only

    def publish(self, *, last: bool = False) -> bool:
        """Write the thing down for the next process, if that is worth it and nobody has; says whether it was done.

        To be called outside a view.

        Args:
            last: nobody here will have another chance, so what the next process would have to read counts by itself.
        """
        if self._store.path is None or self._store.read_only:
            return False
        with suppress(Moved, StorageError):  # no room, perhaps: a search does not fail for what it can do without
            before = self._published
            with self._store.reading() as transaction, self._changed:
                version = self._version
                if version is None or (state := transaction.by_id(version.id)) is None:
                    return False
                few = not last or version.next_row < before + WORTH_PUBLISHING
                if few and not self.publishable:
                    return False
                self._published = version.next_row
            try:
                write = functools.partial(self._write, version)
                return self._store.publish(state, self.kind, version.next_row, version.seq, write)
            except Moved:
                self._published = before
        return False

    def _write(self, version: Version, path: Path) -> None:
        with self._store.unforked():
            with self._changed:
                if self._advancing or self._version != version or self._thing is None:
                    raise Moved
                frozen = self.frozen(self._thing)
                if (save := self.saving(self._thing if frozen is None else frozen)) is None:
                    raise Moved
                self._sharing += frozen is None  # then it must stay as it is while it is written
            try:
                save(path)
            finally:
                with self._changed:
                    self._sharing -= frozen is None
                    self._changed.notify_all()

    def follow(self, origin: int | None) -> bool:
        """Bring it up to date and write it down, if it is in use or worth it: says whether. For the background."""

        def work(transaction: Transaction) -> bool:
            state = transaction.state(origin, "")
            wanted = self.in_use or self.wanted(state, transaction.newest(state, self.kind))
            if wanted:
                with self.at(transaction, state):
                    pass
            return wanted

        wanted = consistent(self._store, (self.gate,), work)
        self.publish()
        return wanted

    def wanted(self, state: State, published: Generation | None) -> bool:
        """Whether it is to be made of what is written, though nobody here has asked for it yet."""
        return self._worth(state.next_row, 0 if published is None else published.next_row)

    def make(self, transaction: Transaction, state: State) -> None:
        """Make all of it, as of `state`, so that others find nothing left to do. To be called in `consistent`."""
        with self.at(transaction, state):
            pass

    def advanced(self, transaction: Transaction, state: State, thing: T | None, since: Version | None) -> T:
        if thing is not None and since is not None and since.id == state.id:
            if not self._far_ahead(transaction, state, since) or (found := self._read(transaction, state)) is None:
                return self.caught_up(thing, transaction, state, since)
            return found
        if (found := self._read(transaction, state)) is not None:
            return found
        self._published = 0
        return self.caught_up(self.fresh(state), transaction, state, Version(state.id, 0, 0))

    def _far_ahead(self, transaction: Transaction, state: State, since: Version) -> bool:
        """Whether someone has published what would take longer to read from the catalog."""
        if state.next_row - since.next_row < self.far:
            return False
        generation = transaction.newest(state, self.kind)
        return generation is not None and generation.next_row - since.next_row >= self.far

    def _read(self, transaction: Transaction, state: State) -> T | None:
        generation = transaction.newest(state, self.kind)
        if generation is None:
            return None
        try:
            thing = self.loaded(generation.path, state)
            thing = self.caught_up(thing, transaction, state, Version(state.id, generation.next_row, generation.seq))
        except NearfieldError as error:
            warnings.warn(f"a published index is not used, but made again: {error}", stacklevel=2)
            self._store.forget(state, self.kind, generation)
            return None
        self._published = generation.next_row
        return thing


class LiveIndex(Published[Index]):
    """A collection's index of vectors: the published one if there is a good one, and what has happened since.

    Nobody waits for a graph. New rows are scanned exactly, beside the graph if there is one; `tend` has a thread build
    what is due on a second index, which then takes the place of the first.
    """

    kind = "auto"

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.stored = 0  # rows that this process has written
        self._builder: threading.Thread | None = None

    def wanted(self, state: State, published: Generation | None) -> bool:
        # Who has written most of a large collection is likely to search it; who adds to it now and then is not.
        return state.dimension is not None and self.stored >= max(WORTH_PUBLISHING, state.next_row // 2)

    def tend(self) -> None:
        """Begin to build what is due, in a thread. To be called outside a view."""
        thing, version, builder = self._thing, self._version, self._builder
        if thing is None or version is None or (builder is not None and builder.is_alive()):
            return
        if thing.due:
            self._builder = threading.Thread(
                target=self._build_quietly, args=(version.id,), name="nearfield index", daemon=True
            )
            self._builder.start()

    def build(self, collection: int) -> None:
        """Build what is due, and publish it. To be called outside a view."""
        built = LiveIndex(self._store)
        with self._store.reading() as transaction:
            state = transaction.by_id(collection)
            if state is None or state.dimension is None:
                return
            with self._changed:
                thing = self._thing
                if self._version == Version.of(state) and thing is not None and not thing.due:
                    return
                demanded = thing is not None and thing.due
            with built.at(transaction, state) as index:
                if demanded:
                    index.demand()  # by searches, which the new one has not seen
                due = index.due
        if due:
            index.settle()  # nothing is held meanwhile
            built.publish()
            self._take(built)

    def _build_quietly(self, collection: int) -> None:
        with suppress(NearfieldError):  # closed, dropped, damaged: whoever searches is told
            self.build(collection)

    def _take(self, built: LiveIndex) -> None:
        """Put another index in the place of this one, unless it is of another space of rows. The next search brings it
        up to date.
        """
        assert built._version is not None
        with self._store.reading(), self.gate, self._changed:  # the view: a fork waits for it, so for the gate
            while self._advancing or self._sharing:
                self._changed.wait()
            if self._version is not None and self._version.id == built._version.id:
                self._thing, self._version, self._published = built._thing, built._version, built._published

    def make(self, transaction: Transaction, state: State) -> None:
        with self.at(transaction, state) as index:
            index.settle()

    def search(
        self,
        transaction: Transaction,
        state: State,
        queries: NDArray[np.float32],
        k: int,
        **options: Any,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]:
        """`Index.search` with rows as ids: (rows (q, k), scores (q, k), report). To be called in `consistent`.

        Raises:
            Moved: another thread has brought the index further than this view.
        """
        with self.at(transaction, state) as index:
            rows, scores, report = index.search(queries, k, report=True, **options)
        return rows, scores, report

    def fresh(self, state: State) -> Index:
        assert state.dimension is not None
        metric: Metric = state.metric  # type: ignore[assignment]  # the catalog holds what Metric allows
        return Index(state.dimension, metric, kind=self.kind)

    def loaded(self, path: Path, state: State) -> Index:
        index = Index.load(path, verify=True)
        if (index.dimension, index.metric) != (state.dimension, state.metric):
            raise Corrupt(f"{path} is the index of another collection")
        return index

    def frozen(self, thing: Index) -> Index | None:
        return thing.frozen()  # searches that have to catch up would wait for seconds

    def saving(self, thing: Index) -> Callable[[Path], None] | None:
        # An exact index is made from the segments as fast as from a file of its own: only others are published.
        worth = thing.built if thing.kind == "auto" else thing.kind != "flat"
        return thing.save if worth and not thing.due else None

    def caught_up(self, thing: Index, transaction: Transaction, state: State, since: Version) -> Index:
        dead = np.empty(0, dtype=np.int64)
        if state.seq > since.seq:
            dead = transaction.dead_rows(state.id, since.seq)
            if len(known := dead[dead < since.next_row]):
                thing.remove(known)
        unsealed = since.next_row
        if state.next_row > unsealed:
            unsealed = self._mapped(thing, transaction, state, unsealed, dead)
            for first, vectors in _merged(transaction.vectors(state, unsealed)):
                rows = np.arange(first, first + len(vectors), dtype=np.int64)
                alive = ~np.isin(rows, dead)
                if alive.all():
                    thing.add(vectors, rows, settle=False)
                elif alive.any():
                    thing.add(vectors[alive], rows[alive], settle=False)
        if not thing.due:
            thing.settle()
        if len(thing) != state.live:
            raise Corrupt(
                f"collection {state.name!r} has {state.live} records and {len(thing)} vectors; "
                "`nearfield verify` says what is damaged"
            )
        return thing

    def _mapped(
        self, thing: Index, transaction: Transaction, state: State, first_row: int, dead: NDArray[np.int64]
    ) -> int:
        """Add the sealed vectors from `first_row` on, which stay in their files; returns the row after them."""
        files: list[FileRows] = []
        added: list[NDArray[np.int64]] = []
        end = first_row
        for first, file in transaction.sealed(state, first_row):
            end = first + file.rows
            rows = np.arange(first, end, dtype=np.int64)
            alive = rows[~np.isin(rows, dead)]
            if len(alive):
                files.append(file if len(alive) == file.rows else file._replace(chosen=(alive - first).astype("u4")))
                added.append(alive)
        if files:
            thing.add_files(files, np.concatenate(added), settle=False)
        return end


def _merged(pieces: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The same vectors in larger pieces: an index takes in many at once in half the time."""
    held: list[NDArray[np.float32]] = []
    start = 0
    for first, vectors in pieces:
        if held and sum(part.nbytes for part in held) + vectors.nbytes > _MERGED:
            yield start, held[0] if len(held) == 1 else np.concatenate(held)
            held = []
        if not held:
            start = first
        held.append(vectors)
    if held:
        yield start, held[0] if len(held) == 1 else np.concatenate(held)
