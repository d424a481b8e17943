"""A process that is killed: it makes changes without end and says of each, once it was acknowledged, that it was.

Every change follows from the numbers of the life and of the change alone, so that the test can tell what must be there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DIMENSION = 16


class Change(NamedTuple):
    """Upsert `ids` with these vectors, or (without vectors) delete them."""

    ids: list[str]
    vectors: np.ndarray[Any, np.dtype[np.float32]] | None


def change(life: int, number: int, mixed: bool) -> Change:
    """The change of this number: one new record, or with `mixed` sometimes many, a replacement, a deletion."""
    random = np.random.default_rng([life, number])
    kind = int(random.integers(20)) if mixed else 0
    earlier = f"{life}.{number - int(random.integers(1, 9))}.0"
    if kind == 19:
        return Change([earlier, f"{life}.{number - 1}.0"], None)
    ids = [f"{life}.{number}.{i}" for i in range(90 if kind == 18 else 1)] + ([earlier] if kind in (16, 17) else [])
    return Change(ids, random.standard_normal((len(ids), DIMENSION), dtype=np.float32))


def document(id: str, number: int) -> str:
    return f"document of {id} as of {number} " + "x" * (number % 300)


class Fate:
    """Kills the process at the n-th step that is taken within a function from its m-th call on, in whatever thread.

    A step is a call of, or a return from, any function, also those of C: a statement of SQLite's, a write, an fsync.
    """

    def __init__(self, call: int, steps: int) -> None:
        self._first = call
        self._left = steps
        self._calls = 0

    def within(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._calls += 1
            before = sys.getprofile()
            sys.setprofile(self._step)
            try:
                return work(*arguments, **options)
            finally:
                sys.setprofile(before)

        return wrapped

    def _step(self, frame: Any, event: str, argument: Any) -> None:
        self._left -= self._calls >= self._first
        if self._left <= 0:  # below, where another thread stepped in between
            say(f"died in call {self._calls}")
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # no handler, no flush, no close


def say(what: object) -> None:
    """A line of several threads: it comes whole or not at all."""
    os.write(1, f"{what}\n".encode())


def main(path: str, life: int, mode: str, count: int, within: str, call: int, steps: int) -> None:
    import nearfield as nf
    from nearfield import checkpoint, compaction, live, transaction
    from nearfield.store import Store
    from nearfield.writing import Writer

    mixed = mode != "adds"
    checkpoint.CHANGES, checkpoint.LIMIT = 50, 1 << 18
    if mixed:
        transaction.SEAL_ROWS = 40
    if mode == "upkeep":
        compaction.PIECE_ROWS, compaction.DUE_ROWS = 20, 50
        live.LiveIndex.kind, live.WORTH_PUBLISHING = "hnsw", 20
    home: Any
    home, name = {
        "write": (Writer, "put"),
        "seal": (transaction.Transaction, "_seal"),
        "compact": (compaction, "compact"),
        "publish": (Store, "publish"),
        "checkpoint": (Store, "_move_log"),
        "": (Fate, "within"),
    }[within]
    collection = nf.open(path).collection("c", embedder=None)
    if within:
        setattr(home, name, Fate(call, steps).within(getattr(home, name)))
    for number in range(count):
        if mode == "upkeep" and number % 5 == 4:
            collection.compact()
            collection.search(np.ones(DIMENSION), k=1)  # a thread publishes an index
        ids, vectors = change(life, number, mixed)
        if vectors is None:
            collection.delete(ids)
        else:
            texts = [document(id, number) for id in ids]
            write = collection.upsert if mixed else collection.add
            write(texts, ids=ids, embeddings=vectors, metadatas=[{"number": number, "id": id} for id in ids])
        say(number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6]), int(sys.argv[7]))
