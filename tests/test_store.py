"""The dangers of files: the wrong folder, a newer version, damaged bytes, leftovers, use after closing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from databases import DIMENSION, files, filled, intact, vectors
from nearfield import schema, segments, transaction
from nearfield.errors import Closed, Corrupt, FormatTooNew, InvalidInput, NotADatabase

FORMAT = Path(__file__).resolve().parents[1] / "docs" / "format.md"


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)


# -- the format ------------------------------------------------------------------------------------------------------


def test_the_documented_schema_is_the_live_one(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    documented = re.search(r"```sql\n(.*?)```", FORMAT.read_text(), re.S)
    assert documented
    assert documented[1] == schema.SCHEMA
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    live = [sql for (sql,) in catalog.execute("SELECT sql FROM sqlite_master WHERE sql NOT LIKE '%sqlite_%'")]
    assert ";\n".join(live) + ";\n" == documented[1]
    assert catalog.execute("PRAGMA application_id").fetchone()[0] == int(
        re.search(r"0x[0-9A-F]{8}", FORMAT.read_text())[0], 16
    )  # type: ignore[index]
    assert f"Format version {catalog.execute('PRAGMA user_version').fetchone()[0]}." in FORMAT.read_text()
    assert catalog.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert f"there are {transaction.SEAL_ROWS:,}." in FORMAT.read_text()
    catalog.close()


def test_the_documented_program_reads_a_database_without_nearfield(tmp_path: Path, small_segments: None) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        db.collection("other").add(embeddings=vectors(3))
        collection = db.collection("c")
        collection.add(["a"] * 9, embeddings=vectors(9, 1), ids=list("abcdefghi"))  # sealed
        collection.add(embeddings=vectors(3, 2), ids=list("xyz"), metadatas=[{"ü": 1}, {}, {}])  # not sealed
        collection.delete("d")
        collection.upsert(embeddings=vectors(1, 3), ids="x")
        records = collection.get(include=["documents", "embeddings"])
    source = FORMAT.read_text().split("```python\n")[1].split("```")[0]
    assert "nearfield" not in source
    command = [sys.executable, "-c", source, str(tmp_path / "x.nf"), "c"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [record.id for record in records] == list("abcefghiyzx")
    for line, record in zip(lines, records, strict=True):
        assert record.embedding is not None
        assert str(record.embedding.tolist()) in line
        assert line.endswith(str(record.document))


def test_no_row_that_was_changed_in_place_goes_unnoticed(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf", 6)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        seen: list[tuple[int, list[int]]] = []

        def look(after: int) -> list[int]:
            with collection._store.reading() as transaction:
                state = transaction.state(collection._id, "c")
                seen.append((state.seq, sorted(transaction.changed_rows(state.id, after).tolist())))
            return seen[-1][1]

        assert look(0) == []
        collection.update(["1", "4"], metadatas=[{"n": 10}, {"n": 40}])
        assert look(0) == [1, 4]
        collection.delete("2")
        collection.update("1", documents="anew")  # vectors were given: nothing to embed
        assert look(seen[-1][0]) == [1]
        collection.update("3", embeddings=vectors(1))  # a new row, and the old one died
        assert look(seen[-1][0]) == []
        collection.delete("4")
        assert look(0) == [1]
        seqs = [seq for seq, _ in seen]
        assert seqs == sorted(set(seqs))


def test_segments_and_tail_cover_all_rows(tmp_path: Path, small_segments: None) -> None:
    made = vectors(50)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c")
        at = 0
        for size in (1, 6, 1, 3, 20, 7, 2, 10):  # below, at, and above the 8 rows that are sealed
            collection.add(embeddings=made[at : at + size], ids=[str(i) for i in range(at, at + size)])
            at += size
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    spans = catalog.execute("SELECT first_row, rows FROM segments ORDER BY first_row").fetchall()
    assert [rows for _, rows in spans] == [8, 23, 9, 10]
    assert all(a + rows == b for (a, rows), (b, _) in zip(spans, [*spans[1:], (50, 0)], strict=True))
    assert catalog.execute("SELECT count(*) FROM unsealed").fetchone() == (0,)
    catalog.close()
    assert files(tmp_path / "x.nf") == ["000001.npy", "000002.npy", "000003.npy", "000004.npy"]
    with nf.open(tmp_path / "x.nf") as db:
        for i in (0, 7, 8, 30, 31, 49):
            assert db.collection("c").search(made[i], 1).ids == [str(i)]


# -- the wrong place -------------------------------------------------------------------------------------------------


def test_a_path_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").write_text("mine")
    for name, text in (("text", b"not a database, but long enough to have a header"), ("short", b"x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalog.sqlite").write_bytes(text)
    (tmp_path / "other").mkdir()
    other = sqlite3.connect(tmp_path / "other" / "catalog.sqlite")
    other.execute("CREATE TABLE photos (name)")
    other.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, says in (
        ("file", "is a file"),
        ("folder", "other things in it"),
        ("text", "not a SQLite file"),
        ("short", "not a SQLite file"),
        ("other", "another application"),
    ):
        with pytest.raises(NotADatabase, match=says):
            nf.open(tmp_path / name)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_database_of_a_newer_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    made = filled(tmp_path / "x.nf")
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    catalog.execute("PRAGMA user_version = 7")
    catalog.close()
    with pytest.raises(FormatTooNew, match=r"version 7.*up to 1.*pip install --upgrade"):
        nf.open(tmp_path / "x.nf")
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    catalog.execute("PRAGMA user_version = 1")
    catalog.close()
    intact(tmp_path / "x.nf", made)


def test_an_empty_folder_and_missing_parents_become_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    intact(tmp_path / "empty", filled(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    with nf.open("a/b/c.nf") as db:
        db.collection("c")
        monkeypatch.chdir("/")  # a relative path is relative to where it was opened
        assert db.collections() == ["c"]
    assert (tmp_path / "a/b/c.nf/catalog.sqlite").exists()


@pytest.mark.parametrize("path", ["", 5, b"x.nf", object()])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises((InvalidInput, TypeError), match="path"):
        nf.open(path)
    with pytest.raises(InvalidInput, match="'full' or 'relaxed', got 'fast'"):
        nf.open(durability="fast")  # type: ignore[arg-type]


# -- damage ----------------------------------------------------------------------------------------------------------


def test_a_catalog_that_was_emptied_is_not_taken_for_a_new_database(tmp_path: Path, small_segments: None) -> None:
    filled(tmp_path / "x.nf")
    (tmp_path / "x.nf" / "catalog.sqlite").write_bytes(b"")
    with pytest.raises(Corrupt, match="empty, but there are vectors"):
        nf.open(tmp_path / "x.nf")
    assert files(tmp_path / "x.nf") == ["000001.npy"]


def test_a_catalog_with_a_torn_page_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf", 2000)
    catalog = tmp_path / "x.nf" / "catalog.sqlite"
    data = bytearray(catalog.read_bytes())
    data[4096 : len(data) - 4096] = b"\xff" * (len(data) - 8192)
    catalog.write_bytes(data)
    with pytest.raises(Corrupt, match="catalog is damaged"), nf.open(tmp_path / "x.nf") as db:
        db.collection("c", embedder=None).get()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.unlink(), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:-10]), "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: np.save(file, vectors(3)), r"holds \(3, 4\) float32, the catalog says \(10, 4\)"),
        (lambda file: np.save(file, vectors(10).astype("f8")), "holds .* float64"),
        (lambda file: np.save(file, vectors(10, seed=9)), "not those that were written"),
    ],
)
def test_a_damaged_segment_is_named_and_never_searched(
    tmp_path: Path, small_segments: None, damage: Callable[[Path], Any], says: str
) -> None:
    filled(tmp_path / "x.nf")
    damage(tmp_path / "x.nf" / "vectors" / "c" / "000001.npy")
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for _ in range(2):  # a failure does not leave half an index behind
            with pytest.raises(Corrupt, match=rf"000001\.npy.*{says}|{says}.*"):
                collection.search(np.ones(DIMENSION))
        assert len(collection.get()) == 10  # the records are still there


def test_one_flipped_bit_in_a_segment_is_noticed(tmp_path: Path, small_segments: None) -> None:
    filled(tmp_path / "x.nf")
    segment = tmp_path / "x.nf" / "vectors" / "c" / "000001.npy"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with nf.open(tmp_path / "x.nf") as db, pytest.raises(Corrupt, match=r"000001\.npy"):
        db.collection("c", embedder=None).search(np.ones(DIMENSION))


# -- leftovers -------------------------------------------------------------------------------------------------------


def test_orphans_are_removed_at_the_next_open_and_nothing_else(tmp_path: Path, small_segments: None) -> None:
    made = filled(tmp_path / "x.nf")
    folder = tmp_path / "x.nf" / "vectors"
    shutil.copy(folder / "c" / "000001.npy", folder / "c" / "000002.npy")
    (folder / "c" / "000003.npy.tmp").write_bytes(b"half")
    (folder / "dropped").mkdir()
    (folder / "dropped" / "000001.npy").write_bytes(b"x")
    (folder / "c" / "notes.txt").write_text("the user's own")
    intact(tmp_path / "x.nf", made)
    assert files(tmp_path / "x.nf") == ["000001.npy", "notes.txt"]
    assert not (folder / "dropped").exists()


def test_opening_never_removes_a_file_that_another_writer_is_about_to_register(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "TIMEOUT", 10_000.0)  # opening must not wait for the writer either
    path = tmp_path / "x.nf"
    made = vectors(10)
    with nf.open(path) as db:
        collection = db.collection("c", embedder=None)
        write = segments.write

        def slow(*arguments: Any) -> tuple[Path, int]:
            written = write(*arguments)
            with nf.open(path) as other:  # the file has its name, the catalog does not know it yet
                assert other.collection("c").count() == 0
            assert files(path) == ["000001.npy"]
            return written

        monkeypatch.setattr(segments, "write", slow)
        collection.add(
            [f"text {i}" for i in range(10)],
            embeddings=made,
            ids=[str(i) for i in range(10)],
            metadatas=[{"n": i} for i in range(10)],
        )
    intact(path, made)


def test_an_orphan_is_never_written_over(tmp_path: Path, small_segments: None) -> None:
    """On some systems a file that a reader has mapped can neither be removed nor replaced."""
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c")
        collection.add(embeddings=vectors(10))
        (tmp_path / "x.nf" / "vectors" / "c" / "000002.npy").write_bytes(b"orphan")
        collection.add(embeddings=vectors(10))
        assert files(tmp_path / "x.nf") == ["000001.npy", "000002.npy", "000003.npy"]
        assert (tmp_path / "x.nf" / "vectors" / "c" / "000002.npy").read_bytes() == b"orphan"
        assert len(collection.search(np.ones(DIMENSION), k=99)) == 20


def test_a_dropped_collection_gives_its_files_back_and_its_name(tmp_path: Path, small_segments: None) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        old = db.collection("c")
        old.add(embeddings=vectors(10))
        db.collection("kept").add(embeddings=vectors(10))
        db.drop("c")
        assert files(tmp_path / "x.nf") == ["000001.npy"]
        assert not (tmp_path / "x.nf" / "vectors" / "c").exists()
        new = db.collection("c", metric="l2")
        new.add(embeddings=np.ones((9, 7)))
        assert new.count() == 9
        with pytest.raises(nf.errors.NotFound, match="was dropped"):
            old.count()
    catalog = sqlite3.connect(tmp_path / "x.nf" / "catalog.sqlite")
    assert catalog.execute("SELECT count(*) FROM records").fetchone() == (19,)
    catalog.close()


# -- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "x.nf"])
def test_a_closed_database_says_so_and_can_be_closed_again(tmp_path: Path, path: str | None) -> None:
    db = nf.open(tmp_path / path if path else None)
    collection = db.collection("c")
    collection.add(embeddings=np.ones((1, 4)))
    db.close()
    db.close()
    for use in (
        lambda: db.collection("c"),
        db.collections,
        lambda: collection.add(embeddings=np.ones((1, 4))),
        lambda: collection.search(np.ones(4)),
        collection.get,
        collection.count,
    ):
        with pytest.raises(Closed, match="was closed; open it again"):
            use()


def test_closing_leaves_no_file_open_and_no_wal(tmp_path: Path) -> None:
    filled(tmp_path / "x.nf")
    assert sorted(os.listdir(tmp_path / "x.nf")) == ["catalog.sqlite"]
    if os.path.isdir("/proc/self/fd"):
        assert not [fd for fd in os.listdir("/proc/self/fd") if "x.nf" in _target(fd)]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
