"""The danger: work of a thread that is lost, comes in another order, hides its error, or goes on for ever."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from nearfield import transaction
from nearfield.beside import Task, prefetched


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_items_are_lost_or_come_in_another_order(count: int) -> None:
    assert list(prefetched(range(count))) == list(range(count))


@pytest.mark.parametrize("wrong", [0, 1, 2, 9])
def test_an_error_is_swallowed_or_comes_too_early(wrong: int) -> None:
    def items() -> Iterator[int]:
        yield from range(wrong)
        raise ValueError(f"no {wrong}")

    found = prefetched(items())
    assert list(itertools.islice(found, wrong)) == list(range(wrong))
    with pytest.raises(ValueError, match=f"no {wrong}"):
        next(found)


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_things_are_made_for_ever_after_nobody_wants_them(taken: int) -> None:
    made = []
    items = prefetched(made.append(n) or n for n in itertools.count())
    assert list(itertools.islice(items, taken)) == list(range(taken))
    items.close()  # would never return
    count = len(made)
    assert count <= taken + 3
    assert next(items, None) is None
    assert len(made) == count


def test_a_result_is_asked_for_before_it_is_there() -> None:
    go = threading.Event()
    task = Task(lambda: go.wait(30) and "made")
    threading.Timer(0.05, go.set).start()
    assert task.result() == "made"
    assert task.result() == "made"
    failed = Task(lambda: 1 // 0)
    failed.wait()
    with pytest.raises(ZeroDivisionError):
        failed.result()


@pytest.mark.parametrize("allowed", [999, 100_000])
def test_records_of_a_large_add_are_mixed_or_half_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """Whether many go into a statement, as new SQLites allow it, or few."""
    monkeypatch.setattr(transaction, "_PARAMETERS", allowed)
    count = transaction.SEAL_ROWS + 600  # one whole statement after the other, and a rest
    ids = [f"id {n}" for n in range(2 * count)]
    vectors = np.arange(count, dtype=np.float32)[:, None] + 1
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None, metric="dot")
        for first in (0, count):
            new = ids[first : first + count]
            collection.add(
                [f"text {id}" for id in new], ids=new, embeddings=vectors, metadatas=[{"id": id} for id in new]
            )
        with pytest.raises(nf.errors.AlreadyExists, match="'id 7'"):
            collection.add(ids=[*(f"new {n}" for n in range(count - 1)), "id 7"], embeddings=vectors)
        assert collection.count() == 2 * count
        records = collection.get()
        assert [record.id for record in records] == ids
        assert all(record.document == f"text {record.id}" for record in records)
        assert all(record.metadata == {"id": record.id} for record in records)
        assert db.verify() == []
        assert len(list((tmp_path / "x.nf" / "vectors" / "c").iterdir())) == 2  # none of what failed


@pytest.mark.parametrize("wrong", [0, 1500, transaction.SEAL_ROWS + 599])
def test_metadata_that_is_refused_late_leaves_something_behind(tmp_path: Path, wrong: int) -> None:
    """It becomes JSON while records and vectors are being stored."""
    count = transaction.SEAL_ROWS + 600
    ids, vectors = [f"id {n}" for n in range(count)], np.ones((count, 2), dtype=np.float32)
    good: list[Any] = [{"n": n} if n % 3 else None for n in range(count)]
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        with pytest.raises(nf.errors.InvalidInput, match=rf"metadatas\[{wrong}\]\['n'\]"):
            collection.add(ids=ids, embeddings=vectors, metadatas=[*good[:wrong], {"n": object()}, *good[wrong + 1 :]])
        with pytest.raises(nf.errors.InvalidInput, match=rf"metadatas\[{wrong}\] must be a dictionary"):
            collection.upsert(ids=ids, embeddings=vectors, metadatas=[*good[:wrong], 7, *good[wrong + 1 :]])
        assert collection.count() == 0
        assert not any(path.is_file() for path in (tmp_path / "x.nf" / "vectors").rglob("*"))
        collection.add(ids=ids, embeddings=np.ones((count, 3), dtype=np.float32), metadatas=good)  # of other vectors
        assert [record.metadata for record in collection.get()] == [metadata or {} for metadata in good]
        assert db.verify() == []
