"""Text, Markdown and source code: files whose text is what is in them."""

from __future__ import annotations

import re
from typing import Any

from nearfield.load.document import Document, Layout

_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def read(id: str, text: str, known: dict[str, Any], layout: Layout) -> list[Document]:
    """One document. Metadata between two `---` at the top, and the first heading of Markdown, win over `known`."""
    own: dict[str, Any] = {}
    if layout != "code" and (block := _FRONT_MATTER.match(text)) and (own := _front_matter(block[1])):
        text = text[block.end() :]
    heading = _HEADING.search(text) if layout == "markdown" else None
    return [Document(id, text, {**known, **({"title": heading[1]} if heading else {}), **own}, layout)]


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
            fields[key].append(scalar(item[1]))
        elif pair := re.fullmatch(r"([\w.-]+)\s*:(?:\s+(.*?))?\s*", line):
            key, value = pair[1], pair[2] or ""
            if value[:1] in ("{", "|", ">", "&", "*"):
                return {}
            as_list = re.fullmatch(r"\[(.*)\]", value)
            fields[key] = (
                [scalar(part.strip()) for part in as_list[1].split(",") if part.strip()] if as_list else scalar(value)
            )
        elif line.strip() and not line.lstrip().startswith("#"):
            return {}
    return fields


def scalar(value: str) -> str | int | float | bool | None:
    """What somebody means who writes `value` without saying of which type it is; "00501" stays text."""
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
