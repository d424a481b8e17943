"""The danger: documentation that lies. Its Python runs, its commands exist, and what exists is in it."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

import nearfield as nf
from nearfield.cli import main
from nearfield.cli.commands import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("quickstart.md", "moving.md")  # pages whose shell blocks are run, from top to bottom
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """The fenced blocks of a page in these languages, each with the number of its first line."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start()) + 2, match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        if match[1] in languages
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """The nearfield commands in the shell blocks of a page, as words, without the first."""
    for _, block in blocks(page, "sh", "bash", "console"):
        for line in block.splitlines():
            for command in re.split(r"\s&&\s|\s\|\s", line.removeprefix("$ ")):
                words = shlex.split(command, comments=True)
                if words[:1] == ["nearfield"]:
                    yield words[1:]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run documentation in, with the texts it speaks of."""
    for name in ("corpus", "judged"):
        shutil.copytree(ROOT / "examples" / name, tmp_path / "examples" / name)
    monkeypatch.chdir(tmp_path)
    with nf.open("filled.nf") as db:  # for scripts that are given a database and a collection
        db.collection("vectors", embedder=None).add(embeddings=[[1.0, 2.0], [3.0, 4.0]])
    monkeypatch.setattr("sys.argv", ["script", "filled.nf", "vectors"])
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, workshop: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for line, block in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), names)


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(
    page: str, workshop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in commands(ROOT / "docs" / page):
        monkeypatch.setattr("sys.argv", ["nearfield", *words])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            main()
        captured = capfd.readouterr()
        assert (end.value.code, captured.err) == (0, ""), words
        assert captured.out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_on_a_page_exist(page: Path) -> None:
    for words in commands(page):
        if words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, f"nearfield {words[0]}"
        known = {option for parameter in COMMANDS[words[0]].params for option in parameter.opts} | {"--help", "-h"}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    documented = "\n".join(page.read_text() for page in PAGES)
    assert f"nearfield {name}" in documented
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"nearfield {name}: {parameter.name} has no help"
        for option in parameter.opts:
            assert not option.startswith("-") or option in documented, f"nearfield {name} {option} is not documented"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
