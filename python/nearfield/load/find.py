"""Which files: folders searched to the bottom, patterns, and what ignore files leave out."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nearfield._optional import require
from nearfield.errors import NotFound, StorageError
from nearfield.load.document import Source, is_address, local

IGNORE_FILES = (".gitignore", ".nearfieldignore")  # the later wins


@dataclass(frozen=True, slots=True)
class Found:
    """The readable files under some paths, sorted, addresses last; `others` are of a kind that cannot be read."""

    files: list[Source]
    others: list[Path]


class _Rules(NamedTuple):
    """The patterns of one folder's ignore files."""

    folder: Path
    spec: Any


def find(
    paths: Iterable[str | Path],
    readable: Callable[[Path], bool],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> Found:
    files: set[Path] = set()
    others: set[Path] = set()
    addresses: dict[str, None] = {}
    for path in map(local, paths):
        if is_address(path):
            addresses[str(path)] = None
            continue
        for named in _expanded(path):
            if not named.is_dir():
                files.add(named.resolve())  # named by hand is a wish: if it cannot be read, `read_file` says why
                continue
            chosen = _choice(include, exclude)
            for file in _walk(named.resolve(), _rules_above(named.resolve())):
                if chosen(file.relative_to(named.resolve()).as_posix()):
                    (files if readable(file) else others).add(file.resolve() if file.is_symlink() else file)
    return Found([*sorted(files), *addresses], sorted(others - files))


def _expanded(path: str | Path) -> Iterator[Path]:
    if os.path.exists(path):
        yield Path(path)
    elif glob.has_magic(str(path)):  # a shell that does not expand patterns, or a pattern in quotes
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise NotFound(f"{path}: no file matches this pattern")
        yield from map(Path, matches)
    else:
        raise NotFound(f"{path}: no such file or folder")


def _walk(folder: Path, rules: list[_Rules]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed: {error.strerror}") from error
    own = [folder / entry.name for name in IGNORE_FILES for entry in entries if entry.name == name and entry.is_file()]
    for ignore_file in own:
        rules = [*rules, _Rules(folder, _patterns(_lines_of(ignore_file), f"{ignore_file}: an ignore file"))]
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.endswith(".nf") and not _ignored(path, "/", rules):
                yield from _walk(path, rules)
        elif entry.is_file() and not _ignored(path, "", rules):
            yield path


def _rules_above(folder: Path) -> list[_Rules]:
    """Git asks every ignore file from the top of the working tree down; those of `folder` itself are read later."""
    parents = list(folder.parents)
    top = next((at for at, parent in enumerate([folder, *parents]) if (parent / ".git").exists()), 0)
    return [
        _Rules(parent, _patterns(_lines_of(parent / name), f"{parent / name}: an ignore file"))
        for parent in reversed(parents[:top])
        for name in IGNORE_FILES
        if (parent / name).is_file()
    ]


def _ignored(path: Path, slash: str, rules: list[_Rules]) -> bool:
    """The last pattern that speaks of a path decides; a pattern of a deeper folder comes later."""
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path.relative_to(folder).as_posix() + slash).include
        if verdict is not None:
            return bool(verdict)
    return False


def _choice(include: Sequence[str] | None, exclude: Sequence[str] | None) -> Callable[[str], bool]:
    wanted = _patterns(list(include), "include=") if include else None
    unwanted = _patterns(list(exclude), "exclude=") if exclude else None
    return lambda path: (wanted is None or wanted.match_file(path)) and not (unwanted and unwanted.match_file(path))


def _patterns(lines: list[str], purpose: str) -> Any:
    pathspec = require("pathspec", extra="load", purpose=purpose)
    return pathspec.GitIgnoreSpec.from_lines(lines)


def _lines_of(ignore_file: Path) -> list[str]:
    try:
        return ignore_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise StorageError(f"{ignore_file}: cannot be read: {error.strerror}") from error
