"""The danger: a benchmark that measures something else than what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nearfield as nf
from nearfield.cli import main


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["nearfield", "bench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, captured.out, captured.err


@pytest.fixture
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3000, 24)) / np.sqrt(1 + np.arange(24))).astype(np.float32)


def test_every_kind_on_a_file(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "v.npy", rows)
    code, out, _ = run(monkeypatch, capfd, tmp_path / "v.npy", "--metric", "l2", "--queries", 60, "--json")
    assert code == 0
    found = json.loads(out)
    assert [found[name] for name in ("rows", "dimension", "metric", "queries", "k")] == [2940, 24, "l2", 60, 10]
    lines = found["results"]
    assert [line["kind"] for line in lines if line["asked"] in (None, 0.9)] == ["flat", "hnsw", "ivf", "ivf_pq", "lsh"]
    for line in lines:
        assert line["recall"] >= (1.0 if line["asked"] is None else line["asked"] - 0.05), line
        assert line["one_by_one"] > 0 < line["all_at_once"]
        assert line["memory"] > 24 * 5
        assert line["rows_scanned"] <= 2 * 2940


def test_a_collection_and_wrong_calls(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with nf.open("x.nf") as db:
        db.collection("v", embedder=None, metric="dot").add(ids=[str(i) for i in range(200)], embeddings=rows[:200])
        db.collection("one", embedder=None).add(ids=["a"], embeddings=rows[:1])
    where = ("--db", "x.nf", "--kind", "flat", "--queries", 20, "-k", 3)
    code, out, err = run(monkeypatch, capfd, *where, "--collection", "v")
    assert code == 0
    assert "flat" in out
    assert "exact" in out
    assert "180 vectors of dimension 24, dot" in err
    assert run(monkeypatch, capfd, *where, "--collection", "one")[0] == 1
    assert run(monkeypatch, capfd, *where, "--kind", "magic")[0] == 2
    assert run(monkeypatch, capfd, "no.npy")[0] == 1
    (tmp_path / "bad.npy").write_text("no")
    np.savez("several.npz", train=rows)
    for name in ("bad.npy", "several.npz", "."):
        code, _, err = run(monkeypatch, capfd, name)
        assert code == 1, name
        assert f"{name} " in err
        assert "pickle" not in err
    assert run(monkeypatch, capfd, "several.npz", "--recall", 95)[0] == 2, "a wrong recall is said before the work"


def test_of_equal_vectors_any_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by their ids, the answers would be wrong: the kinds choose other copies."""
    np.save(tmp_path / "v.npy", np.ones((3000, 8), np.float32))
    code, out, _ = run(monkeypatch, capfd, tmp_path / "v.npy", "--kind", "hnsw", "--queries", 20, "--json")
    assert code == 0
    assert {line["recall"] for line in json.loads(out)["results"]} == {1.0}
