"""`where` and `where_document`: checked, turned into a small tree, and from there into SQL.

A `where` is a dictionary. `{"year": 1999}` asks for equality; `{"year": {"$gte": 1990, "$lt": 2000}}` uses operators;
several fields, or several operators on a field, must all hold. `$and`, `$or` (lists of wheres) and `$not` (one where,
or operators of one field: `{"year": {"$not": {"$gt": 2000}}}`) combine them.

| operator              | a record matches when                                          |
|-----------------------|----------------------------------------------------------------|
| `$eq`, plain value    | the field equals the value                                     |
| `$ne`                 | `$eq` does not match                                           |
| `$gt $gte $lt $lte`   | the field is of the value's kind and compares so               |
| `$in`, `$nin`         | the field equals one of the values; `$in` does not match       |
| `$exists`             | True: the record has the field, even as None; False: it has not |

What is equal to what:

* There are four kinds of values: text, numbers, truth values and None. Values of different kinds are never equal and
  never compare: `1`, `True` and `"1"` are three different things. int and float are one kind and compare by value.
  Text compares by code point. Truth values and None have no order.
* A list matches when any of its elements does, for each operator on its own.
* None stands for "no value": `{"field": None}` matches a stored None and a missing field alike.
  Every other positive comparison fails on a missing field.
* `$ne`, `$nin` and `$not` are exact negations, so they match records that lack the field.

`where_document` looks into the text: `{"$contains": "cat"}`, `{"$not_contains": "cat"}` (case-sensitive; a record
without a document contains nothing), combined by `$and`, `$or`, `$not`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nearfield.errors import InvalidInput
from nearfield.types import Scalar

MAX_DEPTH = 20  # SQLite's parser has a stack of 100; a deeper filter is a mistake or an attack
MAX_CONDITIONS = 1000

_COMPARE = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_FIELD_OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not")
_LOGICAL = ("$and", "$or", "$not")
_DOCUMENT_OPERATORS = ("$contains", "$not_contains")


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field (or an element of it) equals one of `values`."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The field (or an element of it) stands in the order `operator` (>, >=, <, <=) to `value`."""

    field: str
    operator: str
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """The record has the field."""

    field: str


@dataclass(frozen=True, slots=True)
class Contains:
    """The document has `text` in it."""

    text: str


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; with no parts, every record matches."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter: TypeAlias = OneOf | Compare | Exists | Contains | All | Some | Not


def parse(where: Mapping[str, Any] | None, where_document: Mapping[str, Any] | None = None) -> Filter | None:
    """The filter that `where` and `where_document` describe together, or None when they let everything through.

    Raises:
        InvalidInput: the message names the place inside the filter and what is possible there.

    Example:
        >>> parse({"year": {"$lt": 2005}})
        Compare(field='year', operator='<', value=2005)
    """
    parts: list[Filter] = []
    if where is not None:
        parts.append(_where(where, "where", 0))
    if where_document is not None:
        parts.append(_document(where_document, "where_document", 0))
    whole = _all(parts)
    if (conditions := _count(whole)) > MAX_CONDITIONS:
        raise InvalidInput(
            f"the filter has {conditions} conditions, at most {MAX_CONDITIONS} are possible; use $in for many values"
        )
    return None if whole == All(()) else whole


def to_sql(filter: Filter) -> tuple[str, list[Any]]:
    """`filter` as an SQL condition over the columns `metadata` (JSON) and `document`, and its parameters.

    Every value and field name is a parameter; the text holds nothing that came from outside.
    """
    parameters: list[Any] = []
    return _sql(filter, parameters), parameters


def check_field(name: object, place: str) -> str:
    """`name`, if a metadata field can be called so: names are also parts of JSON paths, which some characters break.

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
    return name


def scalar(value: object, place: str) -> Scalar:
    """`value` as str, int, float, bool or None (NumPy scalars are unwrapped), or an error that says what it is.

    Raises:
        InvalidInput: another type, NaN or infinity, an integer beyond 64 bits, text with a NUL character.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(f"{place}: text must not hold NUL characters, got {value!r}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{place}: numbers must be finite, got {value!r}; leave the field out or use None")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidInput(f"{place}: whole numbers must fit in 64 bits, got {value}; store it as text")
    elif value is not None:
        hint = {"datetime": "; store its isoformat()", "date": "; store its isoformat()", "dict": "; flatten it"}
        kind = type(value).__name__
        raise InvalidInput(
            f"{place}: must be str, int, float, bool or None, got {value!r} ({kind}){hint.get(kind, '')}"
        )
    return value


def _printable(text: str) -> bool:
    return all(character >= " " for character in text)


def _where(where: object, place: str, depth: int) -> Filter:
    if not isinstance(where, Mapping):
        raise InvalidInput(
            f"{place}: must be a dictionary such as {{'year': 1999}}, got {where!r} ({type(where).__name__})"
        )
    _check_depth(place, depth)
    parts: list[Filter] = []
    for key, value in where.items():
        here = f"{place}[{key!r}]"
        if key in ("$and", "$or"):
            inner = tuple(_where(item, f"{here}[{i}]", depth + 1) for i, item in enumerate(_items(value, here)))
            parts.append(_all(inner) if key == "$and" else Some(inner))
        elif key == "$not":
            parts.append(Not(_where(value, here, depth + 1)))
        elif isinstance(key, str) and key.startswith("$"):
            raise InvalidInput(
                f"{here}: no such operator here; the operators are {', '.join(_LOGICAL)}, "
                f"and inside a field {', '.join(_FIELD_OPERATORS)}"
            )
        else:
            parts.append(_field(check_field(key, place), value, here, depth + 1))
    return _all(parts)


def _field(name: str, value: object, place: str, depth: int) -> Filter:
    if not isinstance(value, Mapping):
        if isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidInput(f"{place}: a list cannot be compared; use {{'$in': [...]}} for any of its values")
        return OneOf(name, (scalar(value, place),))
    _check_depth(place, depth)
    if not value:
        raise InvalidInput(f"{place}: no operator given; the operators are {', '.join(_FIELD_OPERATORS)}")
    return _all([_operator(name, key, operand, f"{place}[{key!r}]", depth) for key, operand in value.items()])


def _operator(name: str, operator: object, operand: object, place: str, depth: int) -> Filter:
    if operator in ("$eq", "$ne"):
        equal = OneOf(name, (scalar(operand, place),))
        return equal if operator == "$eq" else Not(equal)
    if operator in ("$in", "$nin"):
        if isinstance(operand, (str, bytes, Mapping)) or not hasattr(operand, "__iter__"):
            raise InvalidInput(f"{place}: must be a list of values, got {operand!r} ({type(operand).__name__})")
        one_of = OneOf(name, tuple(scalar(item, f"{place}[{i}]") for i, item in enumerate(operand)))
        return one_of if operator == "$in" else Not(one_of)
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(f"{place}: must be True or False, got {operand!r} ({type(operand).__name__})")
        return Exists(name) if operand else Not(Exists(name))
    if operator == "$not":
        if not isinstance(operand, Mapping):
            raise InvalidInput(
                f"{place}: must hold operators, such as {{'$gt': 5}}, got {operand!r}; use $ne for a value"
            )
        return Not(_field(name, operand, place, depth + 1))
    if isinstance(operator, str) and operator in _COMPARE:
        value = scalar(operand, place)
        if value is None or isinstance(value, bool):
            raise InvalidInput(f"{place}: only numbers and text have an order, got {value!r}")
        return Compare(name, _COMPARE[operator], value)
    known = f"the operators are {', '.join(_FIELD_OPERATORS)}"
    if isinstance(operator, str) and operator.startswith("$"):
        raise InvalidInput(f"{place}: no such operator; {known}")
    raise InvalidInput(f"{place}: fields are not nested; {known}")


def _document(where: object, place: str, depth: int) -> Filter:
    if not isinstance(where, Mapping):
        raise InvalidInput(
            f"{place}: must be a dictionary such as {{'$contains': 'cat'}}, got {where!r} ({type(where).__name__})"
        )
    _check_depth(place, depth)
    parts: list[Filter] = []
    for key, value in where.items():
        here = f"{place}[{key!r}]"
        if key in _DOCUMENT_OPERATORS:
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"{here}: must be a text that is not empty, got {value!r} ({type(value).__name__})")
            parts.append(Contains(value) if key == "$contains" else Not(Contains(value)))
        elif key in ("$and", "$or"):
            inner = tuple(_document(item, f"{here}[{i}]", depth + 1) for i, item in enumerate(_items(value, here)))
            parts.append(_all(inner) if key == "$and" else Some(inner))
        elif key == "$not":
            parts.append(Not(_document(value, here, depth + 1)))
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


def _all(parts: Sequence[Filter]) -> Filter:
    parts = [part for part in parts if part != All(())]
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _count(filter: Filter) -> int:
    if isinstance(filter, (All, Some)):
        return sum(map(_count, filter.parts))
    return _count(filter.part) if isinstance(filter, Not) else 1


def _sql(filter: Filter, parameters: list[Any]) -> str:
    if isinstance(filter, All):
        return _join([_sql(part, parameters) for part in filter.parts], "AND") if filter.parts else "1"
    if isinstance(filter, Some):
        return _join([_sql(part, parameters) for part in filter.parts], "OR")
    if isinstance(filter, Not):
        return f"NOT {_sql(filter.part, parameters)}"
    if isinstance(filter, Contains):
        parameters.append(filter.text)
        return "coalesce(instr(document, ?) > 0, 0)"
    if isinstance(filter, Exists):
        parameters.append(_path(filter.field))
        return "(json_type(metadata, ?) IS NOT NULL)"
    if isinstance(filter, Compare):
        parameters += [_path(filter.field), filter.value]
        kind = "e.type = 'text'" if isinstance(filter.value, str) else "e.type IN ('integer', 'real')"
        return _any_element(f"{kind} AND e.atom {filter.operator} ?")
    return _one_of(filter, parameters)


def _one_of(filter: OneOf, parameters: list[Any]) -> str:
    texts = [value for value in filter.values if isinstance(value, str)]
    numbers = [value for value in filter.values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    tests = []
    parameters.append(_path(filter.field))
    for kinds, values in (("'text'", texts), ("'integer', 'real'", numbers)):
        if values:  # one parameter for any number of values
            tests.append(f"e.type IN ({kinds}) AND e.atom IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps(values, ensure_ascii=False))
    for value, kind in ((True, "'true'"), (False, "'false'"), (None, "'null'")):
        if any(item is value for item in filter.values):
            tests.append(f"e.type = {kind}")
    found = _any_element(" OR ".join(tests) or "0")
    if not any(value is None for value in filter.values):
        return found
    parameters.append(_path(filter.field))
    return f"({found} OR json_type(metadata, ?) IS NULL)"


def _any_element(test: str) -> str:
    # json_each() yields the elements of a list and the value itself otherwise: both cases in one expression.
    return f"EXISTS (SELECT 1 FROM json_each(metadata, ?) AS e WHERE {test})"


def _path(field: str) -> str:
    return f'$."{field}"'


def _join(parts: list[str], operator: str) -> str:
    """A balanced tree, because SQLite limits the depth of an expression and `a AND b AND c ...` is one level a term."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_join(parts[:half], operator)} {operator} {_join(parts[half:], operator)})"
