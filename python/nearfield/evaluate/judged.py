"""Test collections in folders as BEIR has them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfield.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from nearfield.collection import Collection

_BATCH = 256


class Judged(NamedTuple):
    """Documents and queries by id, and what judges said: qrels[query id][document id] is a grade, over 0 relevant."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def fill(self, collection: Collection, progress: Callable[[int, int], None] | None = None) -> int:
        """Add the documents that the collection does not have yet; returns how many. Empty documents are left out.

        Args:
            collection: one that embeds texts.
            progress: called with the number of documents added so far, and of all to be added.
        """
        there = {record.id for record in collection.get(include=())}
        todo = [(id, text) for id, text in self.documents.items() if id not in there and text]
        for start in range(0, len(todo), _BATCH):
            ids, texts = zip(*todo[start : start + _BATCH], strict=True)
            collection.add(texts, ids=ids)
            if progress is not None:
                progress(min(start + _BATCH, len(todo)), len(todo))
        return len(todo)


def load_judged(folder: str | os.PathLike[str], split: str = "test", *, corpus: bool = True) -> Judged:
    """Read a BEIR folder: corpus.jsonl, queries.jsonl, and qrels/<split>.tsv (or qrels.tsv).

    A line of the first two is an object with `_id` (or `id`), `text`, and perhaps a `title`, which goes before the
    text. A line of qrels has query id, document id and grade (or, as TREC writes it, four columns, of which the second
    is not used); a header is passed over. Only judged queries are kept. With corpus=False the documents are not read.

    Raises:
        NotFound: a file is not there. InvalidInput: a line is not as it should be; it is named.

    Example:
        >>> from nearfield.evaluate import evaluate, load_judged
        >>> judged = load_judged("scifact")  # doctest: +SKIP
        >>> judged.fill(docs)  # doctest: +SKIP
        5183
        >>> evaluate(docs, judged.queries, judged.qrels)  # doctest: +SKIP
    """
    root = Path(folder)
    qrels: dict[str, dict[str, int]] = {}
    path = root / "qrels" / f"{split}.tsv"
    for place, line in _lines(path if path.exists() or not (root / "qrels.tsv").exists() else root / "qrels.tsv"):
        columns = line.split("\t") if "\t" in line else line.split()
        try:
            query, document, grade = columns[0], columns[-2], int(float(columns[-1]))
        except (ValueError, IndexError):
            if place.endswith(":1"):
                continue
            raise InvalidInput(f"{place}: {line!r:.80} is not a query id, a document id and a grade") from None
        qrels.setdefault(query, {})[document] = grade
    documents = {
        id: f"{entry.get('title') or ''} {text}".strip()
        for id, text, entry in (_entries(root / "corpus.jsonl") if corpus else ())
    }
    queries = {id: text for id, text, _ in _entries(root / "queries.jsonl") if id in qrels and text.strip()}
    return Judged(root.resolve().name, documents, queries, qrels)


def _entries(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for place, line in _lines(path):
        try:
            entry = json.loads(line)
            id, text = entry["_id"] if "_id" in entry else entry["id"], entry["text"]
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(f"{place}: {line!r:.80} is not a JSON object with `_id` and `text`") from None
        if not isinstance(id, (str, int)) or not isinstance(text, str):
            raise InvalidInput(f"{place}: `_id` and `text` must be strings, got {id!r:.40} and {text!r:.40}")
        yield str(id), text, entry


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()
    except FileNotFoundError:
        raise NotFound(
            f"there is no {path}: a folder of judged queries has corpus.jsonl, queries.jsonl and qrels/test.tsv"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text: {error}") from None
