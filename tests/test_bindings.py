"""The dangers between Python and the core: signals, forks, threads, odd arrays, damaged files."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
import oracle
from nearfield import errors

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((60, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 12)).astype(np.float32)

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")


def script(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def filled(metric: str = "cosine") -> nf.Index:
    index = nf.Index(12, metric)
    index.add(ROWS, ids=np.arange(60)[::-1] * 5)
    index.remove([5, 100, 295])
    return index


def same(one: nf.Index, other: nf.Index) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.search(QUERIES, 70), other.search(QUERIES, 70), strict=True))


# Signals, forks, threads


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_a_long_search(threads: int) -> None:
    """It is interrupted after a tenth of the time that it would take, and has ended before half of that."""
    child = script(f"""
        import os, signal, threading, time, numpy as np, nearfield as nf
        rng = np.random.default_rng(0)
        index = nf.Index(384, threads={threads})
        rows = rng.standard_normal((100_000, 384), dtype=np.float32)
        index.add(rows)
        begin = time.perf_counter()
        before = index.search(rows[:1000])
        whole = 100 * (time.perf_counter() - begin)
        begin = time.perf_counter()
        try:
            threading.Timer(whole / 10, os.kill, (os.getpid(), signal.SIGINT)).start()
            index.search(rows)
            print("not interrupted", flush=True)
        except KeyboardInterrupt:
            print("in time" if time.perf_counter() - begin < whole / 2 else "too late", flush=True)
        after = index.search(rows[:1000])
        print(len(index) == 100_000 and all(np.array_equal(a, b) for a, b in zip(before, after)), flush=True)
    """)
    try:
        output, trouble = child.communicate(timeout=280)
        assert output == "in time\nTrue\n", output + trouble
    finally:
        child.kill()


@posix
def test_a_forked_child_searches_too() -> None:
    """A thread pool does not survive fork(): a child that inherits one waits for workers that are not there."""
    child = script("""
        import os, numpy as np, nearfield as nf
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((30_000, 64), dtype=np.float32)
        index = nf.Index(64, threads=4)
        index.add(rows)
        want = [index.search(rows[:64]), index.search(rows[0])]
        for generation in range(2):  # and a child of the child
            pid = os.fork()
            if pid:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            got = [index.search(rows[:64]), index.search(rows[0])]
            assert all(np.array_equal(a, b) for x, y in zip(want, got) for a, b in zip(x, y))
            index.remove(index.add(rows[:10]))
            assert len(index) == 30_000
        print("child done", flush=True)
        os._exit(0)
    """)
    try:
        output, trouble = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, trouble
    assert output == "child done\n", trouble


def test_other_threads_run_during_a_search() -> None:
    rows = RNG.standard_normal((20_000, 256)).astype(np.float32)
    index = nf.Index(256, threads=1)
    index.add(rows)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    def ran_in_the_middle() -> bool:
        begin = time.perf_counter()
        index.search(rows[:4000], 10)
        end = time.perf_counter()
        return any(begin + 0.25 * (end - begin) < t < end - 0.25 * (end - begin) for t in ticks)

    thread = threading.Thread(target=tick)
    thread.start()
    try:  # on a busy core the other thread may have to wait for its turn, but not every time
        ran = any(ran_in_the_middle() for _ in range(50))
    finally:
        done.set()
        thread.join()
    assert ran, "no other thread ran in the middle half of any search: the GIL was held"


def test_readers_see_whole_additions_only() -> None:
    """Eight threads search while rows are added: each answer is that of some of the additions, never a torn one."""
    chunks = [RNG.standard_normal((40, 12)).astype(np.float32) * (1 + n / 10) for n in range(25)]
    index = nf.Index(12, "dot")
    wanted = [index.search(QUERIES[0], 8)[0].tolist()]
    whole = nf.Index(12, "dot")
    for chunk in chunks:
        whole.add(chunk)
        wanted.append(whole.search(QUERIES[0], 8)[0].tolist())
    wrong: list[Any] = []
    done = threading.Event()

    def read() -> None:
        reached = 0
        try:
            while not done.is_set():
                got = index.search(QUERIES[0], 8)[0].tolist()
                if got not in wanted[reached:]:
                    wrong.append(got)
                    return
                reached = wanted.index(got, reached)
        except Exception as error:  # an exception in a thread must fail the test, not vanish
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for chunk in chunks:
        index.add(chunk)
        time.sleep(0.002)
    done.set()
    for reader in readers:
        reader.join(60)
    assert not any(reader.is_alive() for reader in readers)
    assert not wrong
    assert index.search(QUERIES[0], 8)[0].tolist() == wanted[-1]


def test_many_threads_add_and_remove_at_once() -> None:
    index = nf.Index(12)
    trouble: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                ids = index.add(ROWS[:7], ids=np.arange(7) + 1000 * number + 10 * turn)
                index.search(QUERIES, 3)
                index.remove(ids[:4])
        except Exception as error:
            trouble.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not trouble
    assert len(index) == 8 * 20 * 3
    assert index.search(ROWS[6], 1)[0][0] % 10 == 6


# Arrays of every shape of memory


@pytest.mark.parametrize(
    "dress",
    [
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: np.repeat(a, 3, axis=1)[:, ::3],
        lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: a.tolist(),
        lambda a: [np.array(row) for row in a],
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
        lambda a: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape),
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides),
    ],
    ids=[
        "fortran",
        "every other row",
        "every third column",
        "reversed",
        "float64",
        "big-endian",
        "lists",
        "list of rows",
        "unaligned",
        "read-only",
        "strided",
    ],
)
def test_an_array_counts_by_its_values(dress: Callable[[Any], Any]) -> None:
    plain, dressed = nf.Index(12), nf.Index(12)
    plain.add(ROWS)
    dressed.add(dress(ROWS))
    oracle.assert_equal(dressed.search(dress(QUERIES), 9), plain.search(QUERIES, 9))


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int64, np.uint8])
def test_narrow_numbers_are_widened(dtype: type) -> None:
    rows = (ROWS * 20).astype(np.int8).astype(dtype)
    plain, narrow = nf.Index(12), nf.Index(12)
    plain.add(rows.astype(np.float32))
    narrow.add(rows)
    oracle.assert_equal(narrow.search(rows[:4], 9), plain.search(rows[:4].astype(np.float32), 9))


def test_a_query_of_strides_zero() -> None:
    index = filled()
    many = np.broadcast_to(QUERIES[0], (20, 12))
    np.testing.assert_array_equal(index.search(many, 5)[0], np.tile(index.search(QUERIES[0], 5)[0], (20, 1)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_of_any_whole_number_type(dtype: type) -> None:
    index = nf.Index(12)
    index.add(ROWS[:3], ids=np.array([5, 1, 9], dtype))
    assert index.search(ROWS[0], 1, allow=np.array([1, 5], dtype))[0].tolist() == [5]
    assert index.remove(np.array([5], dtype)) == 1


@pytest.mark.parametrize("k", [2**40, 2**62])
def test_more_answers_than_memory_is_an_error_not_the_end(k: int) -> None:
    child = script(f"""
        import numpy as np, nearfield as nf
        index = nf.Index(3)
        index.add(np.eye(3))
        try:
            index.search(np.ones(3), {k})
        except (MemoryError, nf.errors.InvalidInput):
            print(index.search(np.ones(3), 1)[0].tolist())
    """)
    output, trouble = child.communicate(timeout=60)
    assert output == "[0]\n", trouble[-2000:]


def test_answers_belong_to_the_caller() -> None:
    index = filled()
    first = index.search(QUERIES, 4)
    kept = [part.copy() for part in first]
    index.search(-QUERIES, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    first[0][:] = 0  # writable
    assert np.array_equal(index.search(QUERIES, 4)[0], kept[0])


# Copies and files


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("way", ["pickle", "copy", "file"])
def test_an_index_comes_back_whole(way: str, metric: str, tmp_path: Path) -> None:
    index = filled(metric)
    if way == "file":
        index.save(tmp_path / "index.nfi")
        again = nf.Index.load(tmp_path / "index.nfi")
    else:
        again = pickle.loads(pickle.dumps(index)) if way == "pickle" else copy.deepcopy(index)
    assert (len(again), again.dimension, again.metric) == (57, 12, metric)
    assert same(index, again)
    assert again.add(ROWS[:2]).tolist() == index.add(ROWS[:2]).tolist(), "the next id is remembered too"
    again.remove([0])
    assert len(index) == len(again) + 1, "the two are independent"
    with pytest.raises(errors.AlreadyExists):
        again.add(ROWS[:1], ids=[10])


def test_the_next_id_after_loading_is_not_one_that_was_removed(tmp_path: Path) -> None:
    index = nf.Index(12)
    index.add(ROWS[:10])
    index.remove([9])
    index.save(tmp_path / "index.nfi")
    assert nf.Index.load(tmp_path / "index.nfi").add(ROWS[:1]).tolist() == [10]


def test_an_empty_index_comes_back(tmp_path: Path) -> None:
    nf.Index(3, "l2").save(str(tmp_path / "empty.nfi"))
    again = nf.Index.load(str(tmp_path / "empty.nfi"))
    assert (len(again), again.dimension, again.metric) == (0, 3, "l2")


def test_the_same_index_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        filled().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """One bit flipped anywhere: never a wrong answer, never a crash, always an error that names the file."""
    path = tmp_path / "index.nfi"
    small = nf.Index(3)
    small.add(ROWS[:5, :3], ids=[4, 8, 1, 6, 3])
    small.remove([6])
    small.save(path)
    whole = path.read_bytes()
    places = range(len(whole)) if len(whole) < 3000 else RNG.choice(len(whole), 3000, replace=False)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(errors.StorageError, match=r"index\.nfi"):
            nf.Index.load(path, verify=True)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "index.nfi"
    filled().save(path)
    whole = path.read_bytes()
    for length in sorted({0, 1, 7, 8, 16, 63, 64, len(whole) // 2, len(whole) - 1, *RNG.integers(len(whole), size=40)}):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.StorageError):
            nf.Index.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(errors.Corrupt):
        nf.Index.load(path)


def test_a_flipped_vector_is_called_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "index.nfi"
    filled().save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.Corrupt, match=r"index\.nfi"):
        nf.Index.load(path, verify=True)


def test_another_kind_of_file_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(errors.StorageError, match=r"notes\.txt.* not a nearfield index"):
        nf.Index.load(path)
    with pytest.raises(errors.NotFound, match=r"nowhere\.nfi"):
        nf.Index.load(tmp_path / "nowhere.nfi")
    with pytest.raises(errors.NearfieldError):
        nf.Index.load(tmp_path)


def test_saving_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.NearfieldError, match="missing"):
        filled().save(tmp_path / "missing" / "index.nfi")


@posix
def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """The file may not grow beyond 100 kB here: as on a full disk, the write stops half way."""
    path = tmp_path / "index.nfi"
    filled().save(path)
    before = path.read_bytes()
    child = script(f"""
        import resource, numpy as np, nearfield as nf
        index = nf.Index(12)
        index.add(np.ones((100_000, 12), np.float32))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            index.save({str(path)!r})
        except nf.errors.StorageError as error:
            print("refused", "index.nfi" in str(error), len(index.search(np.ones(12, np.float32))[0]))
    """)
    output, trouble = child.communicate(timeout=60)
    assert output == "refused True 10\n", output + trouble
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.nfi"], "no half-written file is left behind"


def test_a_save_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "index.nfi"
    nf.Index(3).save(path)
    filled().save(path)
    assert same(nf.Index.load(path), filled())
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.nfi"]


def test_build_info_tells_what_runs() -> None:
    info = nf.build_info()
    assert info["version"] == nf.__version__
    assert info["profile"] == "release", "a debug build is 30 times slower; see pyproject.toml, [tool.maturin] profile"
    assert "scalar" in info["simd_available"]
