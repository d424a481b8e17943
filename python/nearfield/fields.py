"""Filters as Python expressions: `nf.F("year") >= 2020` is the `where` `{"year": {"$gte": 2020}}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nearfield.errors import InvalidInput


class Condition(Mapping[str, Any]):
    """A `where`, to be used wherever one is, and combined by `&` (and), `|` (or) and `~` (not)."""

    __slots__ = ("_where",)

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._where = dict(where)

    def __getitem__(self, key: str) -> Any:
        return self._where[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __and__(self, other: Mapping[str, Any]) -> Condition:
        return _joined("$and", self, other)

    def __rand__(self, other: Mapping[str, Any]) -> Condition:
        return _joined("$and", other, self)

    def __or__(self, other: Mapping[str, Any]) -> Condition:
        return _joined("$or", self, other)

    def __ror__(self, other: Mapping[str, Any]) -> Condition:
        return _joined("$or", other, self)

    def __invert__(self) -> Condition:
        return Condition({"$not": self._where})

    def __bool__(self) -> bool:
        raise InvalidInput(
            "a condition on a field has no truth value: combine conditions with & | ~, each in brackets, "
            "not with and, or, not, nor by chained comparisons"
        )

    def __repr__(self) -> str:
        return repr(self._where)


class Descending:
    """A field to sort by, from its greatest value down. Made by `-F(name)`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class F:
    """A metadata field, by its name or dotted path: comparisons with it are conditions.

    Example:
        >>> (nf.F("year") >= 2020) & ~nf.F("tags").isin(["draft", "old"])
        {'$and': [{'year': {'$gte': 2020}}, {'$not': {'tags': {'$in': ['draft', 'old']}}}]}
    """

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # `==` makes a condition

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidInput(f"a field name must be a string, got {name!r} ({type(name).__name__})")
        self.name = name

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        return self._is("$eq", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return self._is("$ne", value)

    def __gt__(self, value: object) -> Condition:
        return self._is("$gt", value)

    def __ge__(self, value: object) -> Condition:
        return self._is("$gte", value)

    def __lt__(self, value: object) -> Condition:
        return self._is("$lt", value)

    def __le__(self, value: object) -> Condition:
        return self._is("$lte", value)

    def isin(self, values: Iterable[Any]) -> Condition:
        """The field equals one of `values`."""
        return self._is("$in", values if isinstance(values, (str, bytes)) else list(values))

    def contains(self, value: object) -> Condition:
        """A text has `value` in it; a list has it as an element."""
        return self._is("$contains", value)

    def like(self, pattern: str) -> Condition:
        """The whole text is as `pattern` says, in which `%` stands for any characters and `_` for one."""
        return self._is("$like", pattern)

    def matches(self, pattern: str) -> Condition:
        """The regular expression is found somewhere in the text."""
        return self._is("$regex", pattern)

    def exists(self) -> Condition:
        """The record has the field, be it with None."""
        return self._is("$exists", True)

    def __neg__(self) -> Descending:
        return Descending(self.name)

    def __repr__(self) -> str:
        return f"F({self.name!r})"

    def _is(self, operator: str, value: object) -> Condition:
        return Condition({self.name: {operator: value}})


def _joined(operator: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Condition:
    """Both in one list: a chain of `&` stays one level deep."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return NotImplemented
    parts = [part for side in (a, b) for part in (side[operator] if list(side) == [operator] else [side])]
    return Condition({operator: [dict(part) for part in parts]})
