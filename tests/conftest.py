"""What several test files start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nearfield as nf
from databases import Letters
from nearfield import transaction


@pytest.fixture(params=["memory", "folder"])
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nf.Database]:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)  # so that both sealed and unsealed vectors take part
    with nf.open(tmp_path / "x.nf" if request.param == "folder" else None) as opened:
        yield opened


@pytest.fixture
def letters(db: nf.Database) -> nf.Collection:
    collection = db.collection("letters", embedder=Letters())
    collection.add(["aaa", "bbb", "ccc", "aab"], ids=["a", "b", "c", "ab"], metadatas=[{"n": n} for n in range(4)])
    return collection
