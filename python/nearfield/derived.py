"""What a process keeps in memory of one collection: all of it made from the catalog, none of it needed on the disk."""

from __future__ import annotations

import threading

from nearfield.columns import LiveColumns
from nearfield.live import LiveIndex
from nearfield.live_text import LiveText
from nearfield.store import Store


class Derived:
    """An index of the vectors, one of the words, and columns of the metadata, for all handles of a collection.

    They are used together, so they have one gate: see `live.consistent`.
    """

    def __init__(self, store: Store) -> None:
        self.gate = threading.RLock()
        self.index = LiveIndex(store, self.gate)
        self.columns = LiveColumns(store, self.gate)
        self.text = LiveText(store, self.gate)
