"""The dangers of company: stale answers, lost writes, locks that nobody holds, handles that die in fork or pickle."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from nearfield import live, schema, transaction
from nearfield.errors import InvalidInput, Locked, NotFound

DIMENSION = 8
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 50)


def vector(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector that belongs to a name, in every process."""
    return np.random.default_rng(list(name.encode())).standard_normal(DIMENSION, dtype=np.float32)


def add(collection: nf.Collection, names: list[str], **options: Any) -> None:
    collection.add(names, ids=names, embeddings=np.stack([vector(name) for name in names]), **options)


def equals_brute_force(collection: nf.Collection) -> None:
    """Search finds every record by its own vector, and nothing that is not there."""
    records = collection.get(include=["embeddings"])
    assert collection.count() == len(records) > 0
    stored = np.stack([record.embedding for record in records if record.embedding is not None])
    np.testing.assert_array_equal(stored, np.stack([vector(record.id.split("#")[0]) for record in records]))
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    for hits, row in zip(collection.search(stored[:50], k=3), unit[:50], strict=True):
        wanted = np.sort(unit @ row)[::-1][:3]
        assert hits.scores == pytest.approx(wanted.tolist(), abs=1e-5)
    assert len(collection.search(stored[0], k=10 * len(records))) == len(records)


# -- another process -------------------------------------------------------------------------------------------------

PEER = """
import sys
import nearfield as nf
from nearfield import transaction
sys.path.insert(0, sys.argv[2])
from test_processes import add, vector
transaction.SEAL_ROWS = 50
collection = nf.open(sys.argv[1]).collection("c", embedder=None)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except nf.errors.NearfieldError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Evaluates an expression in another process that has the same database open, and returns what it is there."""
    command = [sys.executable, "-c", PEER, str(tmp_path / "x.nf"), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(expression: str) -> str:
            process.stdin.write(expression + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        yield ask
        process.stdin.close()


def test_each_process_sees_at_once_what_the_other_was_acknowledged(tmp_path: Path, peer: Callable[[str], Any]) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        mine = db.collection("c", embedder=None)
        for i in range(60):  # over a seal in the middle
            add(mine, [f"mine {i}"])
            assert peer(f"collection.search(vector('mine {i}'), k=1).ids[0]") == f"mine {i}"
            assert peer(f"add(collection, ['peer {i}'])") == "None"
            assert mine.search(vector(f"peer {i}"), k=1)[0].document == f"peer {i}"
            assert mine.count() == int(peer("collection.count()")) == 2 * i + 2
        assert peer("collection.delete('mine 7')") == "1"
        assert "mine 7" not in mine.search(vector("mine 7"), k=200).ids
        mine.upsert(ids="peer 7", embeddings=vector("mine 7"))
        assert peer("collection.search(vector('mine 7'), k=1).ids") == "['peer 7']"
        mine.update("peer 8", metadatas={"seen": True}, documents="changed")
        assert peer("collection.search(vector('peer 8'), k=1, where={'seen': True})[0].document") == "changed"
        add(mine, [f"bulk {i}" for i in range(300)])
        assert peer("collection.search(vector('bulk 299'), k=1).ids[0]") == "bulk 299"
        db.drop("c")
        assert peer("collection.search(vector('bulk 299'))") == "NotFound"
        db.collection("c", embedder=None).add(embeddings=np.ones((3, DIMENSION + 1)))  # not the one it knew
        assert peer("collection.count()") == "NotFound"


def test_each_handle_of_one_process_sees_the_others(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as one, nf.open(tmp_path / "x.nf") as two:
        first, second = one.collection("c", embedder=None), two.collection("c", embedder=None)
        for i in range(120):
            writer, reader = (first, second) if i % 2 else (second, first)
            add(writer, [f"n {i}"])
            assert reader.search(vector(f"n {i}"), k=1).ids == [f"n {i}"]
            assert one.collection("c", embedder=None).count() == i + 1


def _create(path: str, name: str, start: Any) -> None:
    start.wait()
    with nf.open(path) as db:
        add(db.collection("c", embedder=None), [name])
        db.collection(name)


@needs_fork
def test_many_processes_may_make_the_database_at_the_same_moment(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")  # a fork starts in a millisecond: many tries at hitting the moment
    for attempt in range(15):
        path, start = str(tmp_path / f"{attempt}.nf"), fork.Barrier(6)
        _run([fork.Process(target=_create, args=(path, f"p{i}", start)) for i in range(6)])
        with nf.open(path) as db:
            assert db.collections() == ["c", *(f"p{i}" for i in range(6))]
            assert db.collection("c").count() == 6


def _run(processes: list[Any]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


# -- locks -----------------------------------------------------------------------------------------------------------


def test_a_writer_that_waits_too_long_is_told_and_readers_never_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "TIMEOUT", 0.3)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["a"])
        other = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Locked, match=r"another process has been writing for 0\.3 s"):
            add(collection, ["b"])
        assert collection.search(vector("a"), k=2).ids == ["a"]
        assert nf.open(tmp_path / "x.nf").collection("c").count() == 1  # opening does not wait either
        other.execute("COMMIT")
        other.close()
        add(collection, ["b"])
        assert collection.count() == 2


def test_a_thread_that_waits_for_another_process_does_not_hold_up_the_readers(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["a"])
        other = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = threading.Thread(target=add, args=(collection, ["b"]))
        waiting.start()
        time.sleep(0.1)
        for _ in range(20):
            assert collection.search(vector("a"), k=2).ids == ["a"]
        assert waiting.is_alive()  # it still waits, the searches did not
        other.execute("COMMIT")
        other.close()
        waiting.join(30)
        assert collection.count() == 2


# -- fork ------------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork; returns the child's pid. The child ends without closing anything, like a worker pool's."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def finished(children: list[int]) -> None:
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


@needs_fork
def test_parent_and_children_go_on_with_the_same_handle(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["parent"])
        assert collection.search(vector("parent"), k=1).ids == ["parent"]  # the index and its threads exist

        def work(name: str) -> Callable[[], None]:
            def run() -> None:
                assert collection.search(vector("parent"), k=1).ids == ["parent"]
                for i in range(30):
                    add(collection, [f"{name} {i}"])
                    assert collection.search(vector(f"{name} {i}"), k=1).ids == [f"{name} {i}"]

            return run

        children = [in_child(work(f"child {n}")) for n in range(4)]
        work("the parent")()
        finished(children)
        assert collection.count() == 151
        equals_brute_force(collection)


@needs_fork
def test_a_child_holds_real_locks_on_the_files_it_inherited(tmp_path: Path) -> None:
    """SQLite in a child believes to hold the parent's locks. The parent then closes as if it were the last user and
    deletes the WAL, into which the child goes on writing what it acknowledges."""
    db = nf.open(tmp_path / "x.nf")
    collection = db.collection("c", embedder=None)
    add(collection, ["parent"])
    (child_ready, ready), (go, child_go) = os.pipe(), os.pipe()

    def work() -> None:
        assert collection.count() == 1
        os.write(ready, b"x")
        os.read(go, 1)
        add(collection, ["child"])

    child = in_child(work)
    os.read(child_ready, 1)
    db.close()
    with nf.open(tmp_path / "x.nf") as again:
        add(again.collection("c", embedder=None), ["between"])
    os.write(child_go, b"x")
    finished([child])
    for descriptor in (child_ready, ready, go, child_go):
        os.close(descriptor)
    with nf.open(tmp_path / "x.nf") as again:
        assert [record.id for record in again.collection("c").get()] == ["parent", "between", "child"]


@needs_fork
def test_a_fork_in_the_middle_of_other_threads_work_inherits_nothing_half_done(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["first"])
        stop = threading.Event()

        def busy(name: str) -> None:
            i = 0
            while not stop.is_set():
                add(collection, [f"{name} {i}"])
                collection.search(vector("first"), k=3)
                i += 1

        threads = [threading.Thread(target=busy, args=(f"t{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            for n in range(10):
                finished([in_child(lambda n=n: _add_and_find(collection, f"child {n}"))])  # type: ignore[misc]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert {f"child {n}" for n in range(10)} <= {record.id for record in collection.get()}
        equals_brute_force(collection)


FORKS_WHILE_DAMAGE_IS_FOUND = """
import os, sys, threading, time, warnings
import nearfield as nf
from nearfield.store import Store

warnings.simplefilter("ignore")  # of the damage
collection = nf.open(sys.argv[1]).collection("c", embedder=None)
forget, found = Store.forget, threading.Event()

def at_the_wrong_moment(store, *what):
    found.set()
    while not store._barred:  # until the fork has begun
        time.sleep(0.001)
    forget(store, *what)

Store.forget = at_the_wrong_moment
counts = []
thread = threading.Thread(target=lambda: counts.append(collection.count({"n": {"$gte": 0}})))
thread.start()
assert found.wait(30)
child = os.fork()
if not child:
    os._exit(collection.count({"n": 1}) != 1)
thread.join()
assert (counts, os.waitpid(child, 0)[1]) == ([40], 0)
"""


@needs_fork
def test_a_fork_and_a_search_that_finds_an_index_damaged_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 10)
    with nf.open(tmp_path / "x.nf") as db:
        names = [f"name {n}" for n in range(40)]
        collection = db.collection("c", embedder=None)
        collection.add(ids=names, embeddings=[vector(name) for name in names], metadatas=[{"n": n} for n in range(40)])
        assert collection.count({"n": 7}) == 1
    (published,) = (tmp_path / "x.nf" / "indexes" / "c").glob("columns-*")
    damaged = bytearray(published.read_bytes())
    damaged[-1] ^= 1
    published.write_bytes(damaged)
    subprocess.run([sys.executable, "-c", FORKS_WHILE_DAMAGE_IS_FOUND, str(tmp_path / "x.nf")], check=True, timeout=120)
    with nf.open(tmp_path / "x.nf") as db:
        with pytest.warns(UserWarning, match="made again"):  # who was in the way of a fork left it as it was
            assert db.collection("c", embedder=None).count({"n": 7}) == 1
        assert db.verify() == []


@needs_fork
def test_a_database_in_memory_is_copied_by_a_fork(tmp_path: Path) -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["a"])
        finished([in_child(lambda: add(collection, ["b"]))])
        assert collection.count() == 1
        equals_brute_force(collection)


# -- pickle ----------------------------------------------------------------------------------------------------------


def _add_and_find(collection: nf.Collection, name: str) -> list[str]:
    add(collection, [name])
    found = collection.search(vector(name), k=1).ids
    assert found == [name]
    return found


def letters(texts: list[str]) -> list[list[float]]:
    return [[text.count("a"), text.count("b"), 1.0] for text in texts]


def test_handles_go_to_other_processes_in_a_pickle(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf", durability="relaxed") as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["a"])
        with SPAWN.Pool(2) as pool:
            names = [f"n {i}" for i in range(6)]
            assert pool.starmap(_add_and_find, [(collection, name) for name in names]) == [[name] for name in names]
        assert collection.count() == 7
        equals_brute_force(collection)


def test_a_pickled_handle_keeps_path_options_and_embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with nf.open("x.nf", durability="relaxed") as db:
        collection = db.collection("c", embedder=letters, metric="l2")
        collection.add(["aaa", "bbb"], ids=["a", "b"])
        data = pickle.dumps((db, collection))
        monkeypatch.chdir("/")
        db_again, again = pickle.loads(data)
        assert db_again.path == db.path
        assert db_again._store.durability == "relaxed"
        assert again.search("aa", k=1).ids == ["a"]
        assert again.metric == "l2"
        db_again.close()
        assert collection.count() == 2
        db.drop("c")
    with nf.open() as memory, pytest.raises(InvalidInput, match="in memory cannot be pickled"):
        pickle.dumps(memory.collection("c"))


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "x.nf"])
def test_sixteen_threads_share_one_handle(tmp_path: Path, path: str | None) -> None:
    with nf.open(tmp_path / path if path else None) as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["first"])

        def work(n: int) -> None:
            for i in range(25):
                name = f"{n} {i}"
                if n % 2:
                    add(collection, [name])
                    assert collection.search(vector(name), k=1).ids == [name]
                    if i % 5 == 4:
                        assert collection.delete([f"{n} {i - 1}"]) == 1
                        assert f"{n} {i - 1}" not in collection.search(vector(f"{n} {i - 1}"), k=3).ids
                else:
                    before = collection.count()
                    hits = collection.search(vector("first"), k=10_000)
                    assert len(hits) >= before - 8 * 5
                    assert hits.ids[0] == "first"
                    assert len(set(hits.ids)) == len(hits)
                    assert all(hit.document == hit.id for hit in hits)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert collection.count() == 1 + 8 * 25 - 8 * 5
        equals_brute_force(collection)


@pytest.mark.parametrize("path", [None, "x.nf"])
def test_searches_on_one_handle_run_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    """Each waits within the index until all the others are there too."""
    with nf.open(tmp_path / path if path else None) as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["a", "b"])
        collection.search(vector("a"), k=1)
        together = threading.Barrier(16)
        search = nf.Index.search

        def waiting(*arguments: Any, **options: Any) -> Any:
            together.wait(30)
            return search(*arguments, **options)

        monkeypatch.setattr(nf.Index, "search", waiting)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda _: collection.search(vector("a"), k=1).ids, range(16))) == [["a"]] * 16


def test_threads_read_one_database_in_memory_while_others_write() -> None:
    """They share a connection: each must get its own rows, of one moment."""
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        names = [f"n {i}" for i in range(300)]
        add(collection, names, metadatas=[{"n": i, "name": name} for i, name in enumerate(names)])
        stop = threading.Event()

        def read(n: int) -> None:
            random, at = np.random.default_rng(n), 0
            while not stop.is_set() or at < 20:
                at += 1
                some = [names[i] for i in random.permutation(200)[:20]]
                assert [record.id for record in collection.get(some)] == some
                assert [record.document for record in collection.get(some)] == some
                low = int(random.integers(190))
                found = collection.get(where={"n": {"$gte": low, "$lt": low + 7}})
                assert [record.metadata["name"] for record in found] == names[low : low + 7]
                assert [hits.ids[0] for hits in collection.search(np.stack(list(map(vector, some))), k=1)] == some
                moved = [record.metadata["pair"] for record in collection.get(where={"pair": {"$exists": True}})]
                assert len(moved) in (0, 2)
                assert len(set(moved)) <= 1  # both or none, and of one write

        def write() -> None:
            try:
                for i in range(60):
                    collection.upsert(
                        ids=["left", "right"], embeddings=np.ones((2, DIMENSION)), metadatas=[{"pair": i}] * 2
                    )
                    add(collection, [f"more {i}"])
            finally:
                stop.set()

        with ThreadPoolExecutor(9) as pool:
            for done in [pool.submit(write), *(pool.submit(read, n) for n in range(8))]:
                done.result(200)
        assert collection.count() == 362


def test_a_sqlite_without_locks_of_its_own_is_read_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "threadsafety", 1)
    test_threads_read_one_database_in_memory_while_others_write()


# -- everything at once ----------------------------------------------------------------------------------------------


def _writer(path: str, name: str, seconds: float) -> None:
    transaction.SEAL_ROWS = 50
    collection = nf.open(path).collection("c", embedder=None)
    end = time.monotonic() + seconds
    i = 0
    while time.monotonic() < end:
        names = [f"{name} {i}#{j}" for j in range(1 if i % 10 else 70)]
        same = np.stack([vector(f"{name} {i}")] * len(names))
        collection.add(names, ids=names, embeddings=same)
        assert collection.search(vector(f"{name} {i}"), k=1).ids[0].startswith(f"{name} {i}#")
        if i % 7 == 6:
            assert collection.delete(f"{name} {i - 1}#0") == 1
        i += 1
    (Path(path) / f"{name}.count").write_text(str(collection.count(where={}) and i))


def _reader(path: str, name: str, seconds: float) -> None:
    db = nf.open(path)
    collection = db.collection("c", embedder=None)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with db._store.reading() as view:  # what is acknowledged now
            seen = view.state(collection._id, "c")
        hits = collection.search(vector("first"), k=2)
        assert hits.ids[0] == "first"
        newer = collection._state()
        assert newer.next_row >= seen.next_row
        assert collection.get(hits.ids[0])[0].document == "first"


def crowd(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "x.nf"
    with nf.open(path) as db:
        collection = db.collection("c", embedder=None)
        add(collection, ["first"])
        processes = [
            SPAWN.Process(target=target, args=(str(path), f"{kind}{n}", seconds))
            for kind, target in (("w", _writer), ("r", _reader))
            for n in range(4)
        ]
        _run(processes)
        expected = 1
        for n in range(4):
            rounds = int((path / f"w{n}.count").read_text())
            expected += sum(1 if i % 10 else 70 for i in range(rounds)) - rounds // 7
        assert collection.count() == expected
        equals_brute_force(collection)


def test_four_writers_and_four_readers(tmp_path: Path) -> None:
    crowd(tmp_path, 3)


@pytest.mark.soak
def test_four_writers_and_four_readers_for_a_minute(tmp_path: Path) -> None:
    crowd(tmp_path, 60)


def test_a_dropped_collection_is_gone_for_every_handle(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as one, nf.open(tmp_path / "x.nf") as two:
        collection = one.collection("c", embedder=None)
        add(collection, [f"{i}" for i in range(60)])
        two.drop("c")
        for use in (collection.count, collection.get, lambda: add(collection, ["x"]), lambda: collection.delete("x")):
            with pytest.raises(NotFound, match="was dropped"):
                use()
        assert one.collections() == []


LAST = """
import sys
import nearfield as nf
with nf.open(sys.argv[1]) as db:
    print(db.collection("c", embedder=None).count())
"""


def test_a_second_handle_takes_the_locks_of_the_first_and_another_process_its_writes(tmp_path: Path) -> None:
    """Locks of a file end when any descriptor of it is closed, whoever in the process opened it. SQLite without them
    lets the next process that closes the database remove the WAL, which is in use here.
    """

    def seen_by_another() -> int:
        command = [sys.executable, "-c", LAST, str(tmp_path / "x.nf")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids="1", embeddings=np.ones(4))
        second = nf.open(tmp_path / "x.nf")
        db.snapshot("s")
        db.backup(tmp_path / "b.nf")
        nf.open(tmp_path / "x.nf", snapshot="s").close()
        assert db.verify() == []
        assert seen_by_another() == 1
        collection.add(ids="2", embeddings=np.ones(4))
        assert seen_by_another() == 2
        second.close()
        assert seen_by_another() == 2
        collection.add(ids="3", embeddings=np.ones(4))
        assert seen_by_another() == 3


LEFT_OPEN = """
import sys, threading, weakref
import numpy as np
import nearfield as nf

def made(name):
    path = None if name is None else sys.argv[1] + "/" + name
    db = nf.open(path)
    collection = db.collection("c", embedder=None)
    collection.add([f"text {i}" for i in range(50)], embeddings=np.random.rand(50, 4), metadatas=[{"n": 1}] * 50)
    collection.search([1, 2, 3, 4], where={"n": 1})
    collection.search([1, 2, 3, 4])
    return db, collection

class Owner:
    def __init__(self, name):
        self.db, self.collection = made(name)
        self.me = self
    def __del__(self):
        try:
            self.collection.count()
        except BaseException:
            pass

kept_global = made("global"), made(None)
sys.kept_elsewhere = made("sys")
np.kept_in_numpy = Owner("numpy")
nf.kept_in_nearfield = Owner("nearfield")
cycle = Owner("cycle")
del cycle
scan = kept_global[0][1].scan(batch=7)
next(scan)
view = kept_global[0][0]._store.reading()
view.__enter__()

def busy(name):
    db, collection = made(name)
    ready.release()
    while True:
        collection.search(np.random.rand(30, 4), k=20)
        collection.add(embeddings=np.random.rand(2, 4))

ready = threading.Semaphore(0)
for name in ("busy 1", "busy 2", None):
    threading.Thread(target=busy, args=(name,), daemon=True).start()
    ready.acquire()
try:
    made("half").nothing
except AttributeError as error:
    kept_error = error
sys.exit(3)
"""


def test_handles_that_are_left_open_make_noise_at_the_end_of_the_interpreter(tmp_path: Path) -> None:
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", LEFT_OPEN, str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (run.stderr, run.stdout, run.returncode) == ("", "", 3)
        for path in folder.iterdir():
            with nf.open(path) as db:
                assert db.verify() == []
