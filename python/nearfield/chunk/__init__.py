"""Text into passages short enough for an embedding model, each knowing where in the text it stood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nearfield.chunk import structure
from nearfield.chunk.ruler import Ruler, Tokens
from nearfield.chunk.structure import Part
from nearfield.errors import InvalidInput

__all__ = ["Passage", "Tokens", "passages"]

# How a text is divided, whether short parts are joined until a passage is full, and where a long part is cut.
_WAYS = {
    "paragraphs": (structure.paragraphs, False, structure.PROSE),
    "markdown": (structure.markdown, False, structure.PROSE),
    "sentences": (structure.sentences, True, structure.PROSE),
    "code": (structure.definitions, True, structure.LINES),
    "tokens": (structure.whole, True, structure.WORDS),
}
_INK = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a text: `text == whole[start:end]`, offsets in characters; `heading`: those above it in Markdown."""

    text: str
    start: int
    end: int
    heading: str | None = None


def passages(
    text: str,
    *,
    by: str = "paragraphs",
    size: int = 800,
    least: int | None = None,
    overlap: int = 0,
    tokens: Tokens | None = None,
) -> list[Passage]:
    """Split `text` into passages of at most `size`, in order; nothing but white space is lost between them.

    Args:
        by: where to divide.
            - "paragraphs": at blank lines; a passage is a paragraph.
            - "markdown": the same, but code blocks stay whole and no passage crosses a heading.
            - "sentences": as many whole sentences as fit.
            - "code": as many whole definitions (blocks that begin without indentation) as fit.
            - "tokens": as much as fits, between words.
            What is longer than `size` is cut into pieces of about equal length where it hurts least: at the ends of
            sentences or inner definitions, else of lines, else between words, and only then within one.
        size: in tokens if `tokens` is given, else in characters. 800 characters of English are about 200 tokens.
        least: paragraphs shorter than this, such as headings, go with the next one; None: a tenth of `size`.
        overlap: how much of the end of a passage the next one repeats, of the same section; counted in `size`.
        tokens: a model's tokenizer: from a text to the (start, end) of each token. No passage then has more than
            `size` tokens when it is tokenized alone.

    Raises:
        InvalidInput: `by` is unknown, `size` is below 1, or `overlap` is not below `size`.

    >>> [passage.text for passage in passages("# Cats\\n\\nThey purr.\\n\\n\\nDogs bark.", least=8)]
    ['# Cats\\n\\nThey purr.', 'Dogs bark.']
    """
    if by not in _WAYS:
        raise InvalidInput(f"unknown way to split {by!r}; there are {', '.join(map(repr, _WAYS))}")
    if size < 1:
        raise InvalidInput(f"size must be at least 1, got {size}")
    if not 0 <= overlap < size:
        raise InvalidInput(f"overlap must be from 0 to {size - 1}, below size, got {overlap}")
    if not text or text.isspace():
        return []
    divide, fill, ends = _WAYS[by]
    ruler = Ruler(text, tokens)
    cutter = _Cutter(text, ends, code=by == "code", balanced=by != "tokens")
    room = size - overlap
    joined = _joined(divide(text), ruler, room if fill else least if least is not None else size // 10, room, fill)
    pieces = [
        Part(start, end, part.section, part.heading)
        for part in joined
        for start, end in cutter.pieces(ruler, part.start, part.end, room)
    ]
    if overlap:
        pieces = list(_overlapped(text, pieces, ruler, overlap))
    if tokens is not None:  # a piece alone may have more tokens than it had within the text
        pieces = [
            Part(start, end, part.section, part.heading)
            for part in pieces
            for start, end in cutter.fitting(part.start, part.end, size, tokens)
        ]
    return [Passage(text[part.start : part.end], part.start, part.end, part.heading) for part in pieces]


def _joined(parts: Iterator[Part], ruler: Ruler, least: int, room: int, fill: bool) -> list[Part]:
    """Parts joined within their section until none is shorter than `least`; with `fill`, none longer than `room`."""

    def short(part: Part) -> bool:
        return ruler.length(part.start, part.end) < least

    def may_join(one: Part, other: Part) -> bool:
        return one.section == other.section and (not fill or ruler.length(one.start, other.end) <= room)

    joined: list[Part] = []
    for part in parts:
        if joined and short(joined[-1]) and may_join(joined[-1], part):
            joined[-1] = joined[-1]._replace(end=part.end, heading=part.heading)
            continue
        if len(joined) > 1 and short(joined[-1]) and may_join(joined[-2], joined[-1]):
            _join_last(joined)  # nothing follows it in its section: it goes with the one before
        joined.append(part)
    if len(joined) > 1 and short(joined[-1]) and may_join(joined[-2], joined[-1]):
        _join_last(joined)
    return joined


def _join_last(parts: list[Part]) -> None:
    last = parts.pop()
    parts[-1] = parts[-1]._replace(end=last.end)


def _overlapped(text: str, pieces: list[Part], ruler: Ruler, overlap: int) -> Iterator[Part]:
    """Each piece with the end of the one before it in its section: whole sentences if one fits, else whole words."""
    before: Part | None = None
    for piece in pieces:
        start = piece.start
        if before is not None and before.section == piece.section:
            first = max(ruler.back(piece.start, overlap), before.start + 1)
            for end in structure.PROSE:
                if begin := next((found.end() for found in end.finditer(text, first - 1, piece.start)), None):
                    ink = _INK.search(text, begin)
                    start = min(ink.start(), piece.start) if ink else piece.start
                    if start < piece.start:
                        break
        before = piece._replace(start=start)
        yield before


class _Cutter:
    """Cuts what is too long."""

    def __init__(self, text: str, ends: list[re.Pattern[str]], *, code: bool, balanced: bool) -> None:
        self._text, self._ends, self._code, self._balanced = text, ends, code, balanced

    def pieces(self, ruler: Ruler, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """[start, end) in pieces not longer than `size`, but for a single character that has more tokens."""
        while (length := ruler.length(start, end)) > size:
            last = min(max(ruler.forward(start, size), start + 1), end)
            share = length // -(-length // size)  # cuts near here leave pieces of equal length
            wanted = ruler.forward(start, share) if self._balanced else last
            first = min(max(ruler.forward(start, share // 2), start + 1), last)
            found = structure.cuts(self._text, first, last, self._ends, self._code)
            cut = min(found, key=lambda at: abs(at - wanted)) if found else last
            yield start, start + len(self._text[start:cut].rstrip())
            rest = _INK.search(self._text, cut, end)
            start = rest.start() if rest else end
        if start < end:
            yield start, end

    def fitting(self, start: int, end: int, size: int, tokens: Tokens) -> Iterator[tuple[int, int]]:
        """[start, end) in pieces that have at most `size` tokens, each tokenized alone."""
        ruler = Ruler(self._text[start:end], tokens, start)
        if ruler.length(start, end) <= size or end - start == 1:
            yield start, end
            return
        pieces = list(self.pieces(ruler, start, end, size))
        if len(pieces) == 1:
            pieces = list(self.pieces(Ruler(self._text[start:end], None, start), start, end, -(-(end - start) // 2)))
        for piece in pieces:
            yield from self.fitting(*piece, size, tokens)
