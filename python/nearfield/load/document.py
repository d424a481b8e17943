"""What a file becomes, by which name it is known, and how its bytes become text."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urldefrag, urlsplit
from urllib.request import url2pathname

from nearfield.errors import InvalidInput

Layout: TypeAlias = Literal["text", "markdown", "code"]
Source: TypeAlias = Path | str  # a file, or the address of one

MAX_LINE = 10_000_000  # characters; what has longer lines is data, not text
_ADDRESS = re.compile(r"(https?|file)://", re.IGNORECASE)
# Nothing a person typed: control characters but white space, and halves of surrogate pairs.
_NOISE = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_WIDE = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # as Windows' editors write it


@dataclass(frozen=True, slots=True)
class Document:
    """One text and what is known of it.

    Attributes:
        id: the file's path or address; for one of many records in a file `path#id`, or `path#line7` without an id.
        text: the text, with "\\n" between lines.
        metadata: `source`, `title`, `modified` and what the file says of itself.
        layout: what the text is written in; it decides where the text may be cut.
        marks: facts that hold from an offset in `text` on, such as `(1200, {"page": 2})`, in order.
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    layout: Layout = "text"
    marks: tuple[tuple[int, dict[str, Any]], ...] = ()


def is_address(source: object) -> bool:
    """Whether `source` is a URL of the kinds that can be read."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def local(source: Source) -> Source:
    """`source`, and the path in place of a file:// address."""
    if is_address(source) and str(source).lower().startswith("file:"):
        return Path(url2pathname(urlsplit(str(source)).path))
    return source


def id_of(source: Source) -> str:
    """The id that documents of this file begin with: its absolute path, with `#` written as `%23`; or its address.

    So `#` divides the file from what comes after it, and ids of different files never meet.
    """
    if is_address(source):
        return urldefrag(str(source)).url
    return Path(source).resolve().as_posix().replace("%", "%25").replace("#", "%23")


def path_of(owner: str) -> Path:
    """The path that `id_of` made `owner` from."""
    return Path(owner.replace("%23", "#").replace("%25", "%"))


def decoded(name: str, content: bytes, encoding: str | None = None) -> str:
    """The text in `content`: in `encoding`, or else as its mark says, or UTF-8.

    Raises:
        InvalidInput: the bytes are not in that encoding, or are no text, or a line is far too long for one.
    """
    wide = next((known for mark, known in _WIDE.items() if content.startswith(mark)), None)
    try:
        text = content.decode(encoding or wide or "utf-8-sig")
    except LookupError:
        raise InvalidInput(f"unknown encoding {encoding!r}; 'utf-8', 'latin-1' and 'cp1252' are common ones") from None
    except UnicodeDecodeError as error:
        if b"\0" in content[:8192]:
            raise InvalidInput(f"{name}: not a text file: it holds NUL bytes") from None
        where = f"byte {content[error.start]:#04x} at {error.start}"
        if encoding or wide:
            raise InvalidInput(f"{name}: not {encoding or 'UTF-16'} text ({where})") from None
        raise InvalidInput(
            f"{name}: not UTF-8 text ({where}): save it as UTF-8, or name its encoding, such as 'latin-1'"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise InvalidInput(f"{name}: not a text file: it holds NUL bytes")
    check_lines(name, text)
    return text


def check_lines(name: str, text: str) -> None:
    """Refuse a text with a line that nobody wrote."""
    if len(text) <= MAX_LINE:
        return
    start, number = 0, 1
    while (end := text.find("\n", start)) >= 0 or start < len(text):
        end = end if end >= 0 else len(text)
        if end - start > MAX_LINE:
            raise InvalidInput(
                f"{name}: line {number} has {end - start:,} characters; more than {MAX_LINE:,} is data, not text"
            )
        start, number = end + 1, number + 1


def cleaned(text: str) -> str:
    """`text` without what extraction from PDF, Word or HTML leaves in it and nobody can see."""
    return _NOISE.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " "))
