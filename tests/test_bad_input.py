"""The dangers of a wrong argument: an error that does not help, or a change that was half made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from databases import snapshot
from nearfield.errors import InvalidInput, NotFound

# -- databases -------------------------------------------------------------------------------------------------------


def test_collections_are_listed_found_and_dropped(db: nf.Database) -> None:
    assert db.collections() == []
    for name in ("b", "a", "x.y_z-1"):
        db.collection(name, embedder=None).add(embeddings=np.ones((9, 2)))
    assert db.collections() == ["a", "b", "x.y_z-1"]
    db.drop("a")
    assert db.collections() == ["b", "x.y_z-1"]
    with pytest.raises(NotFound, match=r"no collection 'a'; there are: 'b', 'x\.y_z-1'"):
        db.drop("a")
    assert db.collection("b").count() == 9


def test_what_a_collection_was_made_with_is_kept_and_conflicts_are_told(db: nf.Database) -> None:
    db.collection("c", embedder=None, dimension=3, metric="l2")
    again = db.collection("c")
    assert (again.name, again.dimension, again.metric) == ("c", 3, "l2")
    with pytest.raises(InvalidInput, match="metric 'l2', not 'dot'"):
        db.collection("c", metric="dot")
    with pytest.raises(InvalidInput, match="dimension 3, not 4"):
        db.collection("c", dimension=4)
    with pytest.raises(InvalidInput, match="in case only"):
        db.collection("C")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", ".hidden", "end.", "é", "a b", "x" * 129, "nul", "COM1.x", "a\0"]
)
def test_names_that_some_file_system_cannot_have_are_refused(db: nf.Database, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a collection name"):
        db.collection(name)
    assert db.collections() == []


# -- bad input -------------------------------------------------------------------------------------------------------

ONE = np.ones((1, 4))
NESTED: dict[str, Any] = {}
for _ in range(22):
    NESTED = {"n": NESTED}
WRONG: list[tuple[Callable[[nf.Collection], Any], str]] = [
    (lambda c: c.add(), "give documents, embeddings, or both"),
    (lambda c: c.add(ids=["x"]), "give documents, embeddings, or both"),
    (lambda c: c.add(embeddings=np.ones((1, 5))), "5 dimensions, the collection has 4"),
    (lambda c: c.add(embeddings=[[1, 2, 3, 4], [1, 2, float("nan"), 4]]), r"embeddings\[1\] has NaN"),
    (lambda c: c.add(embeddings=[[1, 2, 3, 1e39]]), r"embeddings\[0\] has NaN or infinite"),
    (lambda c: c.add(embeddings=[[1, 2], [1]]), "rows of equal length"),
    (lambda c: c.add(embeddings=[["a", "b"]]), "must be numbers"),
    (lambda c: c.add(embeddings=np.ones((1, 2, 2))), r"shape \(n, dimension\), got \(1, 2, 2\)"),
    (lambda c: c.add(embeddings=np.ones((1, 4)) * 1j), "must be numbers, got complex"),
    (lambda c: c.add(["x", "  \n"]), r"documents\[1\] is empty"),
    (lambda c: c.add(["x", None]), r"documents\[1\] must be a text, got None"),
    (lambda c: c.add(["x", 5]), r"documents\[1\] must be a string, got 5 \(int\)"),
    (lambda c: c.add(5), "documents must be a list of strings"),
    (lambda c: c.add(b"bytes"), "documents must be a list of strings"),
    (lambda c: c.add(["half \ud800"]), "surrogate"),
    (lambda c: c.add(["x", "y"], ids=["1", "1"]), "ids has '1' more than once"),
    (lambda c: c.add(["x", "y"], ids=["1"]), "2 documents, 1 ids"),
    (lambda c: c.add(["x"], embeddings=np.ones((3, 4)), metadatas=[{}, {}]), "1 documents, 3 embeddings, 2 metadatas"),
    (lambda c: c.add("x", ids=[7]), r"ids\[0\] must be a string .* got 7 \(int\)"),
    (lambda c: c.add("x", ids=[""]), r"ids\[0\] must be a string that is not empty"),
    (lambda c: c.add("x", ids=["a\0b"]), "NUL"),
    (
        lambda c: c.add("x", metadatas=[{"k": {"nested": {1}}}]),
        r"metadatas\[0\]\['k'\]\['nested'\]: must be str.*\(set\)",
    ),
    (lambda c: c.add("x", metadatas=[{"k": [1, [b""]]}]), r"metadatas\[0\]\['k'\]\[1\]\[0\]: must be str.*\(bytes\)"),
    (lambda c: c.add("x", metadatas=[{"k": [{"": 1}]}]), r"metadatas\[0\]\['k'\]\[0\]: '' cannot be a field name"),
    (lambda c: c.add("x", metadatas=[NESTED]), "must not be nested more than 20 levels"),
    (lambda c: c.add("x", metadatas=[{"k": float("nan")}]), r"metadatas\[0\]\['k'\]: numbers must be finite"),
    (lambda c: c.add("x", metadatas=[{"k": 2**70}]), "64 bits"),
    (lambda c: c.add("x", metadatas=[{"k": b""}]), r"\(bytes\)"),
    (lambda c: c.add("x", metadatas=[{5: 1}]), r"metadatas\[0\]: a field name must be a string, got 5"),
    (lambda c: c.add("x", metadatas=[{"$k": 1}]), "cannot be a field name"),
    (lambda c: c.add("x", metadatas=["k"]), r"metadatas\[0\] must be a dictionary"),
    (lambda c: c.update("a"), "nothing to change"),
    (lambda c: c.update(["a", "b"], documents=["x"]), "2 ids, 1 documents"),
    (lambda c: c.update("a", documents=""), r"documents\[0\] is empty"),
    (lambda c: c.search("x", k=0), "k must be a whole number of at least 1, got 0"),
    (lambda c: c.search("x", k=2.5), r"got 2\.5"),
    (lambda c: c.search("x", k=True), "got True"),
    (lambda c: c.search(" "), r"query\[0\] is empty"),
    (lambda c: c.search(["x", ""]), r"query\[1\] is empty"),
    (lambda c: c.search(["x", 1]), r"query\[1\] must be a text"),
    (lambda c: c.search([1.0, 2.0]), "2 dimensions, the collection has 4"),
    (lambda c: c.search([1, 2, 3, float("inf")]), "NaN or infinite"),
    (lambda c: c.search(None), "query must be a text, a vector"),
    (lambda c: c.search({"text": "x"}), "query must be a text, a vector"),
    (lambda c: c.search("x", mode="fuzzy"), "unknown mode 'fuzzy'; there is 'dense', 'lexical', 'hybrid'"),
    (lambda c: c.search("x", min_score="high"), "min_score must be a number"),
    (lambda c: c.search("x", recall=1.5), "recall must be over 0 and at most 1"),
    (lambda c: c.search("x", where={"n": {"$near": 1}}), "no such operator"),
    (lambda c: c.get(limit=-1), "limit must be a whole number of at least 0, got -1"),
    (lambda c: c.get(include=["vectors"]), r"include has \['vectors'\]; it may have documents"),
    (lambda c: c.get(where=5), "where: must be a dictionary"),
    (lambda c: c.count(where=[1]), "where: must be a dictionary"),
]


@pytest.mark.parametrize(("call", "says"), WRONG, ids=[says for _, says in WRONG])
def test_bad_input_is_one_clear_error_and_changes_nothing(letters: nf.Collection, call: Any, says: str) -> None:
    before = snapshot(letters)
    letters.embedder.calls.clear()  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match=says):
        call(letters)
    assert snapshot(letters) == before
    assert letters.embedder.calls == []  # type: ignore[union-attr]


def test_unknown_ids_are_named(letters: nf.Collection) -> None:
    before = snapshot(letters)
    with pytest.raises(NotFound, match="no records with the ids 'x', 'y', 'z' and 1 more"):
        letters.get(["a", "x", "y", "z", "w"])
    with pytest.raises(NotFound, match="'x'"):
        letters.update(["a", "x"], documents=["new", "new"])
    assert snapshot(letters) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "euclid"}, "unknown metric 'euclid'; the metrics are cosine, dot, l2"),
        ({"dimension": 0}, "at least 1"),
        ({"dimension": 70_000}, "65535"),
        ({"embedder": 5}, "embedder"),
    ],
)
def test_a_collection_that_cannot_be_is_not_made(db: nf.Database, options: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        db.collection("c", **options)
    assert db.collections() == []
