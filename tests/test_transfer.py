"""The danger: what comes out of a collection, or into it, is not what was there; a broken import starts over."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from databases import DIMENSION, Letters, vectors
from nearfield import transfer
from nearfield.errors import AlreadyExists, DiskFull, EmbedderMismatch, InvalidInput, NotFound, StorageError
from terminal import Run

ENDINGS = (".parquet", ".jsonl", ".npy")


def contents(collection: nf.Collection) -> list[tuple[Any, ...]]:
    records = collection.get(include=["documents", "metadatas", "embeddings"])
    return [(r.id, r.document, r.metadata, None if r.embedding is None else r.embedding.tobytes()) for r in records]


def made(db: nf.Database, name: str = "c", count: int = 20) -> nf.Collection:
    collection = db.collection(name, embedder=None)
    collection.add(
        [None if i % 3 == 0 else f"text {i} \N{SNOWMAN}\n" for i in range(count)],
        ids=[f"id {i}" for i in range(count)],
        embeddings=vectors(count) * 10.0 ** np.arange(-10, count - 10)[:, None],
        metadatas=[{"n": i, "x": i / 3, "tags": ["a", "b"], "none": None, "yes": True} for i in range(count)],
    )
    return collection


# Round trips


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_round_trip_changes_a_record(db: nf.Database, tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "BATCH", 7)
    collection, other = made(db), db.collection("other", embedder=None)
    collection.delete("id 4")
    path = tmp_path / f"out{ending}"
    assert transfer.export_to(collection, path) == 19
    assert transfer.import_from(other, path) == (19, 0)
    assert contents(other) == contents(collection)
    assert sorted(p.name for p in tmp_path.glob("*.tmp")) == []


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            st.dictionaries(
                st.from_regex(r"[a-zé]{1,5}", fullmatch=True),
                st.none()
                | st.booleans()
                | st.integers(-(2**53), 2**53)
                | st.floats(-1e300, 1e300)
                | st.text(max_size=3),
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(ENDINGS),
)
@settings(max_examples=40)
def test_texts_and_metadata_that_a_format_cannot_hold(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, dict[str, Any]]], ending: str
) -> None:
    path = tmp_path_factory.mktemp("t") / f"out{ending}"
    with nf.open() as db:
        collection, other = (db.collection(name, embedder=None) for name in ("a", "b"))
        try:
            collection.add(
                [text for text, _ in rows], embeddings=vectors(len(rows)), metadatas=[fields for _, fields in rows]
            )
        except InvalidInput:
            return  # what a collection refuses cannot be exported either
        transfer.export_to(collection, path)
        transfer.import_from(other, path)
        assert contents(other) == contents(collection)


def test_a_filter_or_the_embeddings_are_ignored(db: nf.Database, tmp_path: Path) -> None:
    collection = made(db)
    assert transfer.export_to(collection, tmp_path / "o.jsonl", where={"n": {"$lt": 5}}, embeddings=False) == 5
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["metadata"]["n"] for line in lines] == [0, 1, 2, 3, 4]
    assert all("embedding" not in line for line in lines)


def test_an_empty_collection_breaks_a_format(db: nf.Database, tmp_path: Path) -> None:
    empty = db.collection("empty", embedder=None)
    for ending in ENDINGS:
        assert transfer.export_to(empty, tmp_path / f"o{ending}") == 0
        assert transfer.import_from(empty, tmp_path / f"o{ending}") == (0, 0)


def test_the_array_is_not_what_numpy_reads(db: nf.Database, tmp_path: Path) -> None:
    collection = made(db)
    transfer.export_to(collection, tmp_path / "o.npy")
    read = np.load(tmp_path / "o.npy", mmap_mode="r")
    np.testing.assert_array_equal(read, np.stack([r.embedding for r in collection.get(include=["embeddings"])]))


def test_another_reader_cannot_use_the_parquet_file(db: nf.Database, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    transfer.export_to(made(db), tmp_path / "o.parquet")
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.schema.names == ["id", "document", "metadata", "embedding"]
    assert table.column("embedding").type.list_size == DIMENSION
    assert json.loads(table.column("metadata")[3].as_py())["n"] == 3


def test_texts_cannot_be_searched_after_a_move(letters: nf.Collection, db: nf.Database, tmp_path: Path) -> None:
    transfer.export_to(letters, tmp_path / "o.parquet")
    moved = db.collection("moved", embedder=Letters())
    transfer.import_from(moved, tmp_path / "o.parquet")
    assert moved.embedder_identity == letters.embedder_identity
    assert moved.search("aaa", k=1).ids == ["a"]

    others = db.collection("others", embedder=Letters("xyz"))
    others.add("aaa")
    with pytest.raises(EmbedderMismatch):
        transfer.import_from(others, tmp_path / "o.parquet")
    assert others.count() == 1


# Files of others


def test_a_table_of_someone_elses_is_not_understood(db: nf.Database, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = {"text": ["one", "two"], "vector": [[1.0, 2.0], [3.0, 4.0]], "year": [1999, None], "tag": ["x", "y"]}
    parquet.write_table(arrow.table(table), tmp_path / "films.parquet")
    collection = db.collection("c", embedder=None)
    transfer.import_from(collection, tmp_path / "films.parquet")
    first, second = collection.get(include=["documents", "metadatas", "embeddings"])
    assert (first.id, first.document, first.metadata) == ("films#0", "one", {"year": 1999, "tag": "x"})
    assert (second.metadata, second.embedding.tolist()) == ({"tag": "y"}, [3.0, 4.0])


def test_records_without_a_vector_are_lost(db: nf.Database, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"text": "abc", "year": 3}\n\n{"id": 7, "document": "aab", "embedding": [2,1,0,0]}\n'
    )
    collection = db.collection("c", embedder=Letters())
    assert transfer.import_from(collection, tmp_path / "t.jsonl") == (2, 0)
    assert sorted(record.id for record in collection.get()) == ["7", "t#1"]
    assert collection.get("t#1")[0].metadata == {"year": 3}
    assert collection.search("abc", k=1).ids == ["t#1"]


def test_a_bare_array_needs_more_than_itself(db: nf.Database, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors(5).astype(np.float16))
    collection = db.collection("c", embedder=None)
    assert transfer.import_from(collection, tmp_path / "v.npy") == (5, 0)
    assert (
        collection.get("v#3", include=["embeddings"])[0].embedding.tolist() == vectors(5).astype(np.float16)[3].tolist()
    )


# Interruptions and conflicts


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_import_that_broke_off_starts_over(db: nf.Database, tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    for module in (transfer, transfer.files):
        monkeypatch.setattr(module, "BATCH" if module is transfer else "ROWS", 6)
    collection, other = made(db), db.collection("other", embedder=None)
    transfer.export_to(collection, tmp_path / f"o{ending}")

    class Stopped(Exception):
        pass

    def stop(count: int) -> None:
        if count > 6:
            raise Stopped

    with pytest.raises(Stopped):
        transfer.import_from(other, tmp_path / f"o{ending}", progress=stop)
    assert other.count() == 12
    assert transfer.import_from(other, tmp_path / f"o{ending}") == (8, 12)
    assert contents(other) == contents(collection)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_move_holds_all_records_in_memory(tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    for module in (transfer, transfer.files):
        monkeypatch.setattr(module, "BATCH" if module is transfer else "ROWS", 20)

    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with nf.open(tmp_path / "x.nf") as db:
        collection, other = db.collection("c", embedder=None), db.collection("other", embedder=None)
        for first in range(0, 1000, 50):
            ids = [str(n) for n in range(first, first + 50)]
            texts = [id + 8000 * "x" for id in ids]
            collection.add(texts, ids=ids, embeddings=np.ones((50, DIMENSION)), metadatas=[{"m": 1000 * "y"}] * 50)
        path = tmp_path / f"o{ending}"
        transfer.export_to(other, path)
        transfer.import_from(other, path)  # what is loaded once, is
        assert peak(lambda: transfer.export_to(collection, path)) < 2_000_000  # of 9 MB
        assert peak(lambda: transfer.import_from(other, path)) < 2_000_000
        assert contents(other) == contents(collection)


def test_what_to_do_with_records_that_exist_is_ignored(db: nf.Database, tmp_path: Path) -> None:
    collection = made(db, count=3)
    transfer.export_to(collection, tmp_path / "o.jsonl")
    before = contents(collection)
    collection.update("id 1", documents="changed")
    with pytest.raises(AlreadyExists, match="id 0"):
        transfer.import_from(collection, tmp_path / "o.jsonl", existing="error")
    assert transfer.import_from(collection, tmp_path / "o.jsonl") == (0, 3)
    assert collection.get("id 1")[0].document == "changed"
    assert transfer.import_from(collection, tmp_path / "o.jsonl", existing="replace") == (3, 0)
    assert contents(collection) == before
    with pytest.raises(InvalidInput, match="existing must be"):
        transfer.import_from(collection, tmp_path / "o.jsonl", existing="merge")  # type: ignore[arg-type]


def test_a_writer_in_between_tears_the_export(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "BATCH", 5)
    with nf.open(tmp_path / "x.nf") as db:
        collection = made(db)
        before = contents(collection)

        def change(count: int) -> None:
            worker = threading.Thread(target=collection.delete, args=("id 19",))
            worker.start()
            worker.join(30)
            collection.update(f"id {count - 2}", metadatas={"n": -1})

        transfer.export_to(collection, tmp_path / "o.jsonl", progress=change)
        assert collection.count() == 19
        other = db.collection("other", embedder=None)
        transfer.import_from(other, tmp_path / "o.jsonl")
        assert contents(other) == before


# Bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 must be an object, got list"),
        ('{"document": 3}', "line 2: the document must be text, got int"),
        ('{"embedding": ["x"]}', "line 2: the embedding must be a list of numbers"),
        ('{"metadata": [1]}', "line 2: metadata must be an object, got list"),
        ('{"id": "z"}', "'z' has neither a document nor an embedding"),
        ('{"id": "z", "embedding": [1.0]}', "'z' has 1 dimensions, those before it 4"),
    ],
)
def test_a_broken_line_is_not_named(db: nf.Database, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"embedding": [1, 2, 3, 4]}\n' + line)
    with pytest.raises(InvalidInput) as caught:
        transfer.import_from(db.collection("c", embedder=None), tmp_path / "t.jsonl")
    assert message in str(caught.value)


def test_files_that_are_none(db: nf.Database, tmp_path: Path) -> None:
    collection = made(db)
    with pytest.raises(NotFound, match=r"nothing\.jsonl"):
        transfer.import_from(collection, tmp_path / "nothing.jsonl")
    for path in (tmp_path / "x.csv", tmp_path / "x"):
        with pytest.raises(InvalidInput, match=r"use one of \.parquet"):
            transfer.export_to(collection, path)
    for ending in (".parquet", ".npy"):
        (tmp_path / f"bad{ending}").write_bytes(b"garbage")
        with pytest.raises(StorageError, match=f"bad{ending} is not a"):
            transfer.import_from(collection, tmp_path / f"bad{ending}")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(InvalidInput, match="shape"):
        transfer.import_from(collection, tmp_path / "flat.npy")
    with pytest.raises(StorageError, match="cannot be written"):
        transfer.export_to(collection, tmp_path / "no folder" / "x.jsonl")


def test_vectors_and_records_of_two_lengths(db: nf.Database, tmp_path: Path) -> None:
    collection = made(db)
    transfer.export_to(collection, tmp_path / "o.npy")
    np.save(tmp_path / "o.npy", vectors(21))
    with pytest.raises(InvalidInput, match=r"has 20 records, .* has 21"):
        transfer.import_from(db.collection("d", embedder=None), tmp_path / "o.npy")
    np.save(tmp_path / "o.npy", vectors(19))
    with pytest.raises(InvalidInput, match="more records than"):
        transfer.import_from(db.collection("e", embedder=None), tmp_path / "o.npy")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_takes_the_old_file(db: nf.Database, tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    collection = made(db)
    path = tmp_path / f"o{ending}"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.files.os, "fsync", full)
    with pytest.raises(DiskFull, match="as it was"):
        transfer.export_to(collection, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.glob("o*")] == [path.name]


# The command line


def test_the_commands_do_something_else(run: Run, tmp_path: Path) -> None:
    with nf.open("library.nf") as db:
        before = contents(made(db, "docs"))
    for ending in ENDINGS:
        assert run("export", f"o{ending}").out == f"o{ending}: 20 records\n"
        ended = run("import", f"o{ending}", "--db", f"{ending[1:]}.nf", "--json")
        assert json.loads(ended.out) == {"added": 20, "skipped": 0}
        with nf.open(f"{ending[1:]}.nf") as db:
            assert contents(db.collection("docs", embedder=None)) == before
    assert run("export", "o.jsonl", "--where", '{"n": {"$lt": 2}}').out == "o.jsonl: 2 records\n"
    assert "2 were there already" in run("import", "o.jsonl").out
    assert run("import", "o.jsonl", "--replace").out == "2 records added to 'docs' of library.nf\n"


def test_what_is_wrong_is_told_in_a_traceback_or_makes_a_database(run: Run, tmp_path: Path) -> None:
    for words in (("import", "x.jsonl"), ("import", "x", "--from", "faiss"), ("export", "x.jsonl")):
        ended = run(*words)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("error: there is no")
    assert run("import", "x", "--from", "elsewhere").code == 2
    assert run("import", "x", "--from", "hnswlib").code == 2
    assert list(tmp_path.iterdir()) == []
