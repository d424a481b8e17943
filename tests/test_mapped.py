"""The danger: vectors that stay in files, and an answer that is wrong, a crash, or a loss because of it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from nearfield import errors
from nearfield import index as index_module

RNG = np.random.default_rng(3)
DIMENSION = 12
BASE = RNG.standard_normal((5000, DIMENSION)).astype(np.float32)
QUERIES = RNG.standard_normal((20, DIMENSION)).astype(np.float32)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows does not let go of a name that is mapped")


def answers(index: nf.Index, **options: Any) -> list[Any]:
    ids, scores = index.search(QUERIES, 15, **options)
    return [len(index), ids.tolist(), scores.tolist()]


def sections(path: Path) -> dict[str, tuple[int, int]]:
    """Where the content of each section begins and ends, read by the words of docs/format.md."""
    data, at, found = path.read_bytes(), 48, {}
    while at < len(data):
        name, length = data[at : at + 8].decode().strip(), int.from_bytes(data[at + 8 : at + 16], "little")
        start = -(-(at + 16) // 64) * 64
        found[name] = (start, start + length)
        at = start + length + 8
    assert at == len(data)
    return found


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1500)),
        st.tuples(st.just("remove"), st.integers(2, 6)),
        st.tuples(st.just("save"), st.just(0)),
        st.tuples(st.just("pickle"), st.just(0)),
    ),
    min_size=2,
    max_size=7,
)


@pytest.mark.parametrize(("kind", "metric"), [("flat", "cosine"), ("hnsw", "l2"), ("ivf", "dot"), ("auto", "cosine")])
@settings(max_examples=8)
@given(steps=steps)
def test_whatever_happens_an_index_in_files_answers_as_one_in_memory(
    tmp_path: Path, kind: str, metric: Any, steps: list[tuple[str, int]]
) -> None:
    held = nf.Index(DIMENSION, metric, kind=kind, threads=2)
    kept = nf.Index(DIMENSION, metric, kind=kind, threads=2, on_disk=tmp_path)
    for index in (held, kept):
        index.add(BASE[:1200])
    kept.save(tmp_path / "kept.nfi")
    kept = nf.Index.load(tmp_path / "kept.nfi", threads=2, verify=True, on_disk=tmp_path)
    assert (kept.mapped, held.mapped) == (1200 * DIMENSION * 4, 0)
    for step, number in steps:
        if step == "add":
            first = held._native.next_id
            rows = np.take(BASE, np.arange(first, first + number), axis=0, mode="wrap")
            assert held.add(rows).tolist() == kept.add(rows).tolist()
        elif step == "remove":
            gone = held._native.export()[0][::number]
            assert held.remove(gone) == kept.remove(gone)
        elif step == "save":  # under the name of the file that is mapped
            kept.save(tmp_path / "kept.nfi")
            kept = nf.Index.load(tmp_path / "kept.nfi", threads=2, verify=True, on_disk=tmp_path)
        else:
            kept = pickle.loads(pickle.dumps(kept))
        assert answers(kept, exact=True) == answers(held, exact=True)
    found = kept.search(QUERIES, 10, recall=0.9)[0]
    right = held.search(QUERIES, 10, exact=True)[0]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), right.tolist(), strict=True)]) > 0.7
    (ids, rows), (other_ids, other_rows) = held._native.export(), kept._native.export()
    assert ids.tolist() == other_ids.tolist()
    assert rows.tobytes() == other_rows.tobytes()


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_loaded_index_is_the_one_that_was_saved(tmp_path: Path, kind: str, metric: Any) -> None:
    """Not made again: codes, graph and frame come from the file, so approximate answers are the same ones too."""
    index = nf.Index(DIMENSION, metric, kind=kind)
    index.add(BASE)
    index.remove(np.arange(0, 5000, 7))
    index.save(tmp_path / "a")
    again = nf.Index.load(tmp_path / "a")
    for options in ({"exact": True}, {"recall": 0.8}, {"recall": 0.99}):
        assert answers(again, **options) == answers(index, **options)
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert again.memory < index.memory - len(index) * DIMENSION * 4
    assert again.mapped == len(index) * DIMENSION * 4


def test_a_flipped_bit_in_any_section_is_noticed(tmp_path: Path) -> None:
    """At loading, but for the vectors: `verify=True` reads these too, and without it they change no other vector."""
    path, damaged = tmp_path / "index.nfi", tmp_path / "damaged.nfi"
    index = nf.Index(DIMENSION, "cosine", kind="hnsw")
    index.add(BASE[:2000])
    index.save(path)
    whole, found = path.read_bytes(), sections(path)
    assert {"ids", "vectors", "norms", "mean", "scale", "codes", "factors", "guide", "links"} <= set(found)
    for name, (start, end) in found.items():
        for place in {start - 1, start, (start + end) // 2, end - 1, end + 7} - ({start} if start == end else set()):
            data = bytearray(whole)
            data[place] ^= 1 << int(RNG.integers(8))
            damaged.write_bytes(data)
            with pytest.raises(errors.Corrupt, match=r"damaged\.nfi"):
                nf.Index.load(damaged, verify=True)
            if name != "vectors":
                with pytest.raises(errors.Corrupt, match=r"damaged\.nfi"):
                    nf.Index.load(damaged)
    assert all(start % 64 == 0 for start, _ in found.values())


@pytest.mark.parametrize("at", ["vectors", "codes", "links"])
def test_a_file_cut_short_is_refused(tmp_path: Path, at: str) -> None:
    path = tmp_path / "index.nfi"
    index = nf.Index(DIMENSION, kind="hnsw")
    index.add(BASE[:2000])
    index.save(path)
    start, end = sections(path)[at]
    for length in (start - 1, start, start + 4, end - 1, end):
        cut = tmp_path / f"cut-{length}.nfi"
        cut.write_bytes(path.read_bytes()[:length])
        with pytest.raises(errors.Corrupt, match="ends too early"):
            nf.Index.load(cut)


@posix
def test_a_reader_goes_on_with_the_file_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "index.nfi"
    first, second = nf.Index(DIMENSION), nf.Index(DIMENSION)
    first.add(BASE[:3000])
    second.add(-BASE[3000:3100])
    first.save(path)
    reader = nf.Index.load(path)
    second.save(path)
    assert answers(reader) == answers(first)
    assert answers(nf.Index.load(path)) == answers(second)
    path.unlink()
    assert answers(reader) == answers(first)
    assert reader.search(BASE[:1], 1)[0].tolist() == [[0]]


def test_a_file_that_may_only_be_read_is_enough(tmp_path: Path) -> None:
    index = nf.Index(DIMENSION)
    index.add(BASE[:100])
    index.save(tmp_path / "index.nfi")
    (tmp_path / "index.nfi").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        loaded = nf.Index.load(tmp_path / "index.nfi")
        loaded.add(BASE[100:200])
        loaded.remove([3])
        assert len(loaded) == 199
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_is_gone_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(errors.InvalidInput, match="folder"):
        nf.Index(2, on_disk=folder)
    folder.mkdir()
    index = nf.Index(512, kind="flat", on_disk=folder)
    index.add(np.ones((3, 512)))
    folder.rmdir()
    for large in (np.ones((40_000, 512), np.float32), np.ones((40_000, 512), np.float16)):
        with pytest.raises(errors.StorageError, match="nothing was added"):
            index.add(large)
    assert (len(index), index.add(np.ones(512)).tolist()) == (4 - 1, [3])


def test_on_disk_means_on_disk_and_nothing_stays_there(tmp_path: Path) -> None:
    rows = np.repeat(RNG.standard_normal((5000, 512)).astype(np.float32), 8, axis=0)
    rows[:, 0] += np.arange(40_000, dtype=np.float32) / 40_000
    plain, kept = nf.Index(512, "l2", kind="flat"), nf.Index(512, "l2", kind="flat", on_disk=tmp_path)
    for index in (plain, kept):
        index.add(rows[:1000])
        index.add(rows[1000:])
        assert index._native.export()[1].tobytes() == rows.tobytes()
    first = rows[:1000].nbytes  # too few for a file of their own
    assert (kept.mapped, plain.mapped) == (rows.nbytes - first, 0)
    assert kept.memory == plain.memory - rows.nbytes + first
    assert kept.search(rows[:9], 30)[0].tolist() == plain.search(rows[:9], 30)[0].tolist()
    kept.remove(np.arange(0, 30_000))
    plain.remove(np.arange(0, 30_000))
    assert kept.search(rows[:9], 30)[1].tolist() == plain.search(rows[:9], 30)[1].tolist()
    assert os.name != "posix" or not list(tmp_path.iterdir())


def test_other_dtypes_are_converted_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_PIECE", 1000)
    for given_rows in (BASE.astype(np.float64), BASE.astype(np.float16), np.asfortranarray(BASE), BASE[::-2]):
        index = nf.Index(DIMENSION, on_disk=tmp_path)
        index.add(given_rows)
        exported = index._native.export()[1]
        assert exported.tobytes() == np.ascontiguousarray(given_rows, np.float32).tobytes()
    long = nf.Index(9000, on_disk=tmp_path)
    assert long.add(np.ones(9000)).tolist() == [0]
    assert long.add(np.ones((0, 9000))).tolist() == []
    with pytest.raises(errors.InvalidInput, match="dimension 8"):
        long.add(np.ones((0, 8)))
    bad = BASE.astype(np.float64)
    bad[4321, 5] = 1e300
    index = nf.Index(DIMENSION, on_disk=tmp_path)
    with np.errstate(over="ignore"), pytest.raises(errors.InvalidInput, match="vector 4321"):
        index.add(bad)
    assert (len(index), list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize("on_disk", [False, True])
def test_pieces_are_added_together_or_not_at_all(tmp_path: Path, on_disk: bool) -> None:
    index = nf.Index(DIMENSION, "l2", kind="hnsw", on_disk=tmp_path if on_disk else None)
    plain = nf.Index(DIMENSION, "l2", kind="hnsw")
    ids = np.arange(5000)[::-1]

    def pieces(end: float = 0.0) -> Any:
        for start in range(0, 4000, 700):
            yield BASE[start : min(start + 700, 4000)].astype(np.float64)
            assert len(index) == 0, "nothing is seen before all are there"
        yield []
        yield from BASE[4000:4999].tolist()
        yield BASE[4999:] + np.float32(end)

    with pytest.raises(errors.InvalidInput, match=r"vector 4999 .* nothing was added"):
        index.add(pieces(np.inf))
    with pytest.raises(errors.InvalidInput, match="4999 ids for 5000 vectors"):
        index.add(pieces(), ids[1:])
    with pytest.raises(errors.InvalidInput, match="dimension 3"):
        index.add(iter([BASE[:5], BASE[:5, :3]]))
    with pytest.raises(ZeroDivisionError):
        index.add(BASE[: 100 // n] for n in (3, 2, 0))
    assert len(index) == 0
    assert index.add(pieces(), ids).tolist() == plain.add(BASE, ids).tolist() == ids.tolist()
    assert answers(index, recall=0.9) == answers(plain, recall=0.9)
    assert index.add(iter([])).tolist() == []


@linux
def test_vectors_larger_than_what_may_be_held_are_added_and_searched(tmp_path: Path) -> None:
    """160 MB of vectors in a file: what the process holds grows by their codes, a quarter, and little else."""
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (80_000, 512))
    rows[:] = RNG.standard_normal((80_000, 1), dtype=np.float32) + np.arange(512, dtype=np.float32)
    rows.flush()
    program = f"""
        import re, numpy as np, nearfield as nf
        def held():
            return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
        rows = np.load({str(tmp_path / "rows.npy")!r}, mmap_mode="r")
        index = nf.Index(512, "l2", kind="flat", threads=1, on_disk={str(tmp_path)!r})
        index.add(rows[:10])
        before = held()
        index.add(rows[10:])
        found = index.search(rows[777], 1)[0]
        print((held() - before) / rows.nbytes, found.tolist())
        index.save({str(tmp_path / "index.nfi")!r})
        del index
        before = held()
        index = nf.Index.load({str(tmp_path / "index.nfi")!r}, threads=1, verify=True)
        found = index.search(rows[777], 1)[0]
        print((held() - before) / rows.nbytes, found.tolist())
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=100)
    assert not run.stderr
    for line in run.stdout.splitlines():
        grown, _, found = line.partition(" ")
        assert float(grown) < 0.5
        assert found == "[777]"


@posix
def test_parent_and_child_go_on_after_a_fork(tmp_path: Path) -> None:
    index = nf.Index(512, kind="flat", threads=1, on_disk=tmp_path)
    rows = RNG.standard_normal((40_000, 512)).astype(np.float32)
    index.add(rows)
    child = os.fork()
    if child == 0:
        index.add(-rows)
        os._exit(0 if index.search(-rows[5], 1)[0].tolist() == [40_005] else 1)
    index.add(2 * rows[:33_000])
    assert os.waitpid(child, 0)[1] == 0
    assert index.search(rows[5], 2)[0].tolist() == [5, 40_005]
    assert index.mapped == (40_000 + 33_000) * 512 * 4
