"""Text into passages short enough for an embedding model, each knowing where in the text it stood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nearfield.errors import InvalidInput

_BLANK_LINE = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_BOUNDARIES = [re.compile(end) for end in (r"[.!?…][\"'”’»)\]]*\s|[。！？]", r"\n", r"\s")]  # the best first
_INK = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a text: `text == whole[start:end]`, offsets in characters."""

    text: str
    start: int
    end: int


def passages(text: str, *, max_chars: int = 800, min_chars: int = 80) -> list[Passage]:
    """Split `text` into passages of at most `max_chars` characters, in order and without gaps but white space.

    A passage is a paragraph (blank lines divide). A paragraph shorter than `min_chars`, such as a heading, goes with
    the one after it; one longer than `max_chars` is cut into pieces of about equal length, at the ends of sentences
    where there are any, else between words. 800 characters of English are about 200 tokens.

    Raises:
        InvalidInput: `max_chars` is below 1.

    >>> [passage.text for passage in passages("# Cats\\n\\nThey purr.\\n\\n\\nDogs bark.", min_chars=8)]
    ['# Cats\\n\\nThey purr.', 'Dogs bark.']
    """
    if max_chars < 1:
        raise InvalidInput(f"max_chars must be at least 1, got {max_chars}")
    pieces = (
        piece for start, end in _joined(_paragraphs(text), min_chars) for piece in _cut(text, start, end, max_chars)
    )
    return [Passage(text[start:end], start, end) for start, end in pieces]


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in [*_BLANK_LINE.finditer(text), None]:
        stop = gap.start() if gap else len(text)
        if trimmed := _trim(text, start, stop):
            yield trimmed
        start = gap.end() if gap else stop


def _joined(spans: Iterator[tuple[int, int]], min_chars: int) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] - joined[-1][0] < min_chars:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    if (
        len(joined) > 1 and joined[-1][1] - joined[-1][0] < min_chars
    ):  # nothing follows the last: it goes with the one before
        _, end = joined.pop()
        joined[-1] = (joined[-1][0], end)
    return joined


def _cut(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    while end - start > max_chars:
        wanted = start + (end - start) // -(-(end - start) // max_chars)  # cuts near here leave pieces of equal length
        first, last = start + (wanted - start) // 2, start + max_chars
        cut = last
        for boundary in _BOUNDARIES:
            if cuts := [match.end() for match in boundary.finditer(text, first, last)]:
                cut = min(cuts, key=lambda at: abs(at - wanted))
                break
        yield start, start + len(text[start:cut].rstrip())
        rest = _INK.search(text, cut, end)
        start = rest.start() if rest else end
    if start < end:
        yield start, end


def _trim(text: str, start: int, end: int) -> tuple[int, int] | tuple[()]:
    """The span without white space at either end; empty when there is nothing else."""
    ink = _INK.search(text, start, end)
    return (ink.start(), start + len(text[start:end].rstrip())) if ink else ()
