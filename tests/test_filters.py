"""The danger: a filter that lets through what it should not, or holds back what it should let through.

Every operator is compared with an oracle in plain Python that was written from the docstring of `nearfield.filters`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield import filters
from nearfield.errors import InvalidInput

# -- the oracle ------------------------------------------------------------------------------------------------------


def kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "none" if value is None else "bool"
    return "text" if isinstance(value, str) else "number"


def equal(a: Any, b: Any) -> bool:
    return kind(a) == kind(b) and a == b


def ordered(a: Any, operator: str, b: Any) -> bool:
    if kind(a) != kind(b):
        return False
    return {"$gt": a > b, "$gte": a >= b, "$lt": a < b, "$lte": a <= b}[operator]


def field_matches(metadata: dict[str, Any], field: str, condition: Any) -> bool:
    elements = metadata.get(field)
    elements = elements if isinstance(elements, list) else [elements]
    if not isinstance(condition, dict):
        condition = {"$eq": condition}
    answers = []
    for operator, operand in condition.items():
        if operator in ("$eq", "$ne"):
            found = any(equal(e, operand) for e in elements)
        elif operator in ("$in", "$nin"):
            found = any(equal(e, wanted) for e in elements for wanted in operand)
        elif operator == "$exists":
            found = (field in metadata) == operand
        elif operator == "$not":
            found = field_matches(metadata, field, operand)
        else:
            found = any(ordered(e, operator, operand) for e in elements)
        answers.append(not found if operator in ("$ne", "$nin", "$not") else found)
    return all(answers)


def matches(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    combine = {
        "$and": lambda parts: all(matches(metadata, part) for part in parts),
        "$or": lambda parts: any(matches(metadata, part) for part in parts),
        "$not": lambda part: not matches(metadata, part),
    }
    return all(combine[k](v) if k in combine else field_matches(metadata, k, v) for k, v in where.items())


# -- random metadata and filters -------------------------------------------------------------------------------------

FIELDS = st.sampled_from(["a", "b", "ключ", "with space", "a.b", "it's", "c[0]"])
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=3) | st.sampled_from(
    ["1", "true", "null", "", '"', "\\", "a'b"]
)
INTEGER = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1])
FLOAT = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0**53]) | st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.none() | st.booleans() | INTEGER | FLOAT | TEXT
METADATA = st.dictionaries(FIELDS, SCALAR | st.lists(SCALAR, max_size=3), max_size=4)
OPERATORS = st.recursive(
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), SCALAR, min_size=1)
    | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), INTEGER | FLOAT | TEXT, min_size=1)
    | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(SCALAR, max_size=4), min_size=1)
    | st.fixed_dictionaries({"$exists": st.booleans()}),
    lambda inner: st.fixed_dictionaries({"$not": inner}),
    max_leaves=2,
)
WHERE = st.recursive(
    st.dictionaries(FIELDS, SCALAR | OPERATORS, min_size=0, max_size=2),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1)
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def sql() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


def selected(
    sql: sqlite3.Connection, filter: filters.Filter | None, metadatas: list[Any], documents: list[Any]
) -> list[int]:
    if filter is None:
        return list(range(len(metadatas)))
    condition, parameters = filters.to_sql(filter)
    sql.execute("CREATE TEMP TABLE records (metadata, document)")
    try:
        rows = [
            (json.dumps(metadata, ensure_ascii=False), text)
            for metadata, text in zip(metadatas, documents, strict=True)
        ]
        sql.executemany("INSERT INTO records VALUES (?, ?)", rows)
        return [row - 1 for (row,) in sql.execute(f"SELECT rowid FROM records WHERE {condition}", parameters)]
    finally:
        sql.execute("DROP TABLE records")


@settings(max_examples=600, deadline=None)
@given(metadatas=st.lists(METADATA, max_size=6), where=WHERE)
def test_every_operator_agrees_with_the_oracle(sql: sqlite3.Connection, metadatas: list[Any], where: Any) -> None:
    found = selected(sql, filters.parse(where), metadatas, [None] * len(metadatas))
    assert found == [i for i, metadata in enumerate(metadatas) if matches(metadata, where)]


# Values that meet often, so that agreement is not agreement on "nothing matches".
CLOSE = [None, True, False, 0, 1, 2, 0.0, 1.0, 1.5, "", "1", "a", "b", [], [1], [1, "a"], [None], [True, 2]]


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists"])
def test_each_operator_on_all_pairs_of_kinds(sql: sqlite3.Connection, operator: str) -> None:
    metadatas: list[dict[str, Any]] = [{}, *({"f": value} for value in CLOSE)]
    operands: list[Any] = [value for value in CLOSE if not isinstance(value, list)]
    if operator in ("$in", "$nin"):
        operands = [[], *([a, b] for a in operands for b in operands)]
    elif operator == "$exists":
        operands = [True, False]
    elif operator not in ("$eq", "$ne"):
        operands = [value for value in operands if value is not None and not isinstance(value, bool)]
    for operand in operands:
        for where in (
            {"f": {operator: operand}},
            {"f": {"$not": {operator: operand}}},
            {"$not": {"f": {operator: operand}}},
        ):
            wanted = [i for i, metadata in enumerate(metadatas) if matches(metadata, where)]
            assert selected(sql, filters.parse(where), metadatas, [None] * len(metadatas)) == wanted, where


def test_the_documented_examples_mean_what_they_say(sql: sqlite3.Connection) -> None:
    years = [{"year": 1989}, {"year": 1990}, {"year": 1999.5}, {"year": 2000}, {"year": "1995"}, {}]
    find = lambda where: selected(sql, filters.parse(where), years, [None] * 6)  # noqa: E731
    assert find({"year": {"$gte": 1990, "$lt": 2000}}) == [1, 2]
    assert find({"year": {"$not": {"$gt": 1990}}}) == [0, 1, 4, 5]
    assert find({"$or": [{"year": 1989.0}, {"year": None}]}) == [0, 5]
    assert find({"year": {"$ne": None}}) == [0, 1, 2, 3, 4]


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.none() | st.text(st.sampled_from("abAé'%_"), max_size=4), max_size=6),
    text=st.text(st.sampled_from("abAé'%_"), min_size=1, max_size=2),
)
def test_document_filters_agree_with_in(sql: sqlite3.Connection, documents: list[str | None], text: str) -> None:
    for where, wanted in (
        ({"$contains": text}, lambda d: text in (d or "")),
        ({"$not_contains": text}, lambda d: text not in (d or "")),
        ({"$not": {"$contains": text}}, lambda d: text not in (d or "")),
        ({"$or": [{"$contains": text}, {"$contains": "a"}]}, lambda d: text in (d or "") or "a" in (d or "")),
        ({"$contains": text, "$not_contains": "A"}, lambda d: text in (d or "") and "A" not in (d or "")),
    ):
        found = selected(sql, filters.parse(None, where), [{}] * len(documents), documents)
        assert found == [i for i, document in enumerate(documents) if wanted(document)]


def test_both_filters_must_hold(sql: sqlite3.Connection) -> None:
    both = filters.parse({"n": 1}, {"$contains": "x"})
    assert selected(sql, both, [{"n": 1}, {"n": 1}, {"n": 2}], ["x", "y", "x"]) == [0]


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
        ({"a": {"b": 1}}, r"where\['a'\]\['b'\]: fields are not nested"),
        ({"a": [1, 2]}, r"where\['a'\]: a list cannot be compared.*\$in"),
        ({"a": {"$in": "xyz"}}, r"\['\$in'\]: must be a list of values, got 'xyz' \(str\)"),
        ({"a": {"$in": [1, {}]}}, r"\['\$in'\]\[1\]: must be str, int"),
        ({"a": {"$gt": True}}, r"\['\$gt'\]: only numbers and text have an order"),
        ({"a": {"$lte": None}}, r"\['\$lte'\]: only numbers and text have an order"),
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
        ({"$regex": "x"}, r"where_document\['\$regex'\]: no such operator.*\$contains"),
        ("cat", "must be a dictionary"),
    ],
)
def test_a_wrong_document_filter_is_told(where: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        filters.parse(None, where)


def test_nothing_from_outside_gets_into_the_sql(sql: sqlite3.Connection) -> None:
    evil = "x' OR 1=1 --"
    for where in ({"a": evil}, {evil: 1}, {"a": {"$in": [evil]}}, {evil: {"$exists": True}}):
        filter = filters.parse(where)
        assert filter is not None
        assert "1=1" not in filters.to_sql(filter)[0]
        assert selected(sql, filter, [{"a": "b"}], [None]) == []
    assert selected(sql, filters.parse({evil: evil}), [{evil: evil}], [None]) == [0]


def test_the_largest_filters_allowed_run_and_larger_ones_are_refused(sql: sqlite3.Connection) -> None:
    wide = {"$or": [{"a": n} for n in range(filters.MAX_CONDITIONS)]}
    assert selected(sql, filters.parse(wide), [{"a": 999}, {"a": 1000}], [None] * 2) == [0]
    with pytest.raises(InvalidInput, match=r"1001 conditions.*\$in"):
        filters.parse({"$or": [{"a": n} for n in range(filters.MAX_CONDITIONS + 1)]})
    many = {"a": {"$in": list(range(200_000))}}
    assert selected(sql, filters.parse(many), [{"a": 199_999}, {"a": 200_000}], [None] * 2) == [0]
    deep: Any = {"a": {"$ne": 1}}  # a field with operators is a level
    for level in range(filters.MAX_DEPTH - 1):
        deep = {"$or": [{"b": 1}, deep]} if level % 2 else {"$not": deep}
    for metadata in ({"a": 1}, {"a": 2}):
        assert selected(sql, filters.parse(deep), [metadata], [None]) == ([0] if matches(metadata, deep) else [])
    with pytest.raises(InvalidInput, match="levels deep"):
        filters.parse({"$not": deep})
