"""What a process keeps in memory of one collection: all of it made from the catalog, none of it needed on the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nearfield import live
from nearfield.catalog import HIDDEN
from nearfield.columns import LiveColumns
from nearfield.errors import NearfieldError
from nearfield.live import LiveIndex, Published
from nearfield.live_text import LiveText
from nearfield.store import Store
from nearfield.transaction import State, Transaction

_MANY = 4096  # new rows that are worth a thread


class Derived:
    """An index of the vectors, one of the words, and columns of the metadata, for all handles of a collection.

    What is due is done by threads in the background, of which nobody knows but who closes the database.
    """

    def __init__(self, store: Store, origin: int | None) -> None:
        self.index = LiveIndex(store)
        self.columns = LiveColumns(store)
        self.text = LiveText(store)
        self.gates = (self.index.gate, self.columns.gate, self.text.gate)  # see `live.consistent`
        self._origin = origin
        self._filed = store.path is not None  # in memory writers would wait for vectors to be read again
        self._new = 0
        self._few = True  # rows: if more follow, columns will be made of all of them
        self._words = False  # as far as is known, nobody searches for them
        self._thread: threading.Thread | None = None

    def written(self, state: State, documents: list[str | None] | None, metadatas: list[str]) -> None:
        """What was stored in the last rows of `state`. What is made of it follows, if it is in use or will be."""
        count = len(metadatas)
        self.index.stored += count
        self._few = state.next_row < live.WORTH_PUBLISHING
        self.columns.given.put(state.id, state.next_row - count, metadatas, 64 * count + sum(map(len, metadatas)))
        if documents is not None and (self._words or self.text.in_use):
            size = 64 * count + sum(len(document) for document in documents if document is not None)
            self.text.given.put(state.id, state.next_row - count, documents, size)
        self._new += count
        if self._new >= _MANY:
            self._begin()

    def tend(self) -> None:
        """Begin what is due, in the background. To be called outside a view, after whatever uses the things here."""
        self.index.tend()
        if self.index.publishable or self.columns.publishable or self.text.publishable:
            self._begin()

    def finish(self) -> None:
        """Wait for what is under way, and write down what the next process would have to do again."""
        self.wait()
        with suppress(NearfieldError):
            self.index.publish()
            for thing in (self.columns, self.text):
                thing.publish(last=True)

    def wait(self) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # two at once would do no harm
            self._thread = threading.Thread(target=self._follow, name="nearfield derived", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        with suppress(NearfieldError):  # closed, dropped, damaged: whoever searches is told
            more = True
            while more:
                self._new = 0
                if self._filed:
                    self.index.follow(self._origin)
                if not self.columns.follow(self._origin) and not self._few:
                    self.columns.given.clear()
                self._words = self.text.follow(self._origin)
                if not self._words:
                    self.text.given.clear()
                more = self._new >= _MANY  # written meanwhile


def ahead(store: Store) -> Callable[[Transaction, State], None]:
    """For `compaction.compact`: publishes what is derived of a copy before it takes the collection's place, as far as
    the collection has it published. Then nobody has to wait for it to be made.
    """

    def publish(transaction: Transaction, copy: State) -> None:
        state = transaction.find(copy.name.partition(HIDDEN)[0])
        for kind in (LiveIndex, LiveColumns, LiveText):
            if state is not None and transaction.newest(state, kind.kind) is not None:
                thing: Published[Any] = kind(store)
                thing.make(transaction, copy)
                thing.publish()

    return publish
