"""A process whose power fails: it changes two collections in every way there is, and prints the number of each change.

Run in the test too, on a database in memory, it tells what must be there after each change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import nearfield as nf
from nearfield import checkpoint, compaction, live, transaction


def vectors(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 4), dtype=np.float32)


def changes(db: nf.Database) -> Iterator[Callable[[], object]]:
    """The changes, one after the other; each must be made before the next is asked for."""

    def c() -> nf.Collection:
        return db.collection("c", embedder=None)

    def several(count: int, seed: int) -> Callable[[], object]:
        ids = [f"{seed} {i}" for i in range(count)]
        texts = [f"text {id}" for id in ids]
        return lambda: c().upsert(texts, ids=ids, embeddings=vectors(count, seed), metadatas=[{"n": seed}] * count)

    yield c
    yield several(1, 0)
    yield several(2, 1)
    yield several(20, 2)  # sealed at once
    yield several(5, 3)
    yield lambda: c().delete(["2 3", "2 4", "3 1"])
    yield lambda: c().update("2 5", documents="changed", metadatas={"n": 9})
    yield several(5, 3)  # replaced, and sealed with what was there
    yield lambda: db.collection("d", embedder=None)
    yield lambda: db.collection("d", embedder=None).add(ids=[str(i) for i in range(9)], embeddings=vectors(9, 8))
    if db.path is not None:
        yield c().compact
        yield lambda: c().search(vectors(1, 0)[0])  # publishes an index
    else:
        yield lambda: None
        yield lambda: None
    yield several(3, 4)
    yield lambda: db.rename("d", "e")
    yield lambda: db.drop("e")
    yield several(12, 5)
    yield lambda: c().delete(where={"n": {"$in": [2, 5]}})
    yield c().compact if db.path is not None else lambda: None
    yield several(1, 6)


def small() -> None:
    transaction.SEAL_ROWS = 8
    compaction.PIECE_ROWS = 6
    live.LiveIndex.kind = "hnsw"
    live.WORTH_PUBLISHING = 10


def main(path: str, durability: Any) -> None:
    small()
    if durability == "full":  # else checkpoints would sync what is to be lost
        checkpoint.CHANGES, checkpoint.LIMIT = 20, 1 << 16
    with nf.open(path, durability=durability) as db:
        os.write(1, b".")
        for change in changes(db):
            change()
            os.write(1, b".")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
