"""Small databases, and an embedder that one can compute by hand, for the tests of store and collection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nearfield as nf

DIMENSION = 4


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)


def filled(path: Path, count: int = 10) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A database with one collection "c" of `count` records "0", "1", …"""
    made = vectors(count)
    with nf.open(path) as db:
        db.collection("c", embedder=None).add(
            [f"text {i}" for i in range(count)],
            ids=[str(i) for i in range(count)],
            embeddings=made,
            metadatas=[{"n": i} for i in range(count)],
        )
    return made


def files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "vectors").rglob("*") if file.is_file())


def intact(path: Path, made: np.ndarray[Any, Any]) -> None:
    """The database at `path` holds what `filled` put there, and nothing else."""
    with nf.open(path) as db:
        collection = db.collection("c", embedder=None)
        records = collection.get(include=["documents", "metadatas", "embeddings"])
        assert [record.id for record in records] == [str(i) for i in range(len(made))]
        assert [record.metadata for record in records] == [{"n": i} for i in range(len(made))]
        np.testing.assert_array_equal(np.stack([record.embedding for record in records]), made)
        assert collection.search(made[3], k=1).ids == ["3"]
    check = sqlite3.connect(path / "catalog.sqlite")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert check.execute("PRAGMA foreign_key_check").fetchone() is None
    check.close()


class Letters:
    """An embedder that one can compute by hand: how often a, b, c, and anything else occur."""

    def __init__(self, identity: str = "letters:1", alphabet: str = "abc") -> None:
        self.identity, self.alphabet = identity, alphabet
        self.dimension, self.max_tokens = len(alphabet) + 1, None
        self.calls: list[list[str]] = []

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        self.calls.append(list(texts))
        counts = [[text.count(letter) for letter in self.alphabet] for text in texts]
        return np.array([[*row, 1 + len(text) - sum(row)] for row, text in zip(counts, texts, strict=True)], dtype="f4")

    encode_queries = encode_documents


def snapshot(collection: nf.Collection) -> Any:
    records = collection.get(include=["documents", "metadatas", "embeddings"])
    return [record.to_dict() for record in records], collection.count(), collection.dimension
