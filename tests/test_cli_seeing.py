"""The dangers: a picture or a list of something else than what was asked for, half a file, a traceback for a user."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from terminal import Run

WORDS = {"bird": "wing feather nest", "ship": "sail anchor harbour", "bread": "flour oven dough"}


@pytest.fixture
def library(tmp_path: Path) -> None:
    """Three groups of twelve records in a folder; of each group the first two are the same."""
    rng = np.random.default_rng(0)
    with nf.open(tmp_path / "library.nf") as database:
        docs = database.collection("docs", embedder=None, dimension=8)
        for place, (name, words) in enumerate(WORDS.items()):
            vectors = rng.standard_normal((12, 8)).astype("f4") * 0.3
            vectors[:, place] += 3
            vectors[1] = vectors[0]
            ids = [f"{name}{n}" for n in range(12)]
            texts = [f"A {name} with {words} number {n}." for n in range(12)]
            docs.add(texts, ids=ids, embeddings=vectors, metadatas=[{"kind": name, "n": n} for n in range(12)])


@pytest.mark.usefixtures("library")
def test_a_map_is_drawn_as_a_page_and_as_a_picture(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ended = run("map", "map.html", "--color", "kind")
    assert (ended.code, ended.err, ended.out) == (0, "", "36 records drawn in map.html\n")
    page = (tmp_path / "map.html").read_text()
    assert "A ship with sail" in page
    ended = run("map", "map.png", "--color", "topic", "--where", '{"kind": {"$ne": "bird"}}', "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == {"file": "map.png", "records": 24, "method": "pca"}
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert run("map", "few.html", "--limit", "5").out.startswith("5 records")


@pytest.mark.usefixtures("library")
def test_topics_have_their_words_and_what_fits_nowhere(run: Run) -> None:
    pytest.importorskip("sklearn")
    ended = run("topics", "-n", "3", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert sorted(len(topic["ids"]) for topic in told["topics"]) == [12, 12, 12]
    for topic in told["topics"]:
        (kind,) = {id.rstrip("0123456789") for id in topic["ids"]}
        assert set(topic["keywords"]) & {kind, *WORDS[kind].split()}
    assert 0 < len(told["outliers"]) <= 5
    shown = run("topics", "-n", "3").out
    assert shown.count("    12") + shown.count("12  ") >= 3
    assert "Least like anything else:" in shown
    assert len(json.loads(run("topics", "--where", '{"kind": "ship"}', "-n", "1", "--json").out)["topics"]) == 1


@pytest.mark.usefixtures("library")
def test_duplicates_are_those_that_are(run: Run) -> None:
    ended = run("duplicates", "--threshold", "0.9999", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {"threshold": 0.9999, "groups": [[f"{name}0", f"{name}1"] for name in WORDS]}
    ended = run("duplicates", "--threshold", "0.9999", "--where", '{"kind": "ship"}')
    assert ended.out.startswith("1 group of records with a cosine of 0.9999 or more")
    assert all(part in ended.out for part in ("ship0", "ship1", "A ship with sail anchor harbour number 0."))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["map", "map.gif"], "map.gif"),
        (["map", "nowhere/map.html"], "nowhere"),
        (["map", "map.html", "--method", "mds"], "mds"),
        (["map", "map.html", "--where", "{"], "--where"),
        (["map", "map.html", "--collection", "other"], "other"),
        (["map", "map.html", "--limit", "0"], "limit"),
        (["map", "map.html", "--db", "other.nf"], "other.nf"),
        (["topics", "-n", "0"], "-n"),
        (["topics", "--where", '{"n": {"$near": 1}}'], "$near"),
        (["duplicates", "--threshold", "2"], "2"),
        (["duplicates", "--threshold", "nan"], "nan"),
        (["duplicates", "--threshold", "much"], "threshold"),
        (["duplicates", "--collection", "other"], "other"),
    ],
)
def test_nonsense_is_one_sentence_and_leaves_no_file(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    ended = run(*words)
    assert ended.code != 0
    assert ended.out == ""
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"library.nf"}


def test_an_empty_collection_has_nothing_to_show(run: Run, tmp_path: Path) -> None:
    with nf.open(tmp_path / "library.nf") as database:
        database.collection("docs", embedder=None, dimension=3)
    for words in (["topics"], ["duplicates"], ["map", "map.html"]):
        ended = run(*words)
        assert "Traceback" not in ended.err
        assert ended.code == 0 or ended.err
