"""The dangers of derived indexes: one that is stale, damaged, half written, or removed under a reader."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nearfield as nf
from databases import DIMENSION, filled, intact, vectors
from nearfield import live, transaction
from nearfield.errors import DiskFull
from nearfield.store import Store
from nearfield.transaction import State


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)


def state_of(store: Store) -> State:
    with store.reading() as view:
        found = view.find("c")
    assert found is not None
    return found


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def indexes(path: Path, kind: str = "") -> list[str]:
    return sorted(file.name for file in (path / "indexes").rglob(f"{kind}*") if file.is_file())


def test_the_newest_generation_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    state = state_of(store)
    assert store.newest(state, "columns") is None
    assert store.publish(state, "columns", 4, 0, text("one"))
    assert store.publish(state, "hnsw", 10, 0, text("other"))
    assert store.publish(state, "columns", 10, 0, text("two"))
    found = store.newest(state, "columns")
    assert found is not None
    assert (found.path.read_text(), found.next_row, found.seq) == ("two", 10, 0)
    assert indexes(tmp_path / "x.nf") == ["columns-000002.nfi", "hnsw-000001.nfi"]
    store.forget(state, "columns", found)
    assert store.newest(state, "columns") is None
    assert indexes(tmp_path / "x.nf") == ["hnsw-000001.nfi"]
    store.close()


def test_a_failed_publication_leaves_the_one_before(tmp_path: Path) -> None:
    made = filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    state = state_of(store)
    assert store.publish(state, "columns", 4, 0, text("one"))

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="make room"):
        store.publish(state, "columns", 10, 0, full)
    assert indexes(tmp_path / "x.nf") == ["columns-000001.nfi"]
    found = store.newest(state, "columns")
    assert found is not None
    assert found.next_row == 4
    store.close()
    intact(tmp_path / "x.nf", made)


def test_an_index_of_a_dropped_collection_is_not_published(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    state = state_of(store)
    with nf.open(tmp_path / "x.nf") as other:
        other.drop("c")
    assert not store.publish(state, "columns", 10, 0, text("late"))
    assert indexes(tmp_path / "x.nf") == []
    store.close()


HOLDER = """
import sys
from pathlib import Path
from nearfield.maintenance import MaintenanceLock
assert MaintenanceLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_only_the_holder_of_the_maintenance_lock_publishes_and_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    state = state_of(store)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "x.nf")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not store.publish(state, "columns", 10, 0, text("mine"))
        holder.kill()
    assert store.publish(state, "columns", 10, 0, text("mine"))
    with store.maintaining() as held, store.maintaining() as again:
        assert held
        assert again
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(store.publish(state, "columns", 10, 0, text("no"))))
        thread.start()
        thread.join()
        assert seen == [False]
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_holds_nor_breaks_the_maintenance_lock(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    state = state_of(store)
    with store.maintaining() as held:
        assert held
        child = os.fork()
        if not child:
            os._exit(int(store.publish(state, "columns", 10, 0, text("child"))))
        assert os.waitpid(child, 0)[1] == 0  # it could not: the parent holds the lock
        other = Store(tmp_path / "x.nf")
        assert not other.publish(state, "columns", 10, 0, text("other"))
        other.close()
    store.close()


def test_a_file_that_a_reader_may_still_open_is_not_removed(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    store = Store(tmp_path / "x.nf")
    with store.reading() as view:
        state = view.find("c")
        assert state is not None
        with nf.open(tmp_path / "x.nf") as other:
            other.drop("c")
            assert [first for first, _ in view.vectors(state)] == [0]  # the file of this view is there
    store.close()
    with nf.open(tmp_path / "x.nf"):
        assert not (tmp_path / "x.nf" / "vectors" / "c").exists()  # and now it is not


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.LiveIndex, "kind", "hnsw")
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 20)


def test_a_published_graph_is_opened_and_brought_up_to_date(
    tmp_path: Path, graphs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = vectors(60)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[str(i) for i in range(40)], embeddings=made[:40])
        collection.search(made[0])
        collection._derived.finish()
        assert indexes(tmp_path / "x.nf") == ["columns-000001.nfi", "hnsw-000001.nfi"]
        collection.add(ids=[str(i) for i in range(40, 60)], embeddings=made[40:])
        collection.delete(["3", "50"])
        collection.upsert(ids="7", embeddings=made[3])
    read: list[int] = []
    parts = transaction.Transaction.sealed

    def counted(self: Any, state: State, first_row: int = 0) -> Any:
        read.append(first_row)
        return parts(self, state, first_row)

    monkeypatch.setattr(transaction.Transaction, "sealed", counted)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        assert collection.search(made[3], k=1, exact=True).ids == ["7"]
        assert collection.search(made[55], k=1, exact=True).ids == ["55"]
        assert sorted(collection.search(made[0], k=99, exact=True).ids, key=int) == sorted(
            {str(i) for i in range(60)} - {"3", "50"}, key=int
        )
        assert read == [40]  # the rows before came from the file


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "other rows"])
def test_a_damaged_generation_is_named_dropped_and_made_again(tmp_path: Path, graphs: None, damage: str) -> None:
    made = vectors(40)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[str(i) for i in range(40)], embeddings=made)
        wanted = collection.search(made[5], k=7).ids
    file = tmp_path / "x.nf" / "indexes" / "c" / "hnsw-000001.nfi"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-9])
    elif damage == "gone":
        file.unlink()
    else:
        short = nf.Index(DIMENSION, kind="hnsw")
        short.add(made[:39])
        short.save(file)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        with pytest.warns(UserWarning, match=r"a published index is not used, but made again"):
            assert collection.search(made[5], k=7).ids == wanted
        assert collection.search(made[5], k=7).ids == wanted
        collection._derived.finish()
        assert indexes(tmp_path / "x.nf", "hnsw") == (["hnsw-000001.nfi"] if damage == "gone" else ["hnsw-000002.nfi"])
    with warnings.catch_warnings(), nf.open(tmp_path / "x.nf") as db:
        warnings.simplefilter("error")
        assert db.collection("c", embedder=None).search(made[5], k=7).ids == wanted


@pytest.mark.parametrize("column", ["next_row", "seq", "number"])
def test_a_damaged_entry_of_a_generation_is_not_believed(tmp_path: Path, graphs: None, column: str) -> None:
    made = vectors(40)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[str(i) for i in range(40)], embeddings=made)
        wanted = collection.search(made[5], k=40).ids
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    catalog.execute(f"UPDATE generations SET {column} = {column} + 1")
    catalog.commit()
    catalog.close()
    with nf.open(tmp_path / "x.nf") as db:
        assert db.collection("c", embedder=None).search(made[5], k=40).ids == wanted


def test_a_search_that_was_overtaken_takes_a_new_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the view of one search and its look at the index, another thread adds and searches."""
    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.search(made[0])
        search = live.LiveIndex.search
        overtaken: list[threading.Thread] = []

        def slow(self: Any, *arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread() and len(overtaken) < 10:

                def other() -> None:
                    collection.delete(collection.peek(1)[0].id)
                    collection.add(embeddings=made[:1], ids=f"new {threading.get_ident()} {len(overtaken)}")
                    collection.search(made[0], k=20)

                thread = threading.Thread(target=other)
                overtaken.append(thread)
                thread.start()
                thread.join(1 if len(overtaken) > live._TRIES else None)  # by then the gate is ours, and it waits
            return search(self, *arguments, **options)

        monkeypatch.setattr(live.LiveIndex, "search", slow)
        hits = collection.search(made[0], k=20)
        assert len(overtaken) == live._TRIES + 1
        assert len(hits) == 10
        assert len(set(hits.ids)) == 10
        overtaken[-1].join()


def test_a_compaction_publishes_the_index_of_what_it_made(
    tmp_path: Path, graphs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every process would have to build it again, and that of words and metadata too."""
    made = vectors(60)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        names = [str(i) for i in range(60)]
        collection.add(names, ids=names, embeddings=made, metadatas=[{"n": i} for i in range(60)])
        collection.search(made[0])
        collection.search("7", mode="lexical")
        collection.delete([str(i) for i in range(20)])
        wanted = collection.search(made[30], k=40).ids
        collection._derived.finish()
        collection.compact()
        made_again = [f"{kind}-000002.nfi" for kind in ("columns", "hnsw", "text")]
        assert indexes(tmp_path / "x.nf") == made_again
        for part in ("vectors", "metadata", "piece"):  # not needed
            monkeypatch.setattr(transaction.Transaction, part, None)
        for db_again in (db, nf.open(tmp_path / "x.nf")):
            collection = db_again.collection("c", embedder=None)
            assert collection.search(made[30], k=40).ids == wanted
            assert collection.count({"n": {"$lt": 25}}) == 5
            assert collection.search("20", mode="lexical").ids == ["20"]
        db_again.close()
