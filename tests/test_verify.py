"""The danger: bytes that change on the disk, and an answer that is wrong because of it, or data lost in mending it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import nearfield as nf
from databases import filled, intact, snapshot, vectors
from nearfield import live, transaction, wal
from nearfield.errors import Corrupt, NearfieldError, NotFound


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 16)
    monkeypatch.setattr(live.LiveIndex, "kind", "hnsw")
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 10)


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A database with every kind of thing in it: segments, unsealed vectors, dead rows, changed records, an index."""
    path = tmp_path / "x.nf"
    with nf.open(path) as db:
        for name in ("c", "other"):
            collection = db.collection(name, embedder=None)
            collection.add(
                [f"text {i} " + "x" * (50 * i) for i in range(20)],
                ids=[str(i) for i in range(20)],
                embeddings=vectors(20),
                metadatas=[{"n": i} for i in range(20)],
            )
            collection.search(vectors(1))
            collection.search("text", mode="lexical")
            collection._derived.finish()
            collection.add(ids=["a", "b", "c"], embeddings=vectors(3, 1))
            collection.delete(["3", "b"])
            collection.update("5", documents="changed")
    return path


def everything(path: Path) -> Any:
    """What a user can learn from a database. Derived data that is damaged is made again, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with nf.open(path) as db:
            collection = db.collection("c", embedder=None)
            records = collection.get(include=["documents", "metadatas", "embeddings"])
            one_by_one = [collection.get(id)[0] for id in collection.get(where={"n": {"$lt": 9}}) for id in [id.id]]
            hits = [hits.to_dicts() for hits in collection.search(vectors(8), k=30, exact=True)]
            words = [(hit.id, hit.score) for hit in collection.search("7 text", k=30, mode="lexical")]
            facts = db.collections(), snapshot(collection), len(records), collection.facet("n")
            return facts, [r.to_dict() for r in one_by_one], hits, words


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_a_good_database_has_no_findings(rich: Path) -> None:
    with nf.open(rich) as db:
        assert db.verify() == []
        assert db.repair() == []
        db.compact()
        assert db.verify() == []
    with nf.open() as memory:
        memory.collection("c", embedder=None).add(embeddings=vectors(3))
        assert memory.verify() == []
        assert memory.repair() == []


def flipped_bits(rich: Path, tries: int, seed: int) -> None:
    wanted = everything(rich)
    good = rich.with_name("good.nf")
    shutil.copytree(rich, good)
    choice = random.Random(seed)
    files = [file.relative_to(good) for file in sorted(good.rglob("*")) if file.is_file() and file.stat().st_size]
    assert {file.suffix for file in files} == {".sqlite", ".npy", ".nfi"}
    assert {file.name[:4] for file in files if file.suffix == ".nfi"} == {"colu", "hnsw", "text"}
    noticed = 0
    for turn in range(tries):
        shutil.rmtree(rich)
        shutil.copytree(good, rich)
        file = choice.choice(files) if turn % 3 else Path("catalog.sqlite")
        flip(rich / file, choice.randrange(8 * (rich / file).stat().st_size))
        findings: list[Any] = []
        try:
            with nf.open(rich) as db:
                findings = db.verify()
        except NearfieldError as error:
            findings = [error]
        try:
            found = everything(rich)
        except NearfieldError:
            assert findings, file  # what cannot be read, verify has named
            continue
        assert found == wanted, file  # or the bit was of no consequence, or of something derived
        noticed += bool(findings)
        if findings and all(getattr(finding, "repairable", False) for finding in findings):
            with warnings.catch_warnings(), nf.open(rich) as db:
                warnings.simplefilter("error")
                assert db.repair() == []
            assert everything(rich) == wanted
    assert noticed


def test_one_flipped_bit_anywhere_is_noticed_or_changes_no_answer(rich: Path) -> None:
    flipped_bits(rich, 60, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_flipped_bits_anywhere_for_long(rich: Path, seed: int) -> None:
    flipped_bits(rich, 300, seed=100 + seed)


def execute(path: Path, statement: str) -> None:
    catalog = sqlite3.connect(path / "catalog.sqlite")
    catalog.execute(statement)
    catalog.commit()
    catalog.close()


HERE = "collection = (SELECT id FROM collections WHERE name = 'c')"
KEY = "key >> 32 = (SELECT id FROM collections WHERE name = 'c')"


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE collections SET live = live + 1 WHERE name = 'c'", "live is 22, and should be 21"),
        ("UPDATE collections SET next_row = next_row + 1 WHERE name = 'c'", "next_row is 24, and should be 23"),
        ("UPDATE collections SET seq = 0 WHERE name = 'c'", "seq is 0"),
        (f"UPDATE dead_rows SET row = 7 WHERE row = 3 AND {HERE}", "dead rows"),
        (f"DELETE FROM dead_rows WHERE {HERE}", "dead rows"),
        (f"UPDATE generations SET next_row = next_row - 1 WHERE {HERE}", "derived"),
    ],
)
def test_what_can_be_counted_again_is_mended(rich: Path, statement: str, says: str) -> None:
    wanted = everything(rich)
    execute(rich, statement)
    with nf.open(rich) as db:
        findings = db.verify()
        assert any(says in str(finding) and finding.repairable for finding in findings), findings
        assert {finding.collection for finding in findings} == {"c"}
        assert db.repair() == []
        assert db.verify() == []
    assert everything(rich) == wanted


@pytest.mark.parametrize(
    ("statement", "ids"),
    [
        (f"UPDATE records SET document = 'other' WHERE id = '7' AND {HERE}", {"7"}),
        (f"UPDATE records SET metadata = '{{\"n\": 8}}' WHERE id = '7' AND {HERE}", {"7"}),
        (f"UPDATE unsealed SET vector = zeroblob(16) WHERE key & 4294967295 = 20 AND {KEY}", {"a"}),
        (f"DELETE FROM unsealed WHERE key & 4294967295 = 20 AND {KEY}", {"a"}),
    ],
)
def test_a_damaged_record_is_named_and_never_handed_out_and_given_up_only_on_request(
    rich: Path, statement: str, ids: set[str]
) -> None:
    execute(rich, statement)
    with nf.open(rich) as db:
        collection = db.collection("c", embedder=None)
        for _ in range(2):
            (finding,) = db.verify()
            assert finding.collection == "c"
            assert not finding.repairable
            assert set(finding.ids) == ids
            with pytest.raises(Corrupt):
                collection.get(list(ids), include=["documents", "metadatas", "embeddings"])
            assert db.repair() == [finding]
        assert collection.count() == 21
        assert db.repair(discard=True) == []
        left = {record.id for record in collection.get(include=["documents", "embeddings"])}
        assert left == ({str(i) for i in range(20)} | {"a", "c"}) - {"3"} - ids
        assert len(collection.search(vectors(1)[0], k=99)) == 20
        assert db.collection("other", embedder=None).count() == 21


@pytest.mark.parametrize("damage", ["flipped", "gone", "cut"])
def test_a_damaged_segment_is_named_with_its_records(rich: Path, damage: str) -> None:
    file = rich / "vectors" / "c" / "000001.npy"
    if damage == "flipped":
        flip(file, 8 * 200)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with nf.open(rich) as db:
        (finding,) = db.verify()
        assert (finding.file, finding.repairable) == (file, False)
        assert set(finding.ids) == {str(i) for i in range(20)} - {"3"}
        collection = db.collection("c", embedder=None)
        with pytest.raises(Corrupt, match=r"000001\.npy"):
            collection.get("7", include=["embeddings"])
        assert collection.get("7")[0].document is not None  # the texts are there
        assert db.repair(discard=True) == []
        assert sorted(record.id for record in collection.get(include=["embeddings"])) == ["a", "c"]
        assert sorted(collection.search(vectors(1)[0], k=9).ids) == ["a", "c"]


def test_an_index_that_points_to_another_record_is_not_followed(rich: Path) -> None:
    """SQLite finds ids in an index of its own; what it says of a record is compared with the record."""
    for old, new in (("id", "metadata"), ("metadata", "id")):
        catalog = sqlite3.connect(rich / "catalog.sqlite")
        catalog.execute("PRAGMA writable_schema = ON")
        catalog.execute(
            f"UPDATE sqlite_master SET sql = replace(sql, 'UNIQUE (collection, {old})', 'UNIQUE (collection, {new})')"
        )
        catalog.commit()
        catalog.close()
        if new == "metadata":  # changes the index of ids, as if it were one of metadata
            execute(
                rich,
                "INSERT INTO records (key, collection, id, crc32, crc32_doc, metadata) "
                "SELECT id << 32 | 50, id, 'zz', 0, 0, '77' FROM collections WHERE name = 'c'",
            )
    with nf.open(rich) as db:
        assert any("index" in str(finding) for finding in db.verify())
        with pytest.raises(Corrupt, match=r"index of ids is damaged at '77'"):
            db.collection("c", embedder=None).get("77")
        with pytest.raises(Corrupt, match="index of ids"):
            db.collection("c", embedder=None).delete("77")
        assert not [finding for finding in db.repair() if finding.repairable]
        with pytest.raises(NotFound):
            db.collection("c", embedder=None).get("77")


def test_a_flipped_bit_in_the_wal_is_told_and_leaves_a_state_that_was(tmp_path: Path) -> None:
    """SQLite has checksums there: it reads as far as they are right, and says nothing of what is behind."""
    states: list[Any] = []
    log = tmp_path / "x.nf" / "catalog.sqlite-wal"
    ends = []
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for i in range(20):
            collection.add(f"text {i}", ids=str(i), embeddings=vectors(1, i))
            states.append([record.to_dict() for record in collection.get(include=["documents", "embeddings"])])
            ends.append(log.stat().st_size)
        for suffix in ("", "-wal"):  # as if the machine had failed here
            shutil.copy(tmp_path / "x.nf" / f"catalog.sqlite{suffix}", tmp_path / f"catalog.sqlite{suffix}")
        shutil.copytree(tmp_path / "x.nf" / "vectors", tmp_path / "vectors")
    lost = 0
    bits = random.Random(3).sample(range(8 * 20_000, 8 * ends[-2]), 12)
    for turn, bit in enumerate([5, 130, 8 * 30, *bits]):  # of the header too
        path = tmp_path / f"{turn}.nf"
        shutil.copytree(tmp_path / "vectors", path / "vectors")
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"catalog.sqlite{suffix}", path)
        flip(path / "catalog.sqlite-wal", bit)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                db = nf.open(path)
            except Corrupt:  # the tables themselves were not merged yet
                db = None
        assert "changes behind the damage are lost" in str(told[0].message), bit
        if db is None:
            lost += 1
            continue
        with db:
            collection = db.collection("c", embedder=None)
            found = [record.to_dict() for record in collection.get(include=["documents", "embeddings"])]
            assert found in [[], *states[:-1]]
            lost += 1
            assert {finding.file.name for finding in db.verify()} >= {"catalog.sqlite-damaged-wal"}
            collection.add(ids="new", embeddings=vectors(1))
        with nf.open(path) as db:  # it is told until someone says that he knows
            assert [finding.file.name for finding in db.verify()] == ["catalog.sqlite-damaged-wal"]
            assert [finding.repairable for finding in db.repair()] == [False]
            assert db.repair(discard=True) == []
            assert db.verify() == []
    assert lost == 15


def test_a_flipped_bit_in_the_last_change_of_the_wal_cannot_be_told(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for i in range(5):
            collection.add(ids=str(i), embeddings=vectors(1, i))
        copy = tmp_path / "copy.nf"
        shutil.copytree(tmp_path / "x.nf", copy, ignore=shutil.ignore_patterns("*-shm"))
    log = copy / "catalog.sqlite-wal"
    flip(log, 8 * (log.stat().st_size - 100))
    with nf.open(copy) as db:
        assert db.verify() == []
        assert [record.id for record in db.collection("c", embedder=None).get()] == ["0", "1", "2", "3"]


def test_a_wal_that_is_damaged_while_it_is_in_use_is_named(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        for i in range(9):
            collection.add(ids=str(i), embeddings=vectors(1, i))
        assert db.verify() == []
        log = tmp_path / "x.nf" / "catalog.sqlite-wal"
        with log.open("rb+") as file:
            file.seek(log.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 4]))
        assert "catalog.sqlite-wal" in {finding.file.name for finding in db.verify()}


def test_a_wal_that_others_write_looks_damaged(tmp_path: Path) -> None:
    """It is opened and read while it is written, and begins anew now and then."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            collection.upsert("x" * 5000, ids="1", embeddings=vectors(1))

    with nf.open(tmp_path / "x.nf", durability="relaxed") as db:
        collection = db.collection("c", embedder=None)
        db._store._writer.execute("PRAGMA wal_autocheckpoint = 20")  # type: ignore[union-attr]
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(300):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    wal.tell(tmp_path / "x.nf", keep=True)
        finally:
            stop.set()
            writer.join()


def test_repair_gives_back_what_a_crash_left(rich: Path) -> None:
    (rich / "vectors" / "c" / "000009.npy.tmp").write_bytes(b"half")
    (rich / "indexes" / "c" / "hnsw-000007.nfi").write_bytes(b"whole")
    execute(rich, "UPDATE collections SET origin = NULL, name = 'other~2' WHERE name = 'other'")
    with nf.open(rich) as db:
        assert db.repair() == []
        assert db.collections() == ["c"]
    left = sorted(file.name for file in rich.rglob("*.n*") if file.is_file())
    assert left == ["000001.npy", "columns-000001.nfi", "hnsw-000001.nfi", "text-000001.nfi"]


def test_a_database_of_small_things_can_be_repaired(tmp_path: Path) -> None:
    made = filled(tmp_path / "x.nf")
    with nf.open(tmp_path / "x.nf") as db:
        db.collection("empty", embedder=None)
        assert db.verify() == db.repair() == []
    intact(tmp_path / "x.nf", made)
