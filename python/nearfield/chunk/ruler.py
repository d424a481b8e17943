"""Lengths within a text, in characters or in tokens of a model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeAlias

Tokens: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]
"""From a text to its tokens, each as (start, end) in characters."""


class Ruler:
    """Measures spans of one text, whose first character has the offset `origin`."""

    def __init__(self, text: str, tokens: Tokens | None, origin: int = 0) -> None:
        self._end = origin + len(text)
        self._starts = None if tokens is None else [origin + start for start, _ in tokens(text)]

    def length(self, start: int, end: int) -> int:
        """How many characters, or tokens that begin there, are in [start, end)."""
        if self._starts is None:
            return end - start
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def forward(self, start: int, length: int) -> int:
        """The last offset to which the span from `start` is not longer than `length`."""
        if self._starts is None:
            return min(start + length, self._end)
        at = bisect_left(self._starts, start) + length
        return self._starts[at] if at < len(self._starts) else self._end

    def back(self, end: int, length: int) -> int:
        """The first offset from which the span to `end` is not longer than `length`."""
        if self._starts is None:
            return max(end - length, 0)
        at = bisect_left(self._starts, end) - length
        return self._starts[max(at, 0)] if length and self._starts else end
