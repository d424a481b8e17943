"""What users hand to a collection: checked as a whole before anything is done with it.

Each error names the argument, the position, what was found there and what to do.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield import _native
from nearfield.errors import InvalidInput, shown
from nearfield.fields import Descending, F
from nearfield.filters import MAX_DEPTH, check_field, check_unicode, scalar
from nearfield.sparse import languages
from nearfield.types import METRICS, Metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_DIMENSION = 65_535  # of the index
_MOST = 1 << 62  # more than there will ever be of anything, and SQLite can add two of them
_INCLUDE = ("documents", "metadatas", "embeddings")
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class Queries(NamedTuple):
    """What to search for: `texts` or `vectors`, one of them None. `single`: one query was given, not a list of them."""

    texts: list[str] | None
    vectors: NDArray[np.float32] | None
    single: bool


def collection_name(name: object) -> str:
    """A name that is also a folder name on every file system."""
    if not isinstance(name, str):
        raise InvalidInput(f"a collection name must be a string, got {name!r} ({type(name).__name__})")
    legal = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not legal or len(name) > 128 or name[0] == "." or name[-1] == "." or name.lower().split(".")[0] in _RESERVED:
        raise InvalidInput(
            f"{name[:140]!r} cannot be a collection name: use up to 128 letters (a-z, A-Z), digits, '-', '_' and '.', "
            "with no '.' at either end, and no device name of Windows (con, nul, ...)"
        )
    return name


def metric(value: object) -> Metric:
    for known in METRICS:
        if value == known:
            return known
    raise InvalidInput(f"unknown metric {value!r}; the metrics are {', '.join(METRICS)}")


def language(value: object) -> str:
    """Of the words of documents: a language with stems and stop words, or "none"."""
    known = [*languages(), "none"]
    if value not in known:
        raise InvalidInput(f"unknown language {value!r}; there are {', '.join(known)}")
    return str(value)


def dimension(value: object) -> int:
    """The length of a vector."""
    if (found := positive(value, "dimension")) > MAX_DIMENSION:
        raise InvalidInput(f"dimension must be from 1 to {MAX_DIMENSION}, got {found}")
    return found


def share(value: object, name: str) -> float | None:
    """A number in (0, 1], or None."""
    if (found := number(value, name)) is not None and not 0 < found <= 1:
        raise InvalidInput(f"{name} must be over 0 and at most 1, got {value!r}")
    return found


def number(value: object, name: str) -> float | None:
    """A number, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or value != value:
        raise InvalidInput(f"{name} must be a number or None, got {value!r} ({type(value).__name__})")
    return float(value)


def include(values: Sequence[str]) -> set[str]:
    """Parts of a record, by name."""
    names = {values} if isinstance(values, str) else set(values)
    if unknown := names - set(_INCLUDE):
        raise InvalidInput(f"include has {sorted(unknown)}; it may have {', '.join(_INCLUDE)}")
    return names


def field(value: object, name: str) -> str:
    """A field, by its name or as `F(name)`."""
    return check_field(value.name if isinstance(value, F) else value, name)


def order(values: object) -> list[tuple[str, bool]]:
    """Names, and whether each descends, from `"year"`, `"-year"`, `F("year")`, `-F("year")`, or a list of these."""
    listed = values if isinstance(values, (list, tuple)) else [values]
    found = []
    for i, value in enumerate(listed):
        place = "order_by" if listed is not values else f"order_by[{i}]"
        if isinstance(value, str) and value[:1] == "-":
            value = Descending(value[1:])
        descending = isinstance(value, Descending)
        found.append(
            (check_field(value.name, place) if isinstance(value, Descending) else field(value, place), descending)
        )
    return found


def positive(value: object, name: str) -> int:
    """A whole number of at least 1, such as k."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def not_negative(value: object, name: str) -> int:
    """A whole number of at least 0, such as an offset."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InvalidInput(f"{name} must be a whole number of at least 0, got {value!r}")
    return min(int(value), _MOST)


def ids(values: object, *, unique: bool = True) -> list[str]:
    """A list of ids (a single id is a list of one)."""
    found = _listed(values, "ids", "strings")
    if (i := _native.first_not_text(found, False, True)) is not None:
        id = found[i]
        if isinstance(id, str) and id and "\0" not in id:
            check_unicode(id, f"ids[{i}]")
        raise InvalidInput(
            f"ids[{i}] must be a string that is not empty and has no NUL character, "
            f"got {shown(id)} ({type(id).__name__})"
        )
    if unique and len(set(found)) < len(found):
        seen: set[str] = set()
        twice = next(id for id in found if id in seen or seen.add(id))  # type: ignore[func-returns-value]
        raise InvalidInput(
            f"ids has {shown(twice)} more than once (first at {found.index(twice)}); each id may stand there once"
        )
    return found


def new_ids(count: int) -> list[str]:
    """Ids that no one else makes, ascending, so that the catalog appends them: milliseconds and 79 random bits."""
    first = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(79)
    return [f"{first + i:032x}" for i in range(count)]


def documents(values: object) -> list[str | None]:
    """A list of texts, None where there is none (a single text is a list of one)."""
    found = _listed(values, "documents", "strings")
    if (i := _native.first_not_text(found, True, False)) is not None:
        if isinstance(found[i], str):
            check_unicode(found[i], f"documents[{i}]")
        raise InvalidInput(f"documents[{i}] must be a string, got {shown(found[i])} ({type(found[i]).__name__})")
    return found


def texts(values: Sequence[object], name: str) -> list[str]:
    """Texts to be embedded: there must be something in them."""
    for i, text in enumerate(values):
        if not isinstance(text, str):
            raise InvalidInput(f"{name}[{i}] must be a text, got {shown(text)} ({type(text).__name__})")
        if not text.strip():
            raise InvalidInput(
                f"{name}[{i}] is empty: {text!r} has no meaning to embed; leave it out, or give its vector"
            )
        check_unicode(text, f"{name}[{i}]")
    return list(values)  # type: ignore[arg-type]


def metadatas(values: object) -> list[str | None]:
    """A list of metadata as JSON, None where there is none (a single dictionary is a list of one)."""
    found = _metadatas(values)
    return _json_texts(found, 0, len(found))


class Metadatas:
    """As `metadatas`, but made a piece at a time, when it is asked for: `{}` where there is none.

    What is no metadata raises when it is come to, so whoever asks must be able to undo what he has done by then.
    """

    def __init__(self, values: object) -> None:
        self._values = _metadatas(values)
        self.made: list[str] = []

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, piece: slice) -> list[str]:
        start, stop, _ = piece.indices(len(self._values))
        if (known := len(self.made)) < stop:
            self.made += [text or "{}" for text in _json_texts(self._values, known, stop)]
        return self.made[start:stop]


def vectors(values: ArrayLike, dimension: int | None, name: str = "embeddings") -> NDArray[np.float32]:
    """Finite vectors as float32 of shape (n, dimension); a single one of shape (dimension,) becomes (1, dimension)."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, and is refused below
            array = np.asarray(values)
            array = array.astype(np.float32, copy=False) if array.dtype.kind in "fiu" else _numbers(values, array, name)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{name} must be numbers in rows of equal length: {error}") from None
    if array.ndim == 1 and array.size:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] == 0:
        if array.size == 0 and array.ndim <= 2:
            return np.empty((0, dimension or 0), dtype=np.float32)
        raise InvalidInput(f"{name} must have the shape (n, dimension), got {array.shape}")
    if array.shape[1] > MAX_DIMENSION:
        raise InvalidInput(f"{name} have {array.shape[1]} dimensions, at most {MAX_DIMENSION} are possible")
    if dimension is not None and array.shape[1] != dimension:
        raise InvalidInput(
            f"{name} have {array.shape[1]} dimensions, the collection has {dimension}; use the model it was filled with"
        )
    array = np.ascontiguousarray(array)
    if (row := _native.first_not_finite(array)) is not None:
        raise InvalidInput(f"{name}[{row}] has NaN or infinite values (of float32); leave it out or mend it")
    return array


def queries(values: Any, dimension: int | None) -> Queries:
    """A text, a vector, a list of texts or a 2-D array."""
    if isinstance(values, str):
        return Queries(texts([values], "query"), None, True)
    if isinstance(values, np.ndarray) and values.dtype.kind in "UO":
        values = values.tolist()
    if isinstance(values, (list, tuple)) and any(isinstance(item, str) for item in values):
        return Queries(texts(values, "query"), None, False)
    if values is None or isinstance(values, (Mapping, bytes, bool, int, float)):
        raise InvalidInput(
            f"query must be a text, a vector, or a list of either, got {shown(values)} ({type(values).__name__})"
        )
    array = np.asarray(values) if not isinstance(values, np.ndarray) else values
    found = vectors(array, dimension, "query")
    return Queries(None, found, array.ndim == 1 and array.size > 0)


def examples(values: Any, dimension: int | None, name: str) -> tuple[list[str], NDArray[np.float32]]:
    """Examples by id and by vector: an id, a vector, or a list that may have both; None is no example."""
    if values is None:
        return [], vectors([], dimension)
    if isinstance(values, str):
        return ids(values), vectors([], dimension)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "UO":
        return [], vectors(values, dimension, name)
    found = _listed(values, name, "ids or vectors")
    if found and all(isinstance(item, (int, float, np.integer, np.floating)) for item in found):
        return [], vectors(found, dimension, name)
    given = [item for item in found if not isinstance(item, str)]
    return ids([item for item in found if isinstance(item, str)], unique=False), vectors(given, dimension, name)


def same_length(**columns: Sized | None) -> int:
    """The number of items that all given columns have."""
    counts = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(counts.values())) > 1:
        raise InvalidInput(
            f"there must be as many of each, got {', '.join(f'{n} {name}' for name, n in counts.items())}"
        )
    return next(iter(counts.values()), 0)


def _listed(values: object, name: str, of: str) -> list[Any]:
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, (bytes, Mapping)):
        raise InvalidInput(f"{name} must be a list of {of}, got {shown(values)} ({type(values).__name__})")
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _metadatas(values: object) -> list[Any]:
    return [values] if isinstance(values, Mapping) else _listed(values, "metadatas", "dictionaries")


def _json_texts(values: list[Any], start: int, stop: int) -> list[str | None]:
    made: list[str | None] = []
    while (at := start + len(made)) < stop:
        made += _native.json_objects(values, at, stop)  # as far as nothing can be wrong
        if (at := start + len(made)) < stop:
            made.append(None if values[at] is None else _metadata(values[at], f"metadatas[{at}]"))
    return made


def _metadata(item: object, place: str) -> str:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{place} must be a dictionary, got {shown(item)} ({type(item).__name__})")
    return _json(_plain(item, place, 0))


def _plain(value: object, place: str, depth: int) -> Any:
    """A value as JSON has it: dictionaries and lists of scalars, within each other."""
    if not isinstance(value, (Mapping, list, tuple)):
        return scalar(value, place)
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{place[:60]}…: metadata must not be nested more than {MAX_DEPTH} levels deep; flatten it")
    if isinstance(value, Mapping):
        return {check_field(key, place): _plain(inner, f"{place}[{key!r}]", depth + 1) for key, inner in value.items()}
    return [_plain(element, f"{place}[{i}]", depth + 1) for i, element in enumerate(value)]


def _numbers(values: ArrayLike, array: NDArray[Any], name: str) -> NDArray[np.float32]:
    if array.dtype.kind in "bUSVMmc":
        raise InvalidInput(f"{name} must be numbers, got {array.dtype}")
    return np.asarray(values, dtype=np.float32)
