"""The parts that the author of a text has made: paragraphs, sentences, Markdown sections, definitions in code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_BLANK_LINE = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_SENTENCE = r"[.!?…][\"'”’»)\]]*\s|[。！？]"
_INK = re.compile(r"\S")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_DEFINITION = re.compile(r"\n(?:[^\S\n]*\n)+(?=[^\s)}\]])")  # a line that is not indented, after a blank one
_INDENTED = re.compile(r"\n(?:[^\S\n]*\n)+(?=([^\S\n]*)\S)")
_DEEP = 200  # columns: as far as code is indented

PROSE = [re.compile(end) for end in (_SENTENCE, r"\n", r"\s")]  # where to cut, the best first
WORDS = [re.compile(r"\s")]
LINES = [re.compile(end) for end in (r"\n", r"\s")]


class Part(NamedTuple):
    """A span without white space at either end. Parts of different sections are never joined."""

    start: int
    end: int
    section: int = 0
    heading: str | None = None  # the headings above it, outermost first


def whole(text: str) -> Iterator[Part]:
    """All of it."""
    yield from _trimmed(text, 0, len(text))


def paragraphs(text: str) -> Iterator[Part]:
    """What blank lines divide."""
    yield from _between(text, 0, len(text), _BLANK_LINE)


def sentences(text: str) -> Iterator[Part]:
    """Sentences, and lines that a blank line ends."""
    end_of_sentence = re.compile(_SENTENCE)
    for part in paragraphs(text):
        start = part.start
        for end in end_of_sentence.finditer(text, part.start, part.end):
            yield from _trimmed(text, start, end.end())
            start = end.end()
        yield from _trimmed(text, start, part.end)


def definitions(text: str) -> Iterator[Part]:
    """Source code at each line that is not indented and follows a blank one: with its comment, if it has one."""
    yield from _between(text, 0, len(text), _DEFINITION)


def markdown(text: str) -> Iterator[Part]:
    """Paragraphs, lists, tables and fenced code, each whole; a heading begins a section."""
    above: list[tuple[int, str]] = []
    section = 0
    heading: str | None = None
    fence = ""
    start = offset = 0  # `start`: of the block that is being read
    previous = ""
    bare_heading = False  # a heading under which nothing stands goes with the next one
    for line in _LINE.findall(text):
        bare = line.rstrip("\n")
        mark = _FENCE.match(bare)
        title: tuple[int, str] | None = None
        first = offset  # of the heading
        if fence:
            if mark and mark[1].startswith(fence) and not bare.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        elif found := _HEADING.match(bare):
            title = len(found[1]), (found[2] or "").strip()
        elif previous.strip() and start == offset - len(previous) and (found := _UNDERLINE.match(bare)):
            title, first = (1 if found[1][0] == "=" else 2, previous.strip()), start
        if title is not None or (not fence and not bare.strip()):
            for part in _trimmed(text, start, first, section, heading):
                bare_heading = False
                yield part
            start = offset + len(line)
        if title is not None:
            above = [*(pair for pair in above if pair[0] < title[0]), title]
            section, heading = section + (not bare_heading), " > ".join(words for _, words in above if words) or None
            yield from _trimmed(text, first, start, section, heading)
            bare_heading = True
        offset += len(line)
        previous = line
    yield from _trimmed(text, start, len(text), section, heading)


def cuts(text: str, first: int, last: int, ends: list[re.Pattern[str]], code: bool) -> list[int]:
    """Offsets in (first, last] at which the text may be cut, all of the best kind that there is."""
    if code:
        matches = _INDENTED.finditer(text, first, last + _DEEP)
        found = [(len(match[1].expandtabs(8)), match.end()) for match in matches if match.end() <= last]
        if found:
            outermost = min(indent for indent, _ in found)
            return [end for indent, end in found if indent == outermost]
    for end in ends:
        if here := [match.end() for match in end.finditer(text, first, last)]:
            return here
    return []


def _between(text: str, start: int, end: int, gaps: re.Pattern[str]) -> Iterator[Part]:
    for gap in gaps.finditer(text, start, end):
        yield from _trimmed(text, start, gap.start())
        start = gap.end()
    yield from _trimmed(text, start, end)


def _trimmed(text: str, start: int, end: int, section: int = 0, heading: str | None = None) -> Iterator[Part]:
    if ink := _INK.search(text, start, end):
        yield Part(ink.start(), start + len(text[start:end].rstrip()), section, heading)
