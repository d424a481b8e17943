"""The danger: the quick way for plain metadata lets through, or writes otherwise, what the careful way would not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield import inputs
from nearfield.errors import InvalidInput

NAMES = st.sampled_from(["year", "a.b", "é", "$where", "", 'quo"te', "tab\t", "\ud800"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.text(st.characters(categories=["L", "Cs", "Cc", "S"]), max_size=4),
    st.sampled_from(["nul \0", "\\u0000", "half \ud83d"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(NAMES, st.integers(), max_size=1),
    st.sampled_from([np.float32(0.5), np.int64(3), b"bytes", object()]),
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_the_quick_way_differs_from_the_careful_one(metadata: dict[str, Any]) -> None:
    def outcome() -> Any:
        try:
            return inputs.metadatas([metadata])
        except InvalidInput as error:
            return str(error)

    inputs._fields.clear()
    careful = outcome()
    assert inputs._fields <= {"year", "a.b", "é"}, "a wrong name was taken for a right one"
    inputs._fields.update(["year", "a.b", "é"])
    assert outcome() == careful


def test_names_of_fields_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MOST_FIELDS", 20)
    inputs._fields.clear()
    for i in range(100):
        assert inputs.metadatas([{f"field {i}": i}]) == [f'{{"field {i}":{i}}}']
    assert len(inputs._fields) == 20
