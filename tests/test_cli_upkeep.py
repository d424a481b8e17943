"""The danger: a damaged database that a script takes for a good one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nearfield as nf
from databases import filled, intact
from nearfield.cli import main


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["nearfield", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, captured.out, captured.err


def test_exit_codes_and_words_of_the_commands_that_look_after_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nearfield.transaction.SEAL_ROWS", 8)
    monkeypatch.chdir(tmp_path)
    made = filled(tmp_path / "x.nf")
    where = ("--db", "x.nf")
    assert run(monkeypatch, capfd, "verify", *where) == (0, "x.nf is as it was written.\n", "")
    assert run(monkeypatch, capfd, "backup", "b.nf", *where)[0] == 0
    assert run(monkeypatch, capfd, "backup", "b.nf", *where)[0] == 1
    assert run(monkeypatch, capfd, "snapshot", *where) == (0, "no snapshots\n", "")
    assert run(monkeypatch, capfd, "snapshot", "s", *where) == (0, "s\n", "")
    assert run(monkeypatch, capfd, "snapshot", "s", "--drop", *where) == (0, "no snapshots\n", "")
    assert run(monkeypatch, capfd, "snapshot", "--drop", *where)[0] == 2
    assert run(monkeypatch, capfd, "compact", *where)[0] == 0
    file = tmp_path / "x.nf" / "vectors" / "c" / "000001.npy"
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = run(monkeypatch, capfd, "verify", *where)
    assert code == 1
    assert out.startswith("needs a backup: collection 'c', ")
    code, out, _ = run(monkeypatch, capfd, "repair", "--json", *where)
    assert code == 1
    assert [(finding["repairable"], len(finding["ids"])) for finding in json.loads(out)] == [(False, 10)]
    assert run(monkeypatch, capfd, "repair", "--discard", *where)[0] == 0
    with nf.open("x.nf") as db:
        assert db.collection("c", embedder=None).count() == 0
    assert run(monkeypatch, capfd, "restore", "b.nf", "again.nf")[0] == 0
    intact(tmp_path / "again.nf", made)
    assert run(monkeypatch, capfd, "verify", "--db", "nowhere.nf")[0] == 1
