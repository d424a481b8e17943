"""The danger: a promise that nothing checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "promises.md").read_text()
LINES = [line for line in PAGE.splitlines()[1:] if line and not line.startswith("#")]


def test_every_sentence_is_a_promise_with_its_test() -> None:
    assert LINES[0] == "Each sentence names the test that would fail if it were not so."
    for line in LINES[1:]:
        assert re.fullmatch(r"- [^.]*(?:\.\w[^.]*)*\. `test_\w+\.py::test_\w+`", line), line


@pytest.mark.parametrize("line", LINES[1:])
def test_the_test_of_each_promise_exists(line: str) -> None:
    file, name = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)[0]
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.M), f"{file} has no {name}"
