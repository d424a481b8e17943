"""Files into documents: plain text, Markdown and JSON lines, with ids that stay the same from one reading to the next.

A file is read as a whole or not at all: what cannot be read raises, naming the file (and line), and nothing is skipped.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfield.errors import InvalidInput, NotFound, StorageError

SUFFIXES = (".txt", ".md", ".markdown", ".jsonl")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """One text and what is known of it.

    `id` is the file's path; for a line of a .jsonl file `path#id`, or `path#line7` where the line has no id.
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """The readable files under some paths, sorted; `others` are of a kind that cannot be read (.pdf, .png …)."""

    files: list[Path]
    others: list[Path]


def find_files(paths: Iterable[str | Path]) -> Found:
    """All files under `paths`: files, folders (searched to the bottom, hidden ones left out) and patterns like `*.md`.

    Paths come back absolute, so that a file is known by the same name whatever folder the search began in.

    Raises:
        NotFound: a path does not exist, or a pattern matches nothing.
        StorageError: a folder cannot be listed.
    """
    files: set[Path] = set()
    others: set[Path] = set()
    for path in _expanded(paths):
        for file in _walk(path) if path.is_dir() else [path]:
            # A file named by hand is a wish: if it cannot be read, `read_file` says why.
            wanted = file.suffix.lower() in SUFFIXES or not path.is_dir()
            (files if wanted else others).add(file.resolve())
    return Found(sorted(files), sorted(others - files))


def read_file(path: str | Path) -> list[Document]:
    """The documents of one file: a text or Markdown file is one, a .jsonl file has one a line.

    Metadata: `source` (the path) and `title` (the first Markdown heading, else the file's name), then what the file
    says itself, which wins: `key: value` lines between two `---` at the top, or the other fields of a JSON line.
    A JSON line needs `text`; its `id`, if there is one, must be unique in the file.

    Raises:
        NotFound: there is no such file.
        StorageError: the file cannot be opened.
        InvalidInput: it is not UTF-8, not of a known kind, or a line is not what it should be.
    """
    path = Path(path).resolve()
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(
            f"{path}: files of kind {path.suffix or '(no suffix)'!r} cannot be read, only {', '.join(SUFFIXES)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise InvalidInput(f"{path}: not a text file: it holds NUL bytes")
    return list(_json_lines(path, text)) if path.suffix.lower() == ".jsonl" else [_whole(path, text)]


def id_of(path: str | Path) -> str:
    """The id that documents of this file begin with: its absolute path, with `#` written as `%23`.

    So `#` divides the path from what comes after it, and ids of different files never meet.
    """
    return Path(path).resolve().as_posix().replace("%", "%25").replace("#", "%23")


def _expanded(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in paths:
        if os.path.exists(path):
            yield Path(path)
        elif glob.has_magic(str(path)):  # a shell that does not expand patterns, or a pattern in quotes
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise NotFound(f"{path}: no file matches this pattern")
            yield from map(Path, matches)
        else:
            raise NotFound(f"{path}: no such file or folder")


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise StorageError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".nf")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _whole(path: Path, text: str) -> Document:
    own: dict[str, Any] = {}
    if (block := _FRONT_MATTER.match(text)) and (own := _front_matter(block[1])):
        text = text[block.end() :]
    heading = _HEADING.search(text) if path.suffix.lower() != ".txt" else None
    title = heading[1] if heading else path.stem
    return Document(id_of(path), text, {"source": path.as_posix(), "title": title, **own})


def _front_matter(block: str) -> dict[str, Any]:
    """`key: value` lines and `- item` lists as a dictionary; empty if there is more to it: then it stays text."""
    fields: dict[str, Any] = {}
    key = ""
    for line in block.splitlines():
        if item := re.fullmatch(r"\s*-\s+(.+?)\s*", line):
            if fields.get(key) is None:
                fields[key] = []
            if not key or not isinstance(fields[key], list):
                return {}
            fields[key].append(_scalar(item[1]))
        elif pair := re.fullmatch(r"([\w.-]+)\s*:(?:\s+(.*?))?\s*", line):
            key, value = pair[1], pair[2] or ""
            if value[:1] in ("{", "|", ">", "&", "*"):
                return {}
            as_list = re.fullmatch(r"\[(.*)\]", value)
            fields[key] = (
                [_scalar(part.strip()) for part in as_list[1].split(",") if part.strip()] if as_list else _scalar(value)
            )
        elif line.strip() and not line.lstrip().startswith("#"):
            return {}
    return fields


def _scalar(value: str) -> str | int | float | bool | None:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    if value in ("", "null", "~"):
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number, shape in ((int, r"-?(0|[1-9]\d{0,17})"), (float, r"-?\d+\.\d+")):
        if re.fullmatch(shape, value):
            return number(value)
    return value


def _json_lines(path: Path, text: str) -> Iterator[Document]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        record = _record(where, line)
        body, own_id = record.pop("text"), record.get("id")
        key = f"line{number}" if own_id is None else str(own_id)
        if key in seen:
            raise InvalidInput(f"{where} has the id {key!r}, which line {seen[key]} has already")
        seen[key] = number
        yield Document(f"{id_of(path)}#{key}", body, {"source": path.as_posix(), "title": path.stem, **_flat(record)})


def _record(where: str, line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        record = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise InvalidInput(f'{where} is not an object with a "text": {line.strip()[:80]}')
    if not isinstance(record.get("id"), str | int | None) or isinstance(record.get("id"), bool):
        raise InvalidInput(f"{where} has an id that is neither text nor a whole number: {record['id']!r}")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where} holds half of a surrogate pair, which is no character") from None
    return record


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"meta": {"year": 1999}}` as `{"meta.year": 1999}`; lists that hold lists or objects as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            flat[prefix + key] = json.dumps(value, ensure_ascii=False)
        else:
            flat[prefix + key] = value
    return flat
