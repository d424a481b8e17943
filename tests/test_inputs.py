"""The danger: the quick way for plain metadata lets through, or writes otherwise, what the careful way would not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
from nearfield import _native, inputs
from nearfield.errors import InvalidInput, NearfieldError
from nearfield.transaction import checksum, document_checksum

NAMES = st.sampled_from(["year", "a.b", "é", "$where", "", 'quo"te', "tab\t", "\ud800"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.text(st.characters(categories=["L", "Cs", "Cc", "S", "P"]), max_size=4),
    st.sampled_from(["nul \0", "\\u0000", "half \ud83d"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(NAMES, st.integers(), max_size=1),
    st.sampled_from([np.float32(0.5), np.int64(3), b"bytes", object()]),
)


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=4) | st.none(), max_size=4))
def test_the_quick_way_differs_from_the_careful_one(metadatas: list[dict[str, Any] | None]) -> None:
    def careful() -> list[str | None]:
        items = enumerate(metadatas)
        return [None if item is None else inputs._metadata(item, f"metadatas[{i}]") for i, item in items]

    def outcome(made: Callable[[], list[str | None]]) -> Any:
        try:
            found = [None if text is None else json.loads(text) for text in made()]
        except InvalidInput as error:
            return str(error)
        return repr(found)  # 1, 1.0 and True are equal, and differ

    assert outcome(lambda: inputs.metadatas(metadatas)) == outcome(careful)


def test_what_passes_for_a_dictionary_or_a_text_is_left_to_the_careful_way() -> None:
    class Shouting(dict[str, Any]):
        def items(self) -> Any:
            return [(name, value.upper()) for name, value in super().items()]

    class Name(str):
        pass

    made = inputs.metadatas([{"a": "x"}, Shouting(a="x"), {Name("a"): Name("x")}, {"a": ["x"]}])
    assert made == ['{"a":"x"}', '{"a":"X"}', '{"a":"x"}', '{"a":["x"]}']


@given(st.integers(0, 2**32 - 10), st.lists(st.tuples(st.text(), st.text(), st.none() | st.text()), max_size=4))
def test_checksums_that_python_and_the_core_count_differently(
    first: int, records: list[tuple[str, str, str | None]]
) -> None:
    ids, metadatas, documents = [[record[i] for record in records] for i in range(3)]
    values: Any = _native.record_lines(7 << 32 | first, ids, metadatas, documents)
    found = [*zip(*[iter(values)] * 6, strict=True)]
    rows = range(first, first + len(records))
    sums = [checksum(row, id, text) for row, id, text in zip(rows, ids, metadatas, strict=True)]
    more = [document_checksum(row, text) for row, text in zip(rows, documents, strict=True)]
    keys = [7 << 32 | row for row in rows]
    assert found == [*zip(keys, ids, sums, more, metadatas, documents, strict=True)]
    lines = [*zip(rows, ids, metadatas, documents, sums, more, strict=True)]
    assert _native.first_damaged(lines) is None
    for at, line in enumerate(lines):
        for wrong in ((line[0] + 1, *line[1:]), (*line[:4], line[4] ^ 1, line[5]), (*line[:2], None, *line[3:])):
            assert _native.first_damaged([*lines[:at], wrong, *lines[at + 1 :]]) == at


def test_a_long_value_fills_the_screen(db: nf.Database) -> None:
    collection = db.collection("c", embedder=None, dimension=2)
    collection.add(ids=["y" * 9000], embeddings=[[1, 2]])
    for use in (
        lambda: collection.get("x" * 9000),
        lambda: collection.add(ids=["y" * 9000], embeddings=[[1, 2]]),
        lambda: collection.add(ids=["z" * 9000] * 2, embeddings=[[1, 2]] * 2),
        lambda: collection.add(ids=["z" * 9000 + "\0"], embeddings=[[1, 2]]),
        lambda: collection.search({"q": "x" * 9000}),
        lambda: collection.add(embeddings=[[1, 2]], metadatas="x" * 9000),
        lambda: collection.similar("x" * 9000),
    ):
        with pytest.raises(NearfieldError) as error:
            use()
        assert len(str(error.value)) < 500
        assert "… (9,0" in str(error.value)


def test_numbers_beyond_those_of_sqlite_are_more_than_there_is(db: nf.Database) -> None:
    collection = db.collection("c", embedder=None)
    collection.add(ids=["a", "b"], embeddings=[[1, 2], [3, 4]], metadatas=[{"n": 1}, {"n": 2}])
    assert len(collection.get(limit=10**30)) == 2
    assert collection.get(offset=10**30) == []
    assert collection.get(offset=2**63 - 1, limit=2**63 - 1, order_by="n", where={"n": {"$gt": 0}}) == []
    assert len(collection.get(limit=10**30, order_by="n", where={"n": {"$gt": 0}})) == 2
    assert collection.facet("n", limit=10**30) == [(1, 1), (2, 1)]
    assert len(collection.search([1, 2], k=10**30)) == 2
    assert len(next(collection.scan(batch=10**30))) == 2
