"""Files of many records: JSON lines, JSON and CSV. Each record is a document, its other fields are metadata."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from nearfield.errors import InvalidInput
from nearfield.load.document import Document
from nearfield.load.plain import scalar


def read_jsonl(name: str, id: str, text: str, known: dict[str, Any]) -> list[Document]:
    """One document a line: an object with a `text`, perhaps a unique `id`, and any other fields."""
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    return _documents(name, id, known, (("line", n, _object(name, n, line)) for n, line in lines), whole=False)


def read_json(name: str, id: str, text: str, known: dict[str, Any]) -> list[Document]:
    """One document for each object of a list; anything else is one document.

    An object without a `text` becomes one from all its fields, a line each, and its plain fields are metadata too.
    """
    value = _parsed(name, text)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _documents(name, id, known, (("item", n, item) for n, item in enumerate(value, 1)), whole=True)
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        value = dict(value)
        return [Document(id, value.pop("text"), {**known, **_flat(value)})]
    lines = _lines(_flat({"": value})) if value not in ({}, [], None, "") else ""
    return [Document(id, lines, known)]


def read_csv(name: str, id: str, text: str, known: dict[str, Any], *, delimiter: str | None = None) -> list[Document]:
    """One document a row; the first row names the fields. Without a `text` column, the text is all of the row.

    Raises:
        InvalidInput: there is no row of names, or a row has more fields than names.
    """
    first = text.partition("\n")[0]
    separator = delimiter or max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    # A cell may be a whole document. The limit is the process's own: it is only ever raised, and harms nobody then.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        names = [field.strip() for field in next(reader, [])]
        if not text.strip():
            return []
        if not all(names) or len(set(names)) < len(names):
            raise InvalidInput(f"{name}: its first row does not name each column, each by another name: {first[:80]}")
        rows = _rows(name, names, reader)
        return _documents(name, id, known, rows, whole=True)
    except csv.Error as error:
        raise InvalidInput(f"{name}: line {reader.line_num} is not valid CSV: {error}") from None


def _rows(name: str, names: list[str], reader: Any) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for row in reader:
        if not any(field.strip() for field in row):
            continue
        if len(row) > len(names):
            raise InvalidInput(
                f"{name}: line {reader.line_num} has {len(row)} fields, the first row names {len(names)}"
            )
        values = {
            key: value if key == "text" else scalar(value.strip()) for key, value in zip(names, row, strict=False)
        }
        if isinstance(values.get("id"), float | bool):
            values["id"] = row[names.index("id")].strip()
        yield "line", reader.line_num, values


def _documents(
    name: str, id: str, known: dict[str, Any], records: Iterable[tuple[str, int, dict[str, Any]]], *, whole: bool
) -> list[Document]:
    """`whole`: a record without a `text` is made of all its fields; else it is an error."""
    seen: dict[str, int] = {}
    documents = []
    for kind, number, record in records:
        where = f"{name}: {kind} {number}"
        if not whole and not isinstance(record.get("text"), str):
            raise InvalidInput(f'{where} is not an object with a "text": {json.dumps(record)[:80]}')
        own = record.get("id")
        if not isinstance(own, str | int | None) or isinstance(own, bool):
            raise InvalidInput(f"{where} has an id that is neither text nor a whole number: {own!r}")
        key = f"{kind}{number}" if own is None else str(own)
        if key in seen:
            raise InvalidInput(f"{where} has the id {key!r}, which {kind} {seen[key]} has already")
        seen[key] = number
        fields = dict(record)
        body = fields.pop("text") if isinstance(fields.get("text"), str) else None
        flat = _flat(fields)
        documents.append(Document(f"{id}#{key}", _lines(flat) if body is None else body, {**known, **flat}))
    return documents


def _object(name: str, number: int, line: str) -> dict[str, Any]:
    record = _parsed(f"{name}: line {number}", line)
    if not isinstance(record, dict):
        raise InvalidInput(f'{name}: line {number} is not an object with a "text": {line.strip()[:80]}')
    return record


def _parsed(where: str, text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where} holds half of a surrogate pair, which is no character") from None
    return value


def _lines(flat: dict[str, Any]) -> str:
    """`name: value` lines, of what has a value."""
    plain = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in flat.items()}
    return "\n".join(
        f"{key}: {value}" if key else str(value) for key, value in plain.items() if value not in (None, "")
    )


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"meta": {"year": 1999}}` as `{"meta.year": 1999}`; lists that hold lists or objects as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}.{key}" if prefix and key else prefix or key
        if isinstance(value, dict):
            flat.update(_flat(value, name))
        elif isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            flat[name] = json.dumps(value, ensure_ascii=False)
        else:
            flat[name] = value
    return flat
