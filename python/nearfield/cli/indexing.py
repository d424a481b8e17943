"""Files into a collection, so that the collection holds what the files say now."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress

from nearfield.chunk import passages
from nearfield.collection import Collection
from nearfield.database import Database
from nearfield.embed.local import LocalEmbedder
from nearfield.embed.texts import TruncationWarning
from nearfield.errors import InvalidInput, NearfieldError
from nearfield.load import find_files, id_of, read_file

BATCH = 64  # passages embedded and stored at a time: how often the bar moves, and what Ctrl-C can lose
PAGE = 50_000

Entry = tuple[str, dict[str, Any]]  # a passage and its metadata
Item = TypeVar("Item")


@dataclass
class Summary:
    """What `index_paths` did: files read, passages by what became of them, and what could not be read."""

    files: int = 0
    empty: int = 0
    others: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passages: int = 0
    embedded: int = 0
    unchanged: int = 0
    removed: int = 0
    truncated: bool = False  # some passages are longer than the model reads


def open_for_text(database: Database, name: str) -> Collection:
    """The collection of this name, made if missing, with an embedder that leaves the progress bar to the caller.

    Raises:
        InvalidInput: its vectors were not made from text.
        EmbedderMismatch: another embedder made them.
    """
    docs = database.collection(name, embedder=LocalEmbedder(progress=False))
    if docs.count() and docs.embedder_identity is None:
        raise InvalidInput(f"collection {name!r} holds vectors that were not made from text; give another --collection")
    return docs


def index_paths(collection: Collection, paths: Sequence[str | Path], bars: Progress) -> Summary:
    """Make `collection` hold the passages of all text files under `paths`, and no others of these files.

    Ids are the file's path and the passage's number, so a second run replaces what changed, removes what is gone
    (also files that were deleted from a folder among `paths`) and embeds only what is new. A file that cannot be read
    is a problem in the summary, and what the collection has of it stays.

    Raises:
        NotFound: one of `paths` does not exist.
        StorageError: a folder cannot be listed, or the database cannot be written.
    """
    found = find_files(paths)
    done = Summary(others=found.others)
    wanted: dict[str, Entry] = {}
    owners: set[str] = set()
    for file in bars.track(found.files, description="Reading"):
        try:
            entries = dict(_entries(file))
        except NearfieldError as error:
            done.problems.append(str(error))
            continue
        owners.add(id_of(file))
        wanted.update(entries)
        done.files += 1
        done.empty += not entries
    there = {record.id: _digest(record.document or "", record.metadata) for record in _records(collection)}
    todo = [id for id, entry in wanted.items() if there.get(id) != _digest(*entry)]
    task = bars.add_task("Embedding", total=len(todo))
    for batch in _batches(todo, BATCH):
        texts, metadatas = zip(*(wanted[id] for id in batch), strict=True)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", TruncationWarning)
                collection.upsert(texts, ids=batch, metadatas=metadatas)
            for warning in caught:
                if issubclass(warning.category, TruncationWarning):
                    done.truncated = True  # told once at the end, not once a batch
                else:
                    warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        except InvalidInput as error:
            raise InvalidInput(f"{batch[0]} and what follows it could not be stored: {error}") from error
        bars.advance(task, len(batch))
    folders = [id_of(path) + "/" for path in paths if Path(path).is_dir()]
    gone = [id for id in there if id not in wanted and _is_gone(id.split("#", 1)[0], owners, folders)]
    for batch in _batches(gone, PAGE):
        done.removed += collection.delete(batch)
    done.passages, done.embedded, done.unchanged = len(wanted), len(todo), len(wanted) - len(todo)
    return done


def _entries(file: Path) -> Iterator[tuple[str, Entry]]:
    for document in read_file(file):
        pieces = passages(document.text)
        for number, passage in enumerate(pieces, 1):
            id = document.id if len(pieces) == 1 else f"{document.id}#{number}"
            yield id, (passage.text, {"position": number, **document.metadata})


def _records(collection: Collection) -> Iterator[Any]:
    for offset in range(0, collection.count(), PAGE):
        yield from collection.get(limit=PAGE, offset=offset)


def _digest(document: str, metadata: dict[str, Any]) -> int:
    return hash((document, json.dumps(metadata, sort_keys=True)))


def _is_gone(owner: str, owners: set[str], folders: list[str]) -> bool:
    """Whether a passage that is not wanted belongs to a file just read, or to one deleted from a folder just read."""
    if owner in owners:
        return True
    path = owner.replace("%23", "#").replace("%25", "%")
    return any(owner.startswith(folder) for folder in folders) and not Path(path).exists()


def _batches(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
