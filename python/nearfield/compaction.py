"""Compaction: a collection's living records move into a new space of rows, and the old one is given back to the disk.

The copy grows beside the collection, under a hidden entry of the catalog, in many short transactions: others read and
write meanwhile, and memory holds one piece. What changed behind the copy's back is brought after it. Then one
transaction gives the copy the collection's name. Killed at any moment, it leaves a hidden entry, which the next
maintenance empties.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from nearfield import schema
from nearfield.errors import Locked, NearfieldError, NotFound
from nearfield.segments import SegmentFile
from nearfield.store import Store
from nearfield.transaction import NewRecords, State, Stored, Transaction

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE_ROWS = 2048  # a transaction of a copy is over in some milliseconds
PIECE_BYTES = 1 << 23
PAGES = 1000  # of the catalog, 4 KiB each
SEGMENT_BYTES = 1 << 28
DUE_ROWS = 10_000  # dead ones; fewer are not worth the trouble
_TRIES = 50
_FEW = 1000  # rows and changes that are left for the transaction in which the copy takes over


def compact(
    store: Store,
    origin: int | None,
    name: str,
    *,
    wait: float | None = None,
    before: Callable[[Transaction, State], None] | None = None,
) -> bool:
    """Rewrite a collection without its dead rows and in few files; False when there was nothing to gain.

    Args:
        store, origin, name: the store, and the collection as its handles know it.
        wait: seconds for someone else's maintenance to end; None: the timeout of writers.
        before: called with the finished copy, before it takes over: what it publishes is there at once.

    Raises:
        Locked: another process is maintaining the database, and has been for so long.
        NotFound: the collection was dropped.
        Corrupt: it is damaged; it was left as it is.
    """
    store.check_writable()
    wait = schema.TIMEOUT if wait is None else wait
    with store.maintaining(wait) as held:
        if not held and store.path is not None:
            raise Locked(f"{store.path}: another process is compacting or repairing it; try again when it has finished")
        sweep(store)
        with store.reading() as transaction:
            state = transaction.state(origin, name)
            worth = _worth(transaction, state)
        if worth:
            _Copy(store, state).run(before)
        give_back(store)
        return worth


def compact_if_due(store: Store, state: State, before: Callable[[Transaction, State], None] | None = None) -> None:
    """Compact in the background once more rows are dead than alive, and enough of them to matter."""
    dead = state.next_row - state.live
    if dead >= DUE_ROWS and dead > state.live:
        store.in_background(lambda: _forgiving(lambda: compact(store, state.origin, state.name, wait=0, before=before)))


def _forgiving(work: Callable[[], object]) -> None:
    with suppress(NearfieldError):  # closed, no room, someone else is at it: it was not asked for, and comes again
        work()


def tidy(store: Store) -> None:
    """Give the disk back what a dropped collection took, unless someone else is maintaining: theirs it is then."""
    with store.maintaining() as held:
        if held or store.path is None:
            sweep(store)
            give_back(store)


def tidy_if_left(store: Store) -> None:
    """Clear away, in the background, what a crash left of a compaction or of dropping a collection."""
    if not store.read_only:
        with store.reading() as transaction:
            hidden = transaction.hidden()
        if hidden:
            store.in_background(lambda: _forgiving(lambda: tidy(store)))


def sweep(store: Store) -> None:
    """Empty the hidden entries of the catalog: of dropped collections, of those before a compaction, of halves of one.

    The caller holds the maintenance lock.
    """
    with store.reading() as transaction:
        hidden = transaction.hidden()
    for collection in hidden:
        left = True
        while left:
            with _turn(), store.writing() as transaction:
                left = transaction.emptied(collection, PIECE_ROWS)


def give_back(store: Store) -> None:
    """Make the files as small as what is in them: remove files that no longer count, and free pages of the catalog."""
    before, left = None, None
    while left is None or (left and left != before):
        with _turn(), store.writing() as transaction:
            before, left = left, transaction.vacuumed(PAGES)
    store.remove_orphans()
    store.shrink()


@contextmanager
def _turn() -> Iterator[None]:
    """A piece of work, and then a while in which others get their turn: SQLite's write lock has no queue."""
    start = time.monotonic()
    yield
    time.sleep(min(max(time.monotonic() - start, 0.001), 0.05))


def _worth(transaction: Transaction, state: State) -> bool:
    if state.dimension is None:
        return False
    files = len(transaction.segments(state))
    return state.live < state.next_row or files > 2 + 4 * state.live * state.dimension // SEGMENT_BYTES


class _Copy:
    """One run. `_sources` has the old row of each new row, ascending."""

    def __init__(self, store: Store, state: State) -> None:
        self._store = store
        self._origin, self._name = state.origin, state.name
        self._source = state.id
        self._seq = state.seq
        self._next = 0  # the old row to go on with
        self._sources = array("I")
        self._file: SegmentFile | None = None
        self._sealed = 0
        with store.writing() as transaction:
            self._target = transaction.create_hidden(state)

    def run(self, before: Callable[[Transaction, State], None] | None) -> None:
        try:
            self._catch_up(_FEW if before is None else 0)
            if before is not None:
                with self._store.writing() as transaction:
                    self._seal(transaction)
                    self._target = transaction.settle(self._target.id)
                with self._store.reading() as transaction:
                    before(transaction, self._target)
                self._catch_up(_FEW)
            with self._store.writing() as transaction:
                state = self._state(transaction)
                self._follow(transaction, state)
                while self._copied(transaction, state):
                    pass
                self._seal(transaction)
                transaction.take_over(state, self._target)
        except BaseException:
            if self._file is not None:
                self._file.abandon()
            with suppress(Exception):  # whatever went wrong may be in the way here too; then a later sweep does it
                sweep(self._store)
            raise
        sweep(self._store)

    def _catch_up(self, few: int) -> None:
        """Copy until little is left; others who write faster than this copies may leave more, after so many tries."""
        with self._store.reading() as transaction:
            goal = self._state(transaction).next_row
        tries = 0
        while self._step() > few and tries < _TRIES:
            tries += self._next >= goal

    def _step(self) -> int:
        """Copy a piece, in one transaction; returns how many rows and changes are left."""
        with _turn(), self._store.writing() as transaction:
            state = self._state(transaction)
            self._follow(transaction, state)  # first: an id that was replaced must be free for its new row
            self._copied(transaction, state)
        if self._file is not None:
            self._file.sync()  # before anybody waits for it
        return state.next_row - self._next

    def _state(self, transaction: Transaction) -> State:
        state = transaction.state(self._origin, self._name)
        if state.id != self._source:
            raise NotFound(f"the collection {self._name!r} was compacted by someone else meanwhile")
        return state

    def _copied(self, transaction: Transaction, state: State) -> bool:
        """Copy the next living records with their vectors; False when there was none."""
        records = transaction.piece(state, self._next, PIECE_ROWS, PIECE_BYTES)
        if records:
            rows = [record.row for record in records]
            vectors = transaction.vectors_of(state, rows)
            _, ids, metadatas, documents = zip(*records, strict=True)
            new = NewRecords(ids, documents, metadatas)
            if self._store.path is None:
                transaction.append(self._target, new, vectors)
            else:
                if self._file is None:
                    self._file = SegmentFile(transaction.folder(state.name), vectors.shape[1])
                self._file.append(vectors)
                transaction.add_records(self._target, len(self._sources), new)
            self._sources.extend(rows)
            self._next = rows[-1] + 1
            if self._file is not None and self._file.rows * 4 * vectors.shape[1] >= SEGMENT_BYTES:
                self._seal(transaction)
        else:
            self._next = state.next_row
        return bool(records)

    def _follow(self, transaction: Transaction, state: State) -> None:
        """Repeat what happened since to the rows that are copied."""
        if state.seq == self._seq:
            return
        dead = self._new_rows(transaction.dead_rows(state.id, self._seq))
        if len(dead):
            transaction.bury(self._target, dead.tolist())
        changed = transaction.changed_rows(state.id, self._seq)
        changed = changed[changed < self._next]
        if len(changed):
            records = transaction.records(state.id, changed.tolist())
            rows = sorted(records)
            moved = self._new_rows(np.asarray(rows, dtype=np.int64)).tolist()
            transaction.rewrite(
                self._target, [Stored(new, *records[row][1:]) for row, new in zip(rows, moved, strict=True)]
            )
        self._seq = state.seq

    def _new_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The new rows of those of the old `rows` that were copied."""
        sources = np.frombuffer(self._sources, dtype=np.uint32) if self._sources else np.empty(0, dtype=np.uint32)
        at = np.searchsorted(sources, rows)
        there = at < len(sources)
        there[there] = sources[at[there]] == rows[there]
        return at[there].astype(np.int64)

    def _seal(self, transaction: Transaction) -> None:
        if self._file is not None and self._file.rows:
            self._file.finish()
            transaction.add_segment(self._target, self._file, self._sealed)
            self._sealed += self._file.rows
            self._file = None
