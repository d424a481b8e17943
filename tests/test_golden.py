"""The danger: a later nearfield that cannot read what an earlier one wrote. The database in `golden` never changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from nearfield import compaction, live, transaction

GOLDEN = Path(__file__).parent / "golden"
TEXTS = [
    "The cat sat on the mat.",
    "Äpfel, Öl und Übermut",
    "",
    "日本語のテキスト",
    "line\nbreak\ttab \x01",
    "x" * 5000,
]


def vectors(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Small whole numbers, the same everywhere."""
    return ((np.arange(count * 6) * (7 + seed) + seed) % 23 - 11).reshape(count, 6).astype(np.float32)


def fill(db: nf.Database) -> None:
    """What made the golden database; in memory, it says what must be in it. Not to be changed."""
    for name, metric in (("cats", "cosine"), ("Dogs-2", "l2"), ("dot.s", "dot")):
        collection = db.collection(name, metric=metric, embedder=None)  # type: ignore[arg-type]
        ids = [f"id {i}" for i in range(30)]
        metadatas = [
            {"n": i, "x": i / 4, "b": i % 2 == 0, "s": f"ü{i}", "none": None, "l": [i, "a"]} for i in range(30)
        ]
        collection.add([TEXTS[i % 6] for i in range(30)], ids=ids, embeddings=vectors(30, 0), metadatas=metadatas)
        collection.add(ids=["日本", "a'b\"c"], embeddings=vectors(2, 1))
        collection.delete(["id 3", "id 4"])
        collection.update("id 5", documents="changed", metadatas={"n": 500})
        collection.upsert(ids="id 6", embeddings=vectors(1, 2))
    db.collection("cats", embedder=None).compact()
    db.collection("cats", embedder=None).delete("id 7")
    db.collection("cats", embedder=None).search(vectors(1, 0)[0])
    db.collection("empty", embedder=None, dimension=9)
    db.collection("dropped", embedder=None).add(embeddings=vectors(9, 3))
    db.drop("dropped")
    db.rename("Dogs-2", "dogs")


def contents(db: nf.Database) -> Any:
    found = {}
    for name in db.collections():
        collection = db.collection(name, embedder=None)
        records = collection.get(include=["documents", "metadatas", "embeddings"])
        hits = collection.search(vectors(5, 4), k=40, exact=True) if collection.dimension == 6 else []
        facts = (collection.metric, collection.dimension, collection.embedder_identity, collection.count())
        found[name] = (*facts, [record.to_dict() for record in records], [h.to_dicts() for h in hits])
    return found


@pytest.mark.filterwarnings("ignore:a published index is not used")  # it is derived: a later version may make it again
@pytest.mark.parametrize("version", [1])
def test_a_database_of_format_version_1_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    monkeypatch.setattr(live.LiveIndex, "kind", "hnsw")
    shutil.copytree(GOLDEN / f"version-{version}", tmp_path / "x.nf")
    with nf.open() as memory, nf.open(tmp_path / "x.nf") as db:
        fill(memory)
        wanted = contents(memory)
        assert db.verify() == []
        assert contents(db) == wanted
        with nf.open(tmp_path / "x.nf", snapshot="before") as old:
            assert old.collections() == ["cats", "dogs", "dot.s", "empty"]
            assert contents(old) == wanted
        for one in (memory, db):
            one.collection("cats", embedder=None).upsert(ids=["id 8", "new"], embeddings=vectors(2, 5))
            one.compact()
        assert contents(db) == contents(memory)
        assert db.verify() == []


def make(path: Path) -> None:
    """Write a golden database, for a version that has none yet."""
    transaction.SEAL_ROWS, compaction.PIECE_ROWS = 16, 8
    live.LiveIndex.kind, live.WORTH_PUBLISHING = "hnsw", 10
    with nf.open(path) as db:
        fill(db)
        db.snapshot("before")


if __name__ == "__main__":
    make(GOLDEN / "version-1")
