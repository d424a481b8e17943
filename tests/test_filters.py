"""The danger: a filter that lets through what it should not, or holds back what it should let through.

Every operator is compared with `filter_oracle`, which goes record by record in plain Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfield as nf
from databases import vectors
from filter_oracle import document_matches, matches, sort_key, walk
from nearfield import _native, filters, live
from nearfield.errors import Corrupt, InvalidInput
from nearfield.live import Moved
from nearfield.transaction import Transaction

F = nf.F

# -- random metadata and filters -------------------------------------------------------------------------------------

FIELDS = st.sampled_from(["a", "b", "ключ", "with space", "a.b", "it's", "c[0]", "a.b.c"])
DATES = [
    "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01 02:00+02:00", "2019-12-31T23:59:59.999999", "2020-02-30",
    "2020", "2020-01-01T00:00:00.000001999", "2024-02-29t12:30-0930", "2020-01-01T", "1969-12-31T23:59Z",
]  # fmt: skip
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=3) | st.sampled_from(
    ["1", "true", "null", "", '"', "\\", "a'b", "aaa", "aaaaaaaab", "aaaaaaaac", "%", "a_b", *DATES]
)
INTEGER = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1])
FLOAT = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0**53, 2.0**63, -(2.0**63), 5e-324]) | st.floats(
    allow_nan=False, allow_infinity=False
)
TIME = (
    st.sampled_from([date(2020, 1, 1), datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))])
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
)
SCALAR = st.none() | st.booleans() | INTEGER | FLOAT | TEXT
OPERAND = SCALAR | TIME
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c", "b.c"]), inner, max_size=2)
    ),
    max_leaves=4,
)
METADATA = st.dictionaries(FIELDS, VALUE, max_size=4)
PATTERN = st.lists(st.sampled_from(["a", "b", "%", "_", "\\\\", "\\%", "\\_", ".", "(", "é"]), max_size=4).map("".join)
REGEX = st.sampled_from(["a", "^a", "a{2}", "[ab]b", "(?i)A", "^.$", "^$", "a|b", r"\d\d", r"\.", "(?s)a.b", "é"])
OPERATORS = st.recursive(
    st.dictionaries(st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]), OPERAND, min_size=1)
    | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), INTEGER | FLOAT | TEXT | TIME, min_size=1)
    | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(OPERAND, max_size=4), min_size=1)
    | st.fixed_dictionaries({"$exists": st.booleans()})
    | st.fixed_dictionaries({"$like": PATTERN})
    | st.fixed_dictionaries({"$regex": REGEX}),
    lambda inner: st.fixed_dictionaries({"$not": inner}),
    max_leaves=2,
)
CONDITION = OPERAND | OPERATORS | st.dictionaries(st.sampled_from(["a", "b", "b.c"]), OPERAND | OPERATORS, min_size=1)
WHERE = st.recursive(
    st.dictionaries(FIELDS, CONDITION, min_size=0, max_size=2),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1)
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=5,
)


def built(metadatas: list[Any], first: int = 0) -> _native.Columns:
    columns = _native.Columns()
    rows = np.arange(first, first + len(metadatas), dtype=np.int64)
    columns.add(rows, [json.dumps(metadata, ensure_ascii=False) for metadata in metadatas], first + len(metadatas))
    return columns


def selected(where: Any, metadatas: list[Any]) -> list[int]:
    found = filters.parse(where)
    mask = built(metadatas).matches(None if found is None else filters.to_json(found.fields or {}))
    return np.flatnonzero(mask).tolist()


@settings(max_examples=1500)
@given(metadatas=st.lists(METADATA, max_size=6), where=WHERE)
def test_every_operator_agrees_with_the_oracle(metadatas: list[Any], where: Any) -> None:
    assert selected(where, metadatas) == [i for i, metadata in enumerate(metadatas) if matches(metadata, where)]


# Values that meet often, so that agreement is not agreement on "nothing matches".
ONES = [None, True, False, 0, 1, 2, 0.0, 1.0, 1.5, "", "1", "a", "b", "ab", "2020", "2020-01-01", "2020-01-01T00:00Z"]
CLOSE = [*ONES, [], [1], [1, "a"], [None], [True, 2], ["ab", [1.5]], {}, {"g": 1}, [{"g": "a"}, {"g": 1}], {"g": ["a"]}]
TIMES = [date(2020, 1, 1), datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2019, 1, 1)]
ORDERED = [value for value in [*ONES, *TIMES] if value is not None and not isinstance(value, bool)]
LISTS = [[], *([a, b] for a in [*ONES, *TIMES] for b in ["a", 1, None, TIMES[0]])]
OPERANDS: dict[str, list[Any]] = {
    **{operator: [*ONES, *TIMES] for operator in ("$eq", "$ne", "$contains", "$not_contains")},
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), ORDERED),
    **dict.fromkeys(("$in", "$nin"), LISTS),
    "$exists": [True, False],
    "$like": ["", "%", "_", "a%", "%b", "2020%", "\\_"],
    "$regex": ["", "^a", "b$", "20"],
}


@pytest.mark.parametrize("operator", OPERANDS)
def test_each_operator_on_all_pairs_of_kinds(operator: str) -> None:
    metadatas: list[dict[str, Any]] = [{}, *({"f": value} for value in CLOSE), {"f.g": 1}, {"f.g": "x", "f": {"g": 1}}]
    columns = built(metadatas)
    for operand in OPERANDS[operator]:
        for where in (
            {"f": {operator: operand}},
            {"f": {"$not": {operator: operand}}},
            {"$not": {"f.g": {operator: operand}}},
            {"f": {"g": {operator: operand}}},
        ):
            found = filters.parse(where)
            assert found is not None
            assert found.fields is not None
            mask = columns.matches(filters.to_json(found.fields)).tolist()
            assert mask == [matches(metadata, where) for metadata in metadatas], where


def test_the_documented_examples_mean_what_they_say() -> None:
    years = [{"year": 1989}, {"year": 1990}, {"year": 1999.5}, {"year": 2000}, {"year": "1995"}, {}]
    assert selected({"year": {"$gte": 1990, "$lt": 2000}}, years) == [1, 2]
    assert selected({"year": {"$not": {"$gt": 1990}}}, years) == [0, 1, 4, 5]
    assert selected({"$or": [{"year": 1989.0}, {"year": None}]}, years) == [0, 5]
    assert selected({"year": {"$ne": None}}, years) == [0, 1, 2, 3, 4]
    large = [{"n": 2.0**63}, {"n": 2**63 - 1}, {"n": 2**53 + 1}, {"n": 2.0**53}]
    assert selected({"n": {"$gt": 2**63 - 1}}, large) == [0]
    assert selected({"n": {"$lt": 2**53 + 1}}, large) == selected({"n": 2**53}, large) == [3]
    tags = [{"tags": ["cat", "dog"]}, {"tags": "category"}, {"tags": ["category"]}]
    assert selected({"tags": {"$contains": "cat"}}, tags) == [0, 1]
    assert selected({"tags": {"$like": "cat%"}}, tags) == [0, 1, 2]
    nested = [{"by": {"name": "Ann"}}, {"by.name": "Ann"}, {"by": [{"name": "Bob"}, {"name": "Ann"}]}, {"by": "Ann"}]
    assert selected({"by.name": "Ann"}, nested) == selected({"by": {"name": "Ann"}}, nested) == [0, 1, 2]
    days = [{"d": "2020-06-01"}, {"d": "2020-06-01T00:30:00+02:00"}, {"d": "2020-05"}, {"d": 2020}]
    assert selected({"d": {"$gte": date(2020, 6, 1)}}, days) == [0]
    assert selected({"d": {"$lt": "2020-06-01"}}, days) == [1, 2]
    assert selected({"d": {"$gte": "2020-05"}}, days) == [0, 1, 2]


@settings(max_examples=300)
@given(
    documents=st.lists(st.none() | st.text(st.sampled_from("abAé'%_"), max_size=4), max_size=6),
    text=st.text(st.sampled_from("abAé'%_"), min_size=1, max_size=2),
)
def test_document_filters_agree_with_the_oracle(documents: list[str | None], text: str) -> None:
    for where in (
        {"$contains": text},
        {"$not_contains": text},
        {"$not": {"$contains": text}},
        {"$or": [{"$contains": text}, {"$contains": "a"}]},
        {"$contains": text, "$not_contains": "A"},
        {"$regex": f"^{text}"},
        {"$and": [{"$regex": "(?i)[a]"}, {"$not": {"$regex": "b$"}}]},
    ):
        found = filters.parse(None, where)
        assert found is not None
        assert found.document is not None
        mask = _native.documents_matching(filters.to_json(found.document), documents)
        assert mask.tolist() == [document_matches(document, where) for document in documents]


# -- columns that change ---------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    metadatas=st.lists(METADATA, min_size=1, max_size=6),
    changes=st.lists(st.tuples(st.integers(0, 5), st.none() | METADATA), max_size=6),
    wheres=st.lists(WHERE, max_size=3),
    by=st.lists(st.tuples(FIELDS, st.booleans()), min_size=1, max_size=2),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 6)),
)
def test_columns_that_changed_answer_as_if_built_anew(
    tmp_path_factory: pytest.TempPathFactory, metadatas: Any, changes: Any, wheres: Any, by: Any, cut: tuple[int, int]
) -> None:
    columns = built(metadatas)
    held: list[Any] = list(metadatas)
    for row, metadata in changes:
        if row >= len(held) or held[row] is None:
            continue
        held[row] = metadata
        if metadata is None:
            columns.remove(np.array([row], dtype=np.int64))
        else:
            columns.replace(np.array([row], dtype=np.int64), [json.dumps(metadata)])
    path = tmp_path_factory.getbasetemp() / "columns.nfi"
    columns.save(path)
    for now in (columns, _native.Columns.load(path)):
        for where in wheres:
            if found := filters.parse(where):
                mask = now.matches(filters.to_json(found.fields or {}))
                assert mask.tolist() == [held_ is not None and matches(held_, where) for held_ in held]
        everything = now.matches(None)
        assert everything.tolist() == [metadata is not None for metadata in held]
        wanted = [row for row, metadata in enumerate(held) if metadata is not None]
        for name, descending in reversed(by):  # sorting is stable, and Python's reverse=True keeps ties in order too
            wanted.sort(key=lambda row, n=name, d=descending: sort_key(held[row], n, d), reverse=descending)  # type: ignore[misc]
            wanted.sort(key=lambda row, n=name, d=descending: not sort_key(held[row], n, d))  # type: ignore[misc]
        start, stop = cut[0], sum(cut)
        assert now.sorted(everything, by, start, stop).tolist() == wanted[start:stop]
        counts = json.loads(now.facet(everything, by[0][0], None))
        assert {json.dumps(value): count for value, count in counts} == facet(held, by[0][0])
        assert [count for _, count in counts] == sorted((count for _, count in counts), reverse=True)


def facet(metadatas: list[Any], path: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for metadata in metadatas:
        values = [v for here, v, _ in walk(metadata or {}, "", False) if here == path and type(v) is not object]
        whole = [int(v) if isinstance(v, float) and v.is_integer() and -(2**63) <= v < 2**63 else v for v in values]
        for value in {json.dumps(value) for value in whole}:
            counts[value] = counts.get(value, 0) + 1
    return counts


def test_values_of_dead_rows_are_thrown_out_and_nothing_else() -> None:
    count = 20_000
    columns = built([{"n": n, "t": f"text {n}", "b": n % 2 == 0} for n in range(count)])
    columns.remove(np.arange(0, 15_000, dtype=np.int64))
    assert columns.matches('{"exists": "n"}').sum() == 5_000
    columns.replace(np.array([16_000], dtype=np.int64), ['{"n": -1}'])
    for where, wanted in (
        ({"n": {"$lt": 15_002}}, [15_000, 15_001, 16_000]),
        ({"t": "text 16000"}, []),
        ({"t": "text 16001"}, [16_001]),
        ({"t": "text 14999"}, []),
        ({"b": None}, [16_000]),
    ):
        found = filters.parse(where)
        assert found is not None
        assert np.flatnonzero(columns.matches(filters.to_json(found.fields or {}))).tolist() == wanted


def test_a_saved_file_that_was_damaged_is_told_wherever_a_bit_flips(tmp_path: Path) -> None:
    path = tmp_path / "columns.nfi"
    built([{"a": n, "b": f"t{n}", "c": [n / 7, None, True]} for n in range(20)]).save(path)
    sound = path.read_bytes()
    for at in range(0, len(sound), 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :])
        with pytest.raises(nf.errors.NearfieldError):
            _native.Columns.load(path)
    path.write_bytes(sound[:-5])
    with pytest.raises(Corrupt):
        _native.Columns.load(path)


@pytest.mark.parametrize("json", ["[1]", "1", "{", '{"a": NaN}', "{} {}"])
def test_metadata_that_is_no_object_is_corrupt(json: str) -> None:
    with pytest.raises(Corrupt, match="metadata of row 3"):
        _native.Columns().add(np.array([3], dtype=np.int64), [json], 4)


# -- in a collection -------------------------------------------------------------------------------------------------


def test_both_filters_must_hold() -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        collection.add(
            ["x", "y", "x"], embeddings=vectors(3), metadatas=[{"n": 1}, {"n": 1}, {"n": 2}], ids=list("abc")
        )
        both: dict[str, Any] = {"where": {"n": 1}, "where_document": {"$contains": "x"}}
        assert [record.id for record in collection.get(**both)] == ["a"]
        assert collection.search(vectors(3)[1], k=3, **both).ids == ["a"]
        assert collection.count({"n": 1}, where_document={"$contains": "x"}) == 1
        assert collection.facet("n", {"n": 2}, where_document={"$regex": "[x]"}) == [(2, 1)]
        assert collection.delete(["a", "b"], **both) == 1
        assert collection.count() == 2


def test_a_filter_sees_every_change_of_every_process_at_once(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as one, nf.open(tmp_path / "x.nf") as two:
        a, b = one.collection("c", embedder=None), two.collection("c", embedder=None)
        ids = lambda where: sorted(record.id for record in a.get(where=where))  # noqa: E731
        b.add(ids=list("uvwx"), embeddings=vectors(4), metadatas=[{"n": n} for n in range(4)])
        assert ids({"n": {"$gte": 2}}) == ["w", "x"]
        b.update("u", metadatas={"n": 9})
        assert ids({"n": {"$gte": 2}}) == ["u", "w", "x"]
        b.update("w", metadatas={"n": 0}, embeddings=vectors(1))
        assert ids({"n": {"$gte": 2}}) == ["u", "x"]
        b.delete("x")
        b.add(ids=["y", "z"], embeddings=vectors(2), metadatas=[{"n": 5}, {"m": 5}])
        b.delete("z")
        assert ids({"n": {"$gte": 2}}) == ["u", "y"]
        assert ids({"m": {"$exists": True}}) == []
        b.upsert(ids=["u"], embeddings=vectors(1), metadatas=[{"n": 1}])
        b.update("u", metadatas={"n": 7}, documents="found")
        assert ids({"n": 7}) == ["u"]
        assert [r.id for r in a.get(where={"n": 7}, where_document={"$contains": "found"})] == ["u"]
        assert a.delete(where={"n": {"$gte": 5}}) == 2
        assert b.count({"n": {"$gte": 5}}) == 0
        assert b.count({"n": {"$gte": 0}}) == a.count() == 2


def test_an_older_view_that_is_still_open_is_not_shown_what_came_later(tmp_path: Path) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=list("ab"), embeddings=vectors(2), metadatas=[{"n": 1}, {"n": 2}])
        columns = collection._reader._columns
        filter = filters.parse({"n": {"$lt": 5}})
        with collection._store.reading() as older:
            state = older.state(collection._id, "c")
            assert columns.allowed(older, state, filter).tolist() == [True, True]
            collection.delete("a")
            collection.update("b", metadatas={"n": 9})
            assert collection.count({"n": {"$lt": 5}}) == 0
            with pytest.raises(Moved):
                columns.allowed(older, state, filter)


@pytest.mark.parametrize("races", [1, 9])
def test_a_delete_that_was_overtaken_takes_what_matches_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, races: int
) -> None:
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=list("abc"), embeddings=vectors(3), metadatas=[{"n": n} for n in range(3)])
        look, left = collection._reader.matching, iter(range(races))

        def overtaken(*arguments: Any) -> Any:
            found = look(*arguments)
            for race in left:  # someone else writes between looking and deleting
                collection.update(["a", "b"], metadatas=[{"n": 9}, {"n": race}])
                break
            return found

        monkeypatch.setattr(collection._reader, "matching", overtaken)
        assert collection.delete(where={"n": {"$lt": 9}}) == 2
        assert [record.id for record in collection.get()] == ["a"]


def test_the_next_process_reads_what_was_published_and_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WORTH_PUBLISHING", 10)
    made = vectors(40)
    with nf.open(tmp_path / "x.nf") as db:
        collection = db.collection("c", embedder=None)
        collection.add(ids=[str(n) for n in range(40)], embeddings=made, metadatas=[{"n": n} for n in range(40)])
        assert collection.count({"n": {"$lt": 5}}) == 5
    published = list((tmp_path / "x.nf").rglob("columns-*"))
    assert len(published) == 1
    with nf.open(tmp_path / "x.nf") as db:  # nobody filters here
        collection = db.collection("c", embedder=None)
        collection.update("1", metadatas={"n": 100})
        collection.delete("2")
        collection.add(ids=["new"], embeddings=made[:1], metadatas=[{"n": 3.0}])
    read: list[int] = []
    whole = Transaction.metadata
    monkeypatch.setattr(Transaction, "metadata", lambda self, id, row: read.append(row) or whole(self, id, row))
    with nf.open(tmp_path / "x.nf") as db:
        found = db.collection("c", embedder=None).get(where={"n": {"$lt": 5}})
        assert [record.id for record in found] == ["0", "3", "4", "new"]
        assert read == [40]
    content = bytearray(published[0].read_bytes())
    content[len(content) // 2] ^= 1
    published[0].write_bytes(content)
    with nf.open(tmp_path / "x.nf") as db, pytest.warns(match="made again.*checksum"):
        assert db.collection("c", embedder=None).count({"n": {"$lt": 5}}) == 4
    with nf.open(tmp_path / "x.nf") as db:
        assert db.collection("c", embedder=None).count({"n": {"$lt": 5}}) == 4


def test_get_sorts_pages_and_chooses() -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        fields = [
            {"y": 2},
            {"y": "2020-01-01"},
            {},
            {"y": [5, 1]},
            {"y": 2, "z": 1},
            {"y": "b"},
            {"y": True},
            {"y": None},
        ]
        collection.add(list("abcdefgh"), ids=list("abcdefgh"), embeddings=vectors(8), metadatas=fields)
        ids = lambda **options: "".join(record.id for record in collection.get(**options))  # noqa: E731
        assert ids(order_by="y") == "daebfg" + "ch"
        assert ids(order_by="-y") == "gfbdae" + "ch"
        assert ids(order_by=["y", "-z"]) == "deabfg" + "ch"
        assert ids(order_by=-F("y"), limit=2, offset=1) == "fb"
        assert ids(order_by=[F("z"), "-y"], where={"y": {"$exists": True}}, limit=3) == "egf"
        assert ids(order_by="y", ids=["b", "a", "a"]) == "ab"
        assert ids(order_by="y", where_document={"$regex": "[ae]"}) == "ae"
        assert ids(where={"y": 2}, limit=1, offset=1) == "e"
        assert ids(order_by="nowhere") == "abcdefgh"
        record = collection.get(order_by="y", limit=1, include=["embeddings"])[0]
        assert (record.document, record.metadata) == (None, {})
        np.testing.assert_array_equal(record.embedding, vectors(8)[3])
        for wrong in (5, ["y", 5], "", "-", [None]):
            with pytest.raises(InvalidInput, match="order_by"):
                collection.get(order_by=wrong)


def test_facets_count_each_record_once_for_each_value() -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        fields = [
            {"t": ["x", "y", "x"]},
            {"t": "x", "n": 1},
            {"t": None, "n": 1.0},
            {},
            {"n": True},
            {"by": {"n": 0.5}},
        ]
        collection.add(ids=list("abcdef"), embeddings=vectors(6), metadatas=fields)
        assert collection.facet("t") == [("x", 2), ("y", 1), (None, 1)]
        assert collection.facet(F("n")) == [(1, 2), (True, 1)]
        assert collection.facet("by.n", limit=5) == [(0.5, 1)]
        assert collection.facet("t", {"n": 1}) == [("x", 1), (None, 1)]
        assert collection.facet("t", limit=1) == [("x", 2)]
        assert collection.facet("by") == collection.facet("nowhere") == []
        with pytest.raises(InvalidInput, match="field: a field name must be a string"):
            collection.facet(5)  # type: ignore[arg-type]


def test_what_python_has_for_dates_and_nests_comes_back_as_json_has_it() -> None:
    with nf.open() as db:
        collection = db.collection("c", embedder=None)
        moment = datetime(2020, 5, 6, 7, tzinfo=timezone(timedelta(hours=2)))
        stored = {
            "day": date(2020, 5, 6),
            "at": [moment, np.datetime64("2020-05-06T05:00", "ns")],
            "by": {"name": "Ann", "roles": [{"of": 1}, ("x", None)]},
        }
        collection.add(ids="a", embeddings=vectors(1), metadatas=stored)
        assert collection.get("a")[0].metadata == {
            "day": "2020-05-06",
            "at": ["2020-05-06T07:00:00+02:00", "2020-05-06T05:00:00"],
            "by": {"name": "Ann", "roles": [{"of": 1}, ["x", None]]},
        }
        for where in (
            {"day": date(2020, 5, 6)},
            {"at": {"$in": [moment.astimezone(UTC)]}},
            {"at": np.datetime64("2020-05-06T05")},
            {"by.roles.of": 1.0},
            {"by.roles": {"$contains": "x"}},
            {"by": {"name": "Ann", "roles": {"of": {"$gt": 0}}}},
        ):
            assert collection.count(where) == 1, where


def test_a_zone_with_seconds_is_stored_as_utc() -> None:
    odd = timezone(timedelta(hours=1, seconds=20))
    assert filters.scalar(datetime(1890, 1, 1, 12, tzinfo=odd), "x") == "1890-01-01T10:59:40+00:00"


# -- as Python -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "where"),
    [
        (F("y") == 1, {"y": {"$eq": 1}}),
        (F("y") != 1, {"y": {"$ne": 1}}),
        (F("y") > 1, {"y": {"$gt": 1}}),
        (F("y") >= 1, {"y": {"$gte": 1}}),
        (F("y") < 1, {"y": {"$lt": 1}}),
        (F("y") <= 1, {"y": {"$lte": 1}}),
        (F("y").isin(n for n in (1, 2)), {"y": {"$in": [1, 2]}}),
        (F("y").contains("x"), {"y": {"$contains": "x"}}),
        (F("y").like("x%"), {"y": {"$like": "x%"}}),
        (F("y").matches("x+"), {"y": {"$regex": "x+"}}),
        (F("y").exists(), {"y": {"$exists": True}}),
        (~F("y").exists(), {"$not": {"y": {"$exists": True}}}),
        ((F("a") == 1) & (F("b") == 2) & {"c": 3}, {"$and": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}, {"c": 3}]}),
        ({"a": 1} | (F("b") == 2) | (F("c") == 3), {"$or": [{"a": 1}, {"b": {"$eq": 2}}, {"c": {"$eq": 3}}]}),
        (
            {"a": 1} & ((F("b") == 2) | (F("c") == 3)),
            {"$and": [{"a": 1}, {"$or": [{"b": {"$eq": 2}}, {"c": {"$eq": 3}}]}]},
        ),
    ],
)
def test_an_expression_is_the_where_it_looks_like(condition: Any, where: Any) -> None:
    assert dict(condition) == where
    assert repr(condition) == repr(where)
    assert filters.parse(condition) == filters.parse(where)


def test_expressions_that_python_would_read_otherwise_are_refused() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: (F("a") == 1) and (F("b") == 2),
        lambda: not F("a").exists(),
        lambda: 1 < F("a") < 5,
    ]
    for make in wrong:
        with pytest.raises(InvalidInput, match=r"& \| ~"):
            make()
    with pytest.raises(TypeError):
        assert F("a") > 1 & F("b")  # type: ignore[operator]
    with pytest.raises(TypeError):
        (F("a") > 1) & 5  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="must be a string"):
        F(5)  # type: ignore[arg-type]
    assert selected(F("a").isin([1, 2]) & ~(F("a") == 1), [{"a": 1}, {"a": 2}, {"a": [1, 2]}]) == [1]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_filter_is_no_filter(empty: Any) -> None:
    assert filters.parse(empty) is None
    assert filters.parse(empty, empty) is None


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("year", "where: must be a dictionary"),
        ({"year": {"$gte": 1, "$around": 2}}, r"where\['year'\]\['\$around'\]: no such operator.*\$gte"),
        ({"$near": 1}, r"where\['\$near'\].*\$and"),
        ({"$and": []}, r"where\['\$and'\]: must be a list with at least one"),
        ({"$or": [{"a": 1}, 5]}, r"where\['\$or'\]\[1\]: must be a dictionary"),
        ({"$not": [{"a": 1}]}, r"where\['\$not'\]: must be a dictionary"),
        ({"a": {}}, r"where\['a'\]: no operator given"),
        ({"a": {"b": 1, "$gt": 2}}, r"where\['a'\]: operators and names of fields stand side by side"),
        ({"a": {5: 1}}, r"where\['a'\]: a field name must be a string, got 5"),
        ({"a": {"$like": 5}}, r"\['\$like'\]: must be a text, got 5"),
        ({"a": {"$like": "x\\"}}, r"\['\$like'\].*ends in a backslash"),
        ({"a": {"$regex": "(b"}}, r"where\['a'\]\['\$regex'\]: .\(b. is no regular expression: unclosed group"),
        ({"a": {"$regex": r"(a)\1"}}, "backreferences are not supported"),
        ({"a": {"$regex": "a{1000}{1000}"}}, "no regular expression"),
        ({"a": {"$gt": np.datetime64("NaT")}}, "must be finite"),
        ({"a": timedelta(1)}, "must be str, int"),
        ({"a": "\ud800"}, "half a surrogate"),
        ({"a": [1, 2]}, r"where\['a'\]: a list cannot be compared.*\$in"),
        ({"a": {"$in": "xyz"}}, r"\['\$in'\]: must be a list of values, got 'xyz' \(str\)"),
        ({"a": {"$in": [1, {}]}}, r"\['\$in'\]\[1\]: must be str, int"),
        ({"a": {"$gt": True}}, r"\['\$gt'\]: only numbers, text and dates have an order"),
        ({"a": {"$lte": None}}, r"\['\$lte'\]: only numbers, text and dates have an order"),
        ({"a": {"$exists": 1}}, r"\['\$exists'\]: must be True or False"),
        ({"a": {"$not": 5}}, r"\['\$not'\]: must hold operators.*\$ne"),
        ({"a": float("nan")}, "must be finite"),
        ({"a": 2**63}, "64 bits"),
        ({"a": b"x"}, r"got b'x' \(bytes\)"),
        ({5: 1}, "must be a string, got 5"),
        ({'a"b': 1}, "cannot be a field name"),
        ({"": 1}, "cannot be a field name"),
    ],
)
def test_a_wrong_filter_is_told_where_and_what_is_possible(where: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        filters.parse(where)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"$contains": ""}, "must be a text that is not empty"),
        ({"$gt": "x"}, r"where_document\['\$gt'\]: no such operator.*\$contains.*\$regex"),
        ({"$regex": "["}, r"where_document\['\$regex'\].*no regular expression"),
        ("cat", "must be a dictionary"),
    ],
)
def test_a_wrong_document_filter_is_told(where: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        filters.parse(None, where)


def test_the_largest_filters_allowed_run_and_larger_ones_are_refused() -> None:
    wide = {"$or": [{"a": n} for n in range(filters.MAX_CONDITIONS)]}
    assert selected(wide, [{"a": 999}, {"a": 1000}]) == [0]
    with pytest.raises(InvalidInput, match=r"1001 conditions.*\$in"):
        filters.parse({"$or": [{"a": n} for n in range(filters.MAX_CONDITIONS + 1)]})
    many: dict[str, Any] = {"a": {"$in": [*range(200_000), *(f"t{n}" for n in range(1000)), 0.5]}}
    assert selected(many, [{"a": 199_999}, {"a": 200_000}, {"a": "t5"}, {"a": "t"}, {"a": 0.5}]) == [0, 2, 4]
    deep: Any = {"a": {"$ne": 1}}  # a field with operators is a level
    for level in range(filters.MAX_DEPTH - 1):
        deep = {"$or": [{"b": 1}, deep], "$and": [{"c": None}]} if level % 2 else {"$not": deep}
    for metadata in ({"a": 1}, {"a": 2}):
        assert selected(deep, [metadata]) == ([0] if matches(metadata, deep) else [])
    with pytest.raises(InvalidInput, match="levels deep"):
        filters.parse({"$not": deep})


def test_many_texts_are_looked_through_as_few_are() -> None:
    """Dictionaries of many texts are split between threads."""
    metadatas = [{"t": f"{'common' * (n % 2)}{n:05d}"} for n in range(40_000)]
    columns = built(metadatas)
    for where in (
        {"t": {"$like": "%7_7%"}},
        {"t": {"$gt": "common39990"}},
        {"t": {"$in": ["00012", "x", "common00001"]}},
    ):
        found = filters.parse(where)
        assert found is not None
        mask = columns.matches(filters.to_json(found.fields or {}))
        assert mask.tolist() == [matches(metadata, where) for metadata in metadatas]
