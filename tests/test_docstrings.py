"""The danger: an example in a docstring that does not do what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from nearfield.embed import LocalEmbedder

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {  # what needs a server, or files that another engine wrote
    "nearfield.answers.AnswerStream",
    *(f"nearfield.transfer.peers.{peer}" for peer in ("chroma", "faiss", "hnswlib", "qdrant", "usearch")),
}


def examples() -> Iterator[doctest.DocTest]:
    for module in pkgutil.walk_packages(nf.__path__, "nearfield."):
        for found in doctest.DocTestFinder().find(importlib.import_module(module.name)):
            if found.examples and found.name not in ELSEWHERE:
                yield found


class Shown(doctest.OutputChecker):
    """Output that an example does not show may be anything."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name.removeprefix("nearfield."))
def test_an_example_says_what_happens(
    example: doctest.DocTest, embedder: LocalEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples" / "corpus", tmp_path / "examples" / "corpus")
    monkeypatch.chdir(tmp_path)
    with nf.open() as db:
        docs = db.collection("docs", embedder=embedder)
        docs.add(
            ["The cat sat on the mat.", "Stocks fell sharply."],
            ids=["cat", "stocks"],
            metadatas=[{"year": 1999, "language": "en"}, {"year": 2008, "language": "en"}],
        )
        example.globs |= {"nf": nf, "np": np, "db": db, "docs": docs}
        told: list[str] = []
        doctest.DocTestRunner(Shown(), verbose=False).run(example, out=told.append)
    assert not told, "".join(told)
