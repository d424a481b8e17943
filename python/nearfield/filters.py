"""`where` and `where_document`: checked, and turned into a small tree, which the core answers from columns.

What the operators mean, for missing fields, lists and values of different kinds too, is in `docs/filters.md`. The tree
is JSON: one key, the name of the node, and what belongs to it.

| node               | holds                                 | node             | holds               |
|--------------------|---------------------------------------|------------------|---------------------|
| `all`, `some`      | nodes; all, or at least one, must hold | `exists`         | a field             |
| `not`              | a node, which must not hold           | `matches`        | a field, a pattern  |
| `one_of`           | a field, values                       | `in_document`    | a text              |
| `compare`          | a field, one of `> >= < <=`, a value  | `document_matches` | a pattern         |
| `contains`         | a field, a value                      |                  |                     |

An instant is `{"time": <ISO 8601>}`; other values are themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, TypeAlias

from nearfield import _native
from nearfield.errors import InvalidInput
from nearfield.types import Scalar

MAX_DEPTH = 20  # a deeper filter, or deeper metadata, is a mistake or an attack
MAX_CONDITIONS = 1000

Node: TypeAlias = dict[str, Any]

_COMPARE = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_FIELD_OPERATORS = (
    "$eq",
    "$ne",
    *_COMPARE,
    "$in",
    "$nin",
    "$exists",
    "$contains",
    "$not_contains",
    "$like",
    "$regex",
    "$not",
)
_LOGICAL = ("$and", "$or", "$not")
_DOCUMENT_OPERATORS = ("$contains", "$not_contains", "$regex")


class Filter(NamedTuple):
    """What a record must meet: a node of conditions on fields, one of conditions on its document; None: anything."""

    fields: Node | None
    document: Node | None


def parse(where: Mapping[str, Any] | None, where_document: Mapping[str, Any] | None = None) -> Filter | None:
    """The filter that `where` and `where_document` describe together, or None when they let everything through.

    Raises:
        InvalidInput: the message names the place inside the filter and what is possible there.

    Example:
        >>> parse({"year": {"$lt": 2005}})
        Filter(fields={'compare': ['year', '<', 2005]}, document=None)
    """
    fields = None if where is None else _where(where, "where", 0)
    document = None if where_document is None else _document(where_document, "where_document", 0)
    found = Filter(*(None if node == _all([]) else node for node in (fields, document)))
    if (conditions := sum(_count(node) for node in found if node is not None)) > MAX_CONDITIONS:
        raise InvalidInput(
            f"the filter has {conditions} conditions, at most {MAX_CONDITIONS} are possible; use $in for many values"
        )
    return None if found == (None, None) else found


def to_json(node: Node) -> str:
    """A node as the core reads it."""
    return json.dumps(node, ensure_ascii=False)


def check_field(name: object, place: str) -> str:
    """`name`, if a metadata field can be called so.

    Raises:
        InvalidInput: not a string, empty, starting with `$`, or holding a double quote, backslash or control character.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"{place}: a field name must be a string, got {name!r} ({type(name).__name__})")
    if not name or name[0] == "$" or '"' in name or "\\" in name or not _printable(name):
        raise InvalidInput(
            f"{place}: {name!r} cannot be a field name: it must not be empty, start with '$', "
            "or hold double quotes, backslashes or control characters"
        )
    check_unicode(name, place)
    return name


def scalar(value: object, place: str) -> Scalar:
    """`value` as str, int, float, bool or None (NumPy scalars are unwrapped, dates become ISO 8601), or an error.

    Raises:
        InvalidInput: another type, NaN or infinity, an integer beyond 64 bits, text with a NUL character.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = _unwrapped(value)
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(f"{place}: text must not hold NUL characters, got {value!r}")
        check_unicode(value, place)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{place}: numbers must be finite, got {value!r}; leave the field out or use None")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidInput(f"{place}: whole numbers must fit in 64 bits, got {value}; store it as text")
    elif isinstance(value, date):
        return _iso(value, place)
    elif value is not None:
        raise InvalidInput(
            f"{place}: must be str, int, float, bool, None, date or datetime, got {value!r} ({type(value).__name__})"
        )
    return value


def _unwrapped(value: Any) -> object:
    """A NumPy scalar as Python has it; a datetime64 to the microsecond, whatever its unit."""
    return value.astype("datetime64[us]").item() or math.nan if value.dtype.kind == "M" else value.item()


def _iso(value: date, place: str) -> str:
    if value != value:
        raise InvalidInput(f"{place}: {value!r} is no date; leave the field out or use None")
    if isinstance(value, datetime) and (ahead := value.utcoffset()) is not None and ahead.total_seconds() % 60:
        value = value.astimezone(UTC)  # ISO 8601 has zones to the minute
    return value.isoformat()


def check_unicode(text: str, place: str) -> None:
    """Refuse what is no text."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{place} holds half a surrogate pair at {error.start}, not text; decode it with errors='replace'"
            ) from None


def _operand(value: object, place: str) -> Scalar | dict[str, str]:
    """A value to compare with. A date stays an instant here, it is not just the text that it is stored as."""
    found = scalar(value, place)
    return {"time": found} if isinstance(found, str) and not isinstance(value, str) else found


def _printable(text: str) -> bool:
    return all(character >= " " for character in text)


def _where(where: object, place: str, depth: int, path: str = "") -> Node:
    if not isinstance(where, Mapping):
        raise InvalidInput(
            f"{place}: must be a dictionary such as {{'year': 1999}}, got {where!r} ({type(where).__name__})"
        )
    _check_depth(place, depth)
    parts: list[Node] = []
    for key, value in where.items():
        here = f"{place}[{key!r}]"
        if key in ("$and", "$or"):
            inner = [_where(item, f"{here}[{i}]", depth + 1) for i, item in enumerate(_items(value, here))]
            parts.append(_all(inner) if key == "$and" else {"some": inner})
        elif key == "$not":
            parts.append({"not": _where(value, here, depth + 1)})
        elif isinstance(key, str) and key.startswith("$"):
            raise InvalidInput(
                f"{here}: no such operator here; the operators are {', '.join(_LOGICAL)}, "
                f"and inside a field {', '.join(_FIELD_OPERATORS)}"
            )
        else:
            parts.append(_field(path + check_field(key, place), value, here, depth + 1))
    return _all(parts)


def _field(name: str, value: object, place: str, depth: int) -> Node:
    if not isinstance(value, Mapping):
        if isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidInput(f"{place}: a list cannot be compared; use {{'$in': [...]}} for any of its values")
        return {"one_of": [name, [_operand(value, place)]]}
    _check_depth(place, depth)
    if not value:
        raise InvalidInput(f"{place}: no operator given; the operators are {', '.join(_FIELD_OPERATORS)}")
    operators = [isinstance(key, str) and key.startswith("$") for key in value]
    if not any(operators):  # fields of an object
        return _where(value, place, depth, f"{name}.")
    if not all(operators):
        raise InvalidInput(f"{place}: operators and names of fields stand side by side in {value!r}; use $and")
    return _all([_operator(name, key, operand, f"{place}[{key!r}]", depth) for key, operand in value.items()])


def _operator(name: str, operator: str, operand: object, place: str, depth: int) -> Node:
    if operator in ("$ne", "$nin", "$not_contains"):
        opposite = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}[operator]
        return {"not": _operator(name, opposite, operand, place, depth)}
    if operator == "$eq":
        return {"one_of": [name, [_operand(operand, place)]]}
    if operator == "$in":
        if isinstance(operand, (str, bytes, Mapping)) or not hasattr(operand, "__iter__"):
            raise InvalidInput(f"{place}: must be a list of values, got {operand!r} ({type(operand).__name__})")
        return {"one_of": [name, [_operand(item, f"{place}[{i}]") for i, item in enumerate(operand)]]}
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(f"{place}: must be True or False, got {operand!r} ({type(operand).__name__})")
        return {"exists": name} if operand else {"not": {"exists": name}}
    if operator == "$not":
        if not isinstance(operand, Mapping):
            raise InvalidInput(
                f"{place}: must hold operators, such as {{'$gt': 5}}, got {operand!r}; use $ne for a value"
            )
        return {"not": _field(name, operand, place, depth + 1)}
    if operator == "$contains":
        return {"contains": [name, _operand(operand, place)]}
    if operator in ("$like", "$regex"):
        return {"matches": [name, _pattern(operator, operand, place)]}
    if operator in _COMPARE:
        value = _operand(operand, place)
        if value is None or isinstance(value, bool):
            raise InvalidInput(f"{place}: only numbers, text and dates have an order, got {value!r}")
        return {"compare": [name, _COMPARE[operator], value]}
    raise InvalidInput(f"{place}: no such operator; the operators are {', '.join(_FIELD_OPERATORS)}")


def _pattern(operator: str, operand: object, place: str) -> str:
    """A regular expression, as the core has them."""
    if not isinstance(operand, str):
        raise InvalidInput(f"{place}: must be a text, got {operand!r} ({type(operand).__name__})")
    check_unicode(operand, place)
    pattern = operand
    if operator == "$like":
        parts, escaped = [], False
        for character in operand:
            if not escaped and character == "\\":
                escaped = True
                continue
            wild = None if escaped else {"%": ".*", "_": "."}.get(character)
            parts.append(wild or (character if character.isalnum() else f"\\x{{{ord(character):x}}}"))
            escaped = False
        if escaped:
            raise InvalidInput(f"{place}: {operand!r} ends in a backslash, which stands before '%', '_' or another one")
        pattern = rf"(?s)\A{''.join(parts)}\z"
    try:
        _native.check_pattern(pattern)
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from None
    return pattern


def _document(where: object, place: str, depth: int) -> Node:
    if not isinstance(where, Mapping):
        raise InvalidInput(
            f"{place}: must be a dictionary such as {{'$contains': 'cat'}}, got {where!r} ({type(where).__name__})"
        )
    _check_depth(place, depth)
    parts: list[Node] = []
    for key, value in where.items():
        here = f"{place}[{key!r}]"
        if key in _DOCUMENT_OPERATORS:
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"{here}: must be a text that is not empty, got {value!r} ({type(value).__name__})")
            check_unicode(value, here)
            if key == "$regex":
                parts.append({"document_matches": _pattern(key, value, here)})
            else:
                parts.append({"in_document": value} if key == "$contains" else {"not": {"in_document": value}})
        elif key in ("$and", "$or"):
            inner = [_document(item, f"{here}[{i}]", depth + 1) for i, item in enumerate(_items(value, here))]
            parts.append(_all(inner) if key == "$and" else {"some": inner})
        elif key == "$not":
            parts.append({"not": _document(value, here, depth + 1)})
        else:
            raise InvalidInput(
                f"{here}: no such operator; the operators are {', '.join(_DOCUMENT_OPERATORS + _LOGICAL)}"
            )
    return _all(parts)


def _items(value: object, place: str) -> Sequence[object]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidInput(f"{place}: must be a list with at least one filter, got {value!r} ({type(value).__name__})")
    return value


def _check_depth(place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"the filter is nested more than {MAX_DEPTH} levels deep (at {place[:60]}…); flatten it")


def _all(parts: Sequence[Node]) -> Node:
    parts = [part for part in parts if part != {"all": []}]
    return parts[0] if len(parts) == 1 else {"all": parts}


def _count(node: Node) -> int:
    """The conditions in a node."""
    ((kind, content),) = node.items()
    if kind in ("all", "some"):
        return sum(map(_count, content))
    return _count(content) if kind == "not" else 1
