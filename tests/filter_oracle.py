"""What a filter means, record by record, in plain Python. Written from `docs/filters.md`, not from the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

ISO = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?", re.A)
KIND = {bool: "truth", int: "number", float: "number", str: "text", type(None): "none", date: "time", datetime: "time"}
NOTHING = object()  # what an object, or an empty list, has for a value


def walk(value: Any, path: str, listed: bool) -> Iterator[tuple[str, Any, bool]]:
    """(path, value, whether it stands in a list) of everything below `value`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            yield here, NOTHING, listed
            yield from walk(inner, here, listed)
    elif isinstance(value, list):
        yield path, NOTHING, True
        for element in value:
            yield from walk(element, path, True)
    else:
        yield path, value, listed


def time(value: Any) -> Any:
    """The instant that a value is or names: microseconds, or None."""
    if not isinstance(value, str):
        return time(value.isoformat()) if isinstance(value, date) else None
    if not ISO.fullmatch(value):
        return None
    try:
        whole, zone, sign = value.upper(), timedelta(), 1
        if found := re.search(r"[+-]\d\d(:?\d\d)?$", whole[10:]):
            digits = found[0][1:].replace(":", "").ljust(4, "0")
            zone, sign = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])), -1 if found[0][0] == "-" else 1
            if int(digits[:2]) > 23 or int(digits[2:]) > 59:
                return None
            whole = whole[: -len(found[0])]
        moment = datetime.fromisoformat(whole.removesuffix("Z")).replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC) - sign * zone) // timedelta(microseconds=1)
    except ValueError:
        return None


def compare(value: Any, operand: Any) -> int | None:
    """-1, 0, 1, or None where there is no order."""
    a, b = time(value), time(operand)
    if a is None or b is None:
        a, b = value, operand
        if KIND[type(a)] != KIND[type(b)] or KIND[type(a)] == "none":
            return None
    return (a > b) - (a < b)


def equal(value: Any, operand: Any) -> bool:
    return (value is None and operand is None) or compare(value, operand) == 0


def like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[at:], pattern[1:]) for at in range(len(text) + 1))
    pattern, wild = (pattern[1:], False) if pattern[0] == "\\" else (pattern, pattern[0] == "_")
    return text != "" and (wild or text[0] == pattern[0]) and like(text[1:], pattern[1:])


def field_matches(metadata: dict[str, Any], path: str, condition: Any) -> bool:
    found = [(value, listed) for here, value, listed in walk(metadata, "", False) if here == path]
    values = [value for value, _ in found if value is not NOTHING]
    texts = [value for value in values if isinstance(value, str)]
    in_list = any(listed for _, listed in found)
    if not isinstance(condition, dict):
        condition = {"$eq": condition}
    if not any(key.startswith("$") for key in condition):
        return all(field_matches(metadata, f"{path}.{name}", inner) for name, inner in condition.items())
    orders = {"$gt": (1,), "$gte": (0, 1), "$lt": (-1,), "$lte": (-1, 0)}
    opposites = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}

    def holds(operator: str, operand: Any) -> bool:
        if operator in opposites:
            return not holds(opposites[operator], operand)
        if operator == "$not":
            return not field_matches(metadata, path, operand)
        if operator == "$in":
            return any(holds("$eq", wanted) for wanted in operand)
        if operator == "$eq":
            return any(equal(value, operand) for value in values) or (operand is None and not found)
        if operator == "$exists":
            return bool(found) == operand
        if operator == "$contains":
            if in_list:
                return any(equal(value, operand) for value in values)
            return isinstance(operand, str) and any(operand in text for text in texts)
        if operator == "$like":
            return any(like(text, operand) for text in texts)
        if operator == "$regex":
            return any(re.search(operand, text) for text in texts)
        truth = [value for value in values if not isinstance(value, bool)]
        return any(compare(value, operand) in orders[operator] for value in truth)

    return all(holds(operator, operand) for operator, operand in condition.items())


def matches(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    combine = {
        "$and": lambda parts: all(matches(metadata, part) for part in parts),
        "$or": lambda parts: any(matches(metadata, part) for part in parts),
        "$not": lambda part: not matches(metadata, part),
    }
    return all(combine[k](v) if k in combine else field_matches(metadata, k, v) for k, v in where.items())


def document_matches(document: str | None, where: dict[str, Any]) -> bool:
    rules = {
        "$contains": lambda text: document is not None and text in document,
        "$not_contains": lambda text: document is None or text not in document,
        "$regex": lambda pattern: document is not None and re.search(pattern, document) is not None,
        "$and": lambda parts: all(document_matches(document, part) for part in parts),
        "$or": lambda parts: any(document_matches(document, part) for part in parts),
        "$not": lambda part: not document_matches(document, part),
    }
    return all(rules[key](value) for key, value in where.items())


def sort_key(metadata: dict[str, Any], path: str, descending: bool) -> tuple[Any, ...]:
    """By this, records stand in the order of `order_by`."""
    kinds = {"number": 0, "time": 1, "text": 2, "truth": 3}
    keys = []
    for here, value, _ in walk(metadata, "", False):
        if here == path and value is not NOTHING and value is not None:
            moment = time(value)
            keys.append((kinds["time"], moment) if moment is not None else (kinds[KIND[type(value)]], value))
    return tuple((max if descending else min)(keys)) if keys else ()
