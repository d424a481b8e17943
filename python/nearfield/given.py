"""What a writer has just stored, at hand for a while for what is derived of it: then it need not be read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_SIZE = 1 << 27  # characters, and some for each value; what is not here is in the catalog


class Given(Generic[T]):
    """Values of new rows of a collection, in pieces. Many threads may put them there, one at a time takes them.

    It has no lock, since a fork could find that taken: each step is one operation on a dictionary.
    """

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], list[T]] = {}
        self._size = 0  # of what was put there since it was last empty

    def put(self, collection: int, first_row: int, values: list[T], size: int) -> None:
        """Keep what is in the rows from `first_row` on, unless it is too much.

        Args:
            size: how much it is, about: see `_SIZE`.
        """
        if not self._pieces:
            self._size = 0
        self._size += size
        if self._size <= _SIZE:
            self._pieces[collection, first_row] = values
        else:
            self.clear()

    def taken(self, collection: int, row: int, stop: int) -> Iterator[tuple[int, list[T]]]:
        """The values of the rows from `row` on, as far as they are at hand, in pieces that end by `stop`: each with
        its first row. They, and all before them, are at hand no more.
        """
        while (values := self._pieces.get((collection, row))) is not None and row + len(values) <= stop:
            self._pieces.pop((collection, row), None)
            yield row, values
            row += len(values)
        for key in list(self._pieces):
            if key < (collection, row):
                self._pieces.pop(key, None)

    def clear(self) -> None:
        self._pieces.clear()
