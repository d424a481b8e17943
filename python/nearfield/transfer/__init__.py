"""Records into and out of a collection: files in open formats, and what other engines wrote.

Both directions stream: memory holds one batch, however large the collection is.

Example:
    >>> from nearfield import transfer
    >>> transfer.export_to(docs, "docs.parquet")
    2
    >>> transfer.import_from(nf.open().collection("copy"), "docs.parquet")
    Imported(added=2, skipped=0)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from nearfield.errors import AlreadyExists, InvalidInput
from nearfield.transfer.batch import Batch, Source
from nearfield.transfer.files import reader, writer
from nearfield.transfer.peers import chroma, faiss, hnswlib, qdrant, usearch

if TYPE_CHECKING:
    from nearfield.collection import Collection
    from nearfield.types import Where

__all__ = [
    "Batch",
    "Imported",
    "Source",
    "chroma",
    "export_to",
    "faiss",
    "hnswlib",
    "import_from",
    "qdrant",
    "usearch",
]

Existing = Literal["skip", "replace", "error"]
BATCH = 4096  # records: so many become a segment of their own, without a detour through the catalog


class Imported(NamedTuple):
    """What an import did: how many records are new or replaced, and how many were there already."""

    added: int
    skipped: int


def export_to(
    collection: Collection,
    path: str | os.PathLike[str],
    *,
    where: Where | None = None,
    embeddings: bool = True,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the records of a collection, as they are at this moment, to a file; return how many.

    Args:
        collection: what to write; writing to it may go on meanwhile.
        path: the ending decides the format. `.parquet`: columns id, document, metadata (JSON) and embedding, and the
            embedder's identity in the file's metadata (needs `pip install 'nearfield[parquet]'`). `.jsonl`: one object
            of these a line. `.npy`: the embeddings, float32 (n, dimension), with the rest in a `.jsonl` beside it.
        where: only records that match.
        embeddings: False leaves the vectors out; they are made anew by the embedder of whoever imports the file.
        progress: called with the number of records written so far.

    The file appears under its name when it is complete; an error leaves what was there before.

    Raises:
        InvalidInput: an unknown ending, or a wrong `where`.
        StorageError: the file cannot be written.

    Example:
        >>> from nearfield import transfer
        >>> transfer.export_to(docs, "docs.parquet", where={"year": {"$gte": 2000}})
        1
    """
    include = ("documents", "metadatas", "embeddings") if embeddings else ("documents", "metadatas")
    write = writer(path)
    count = 0

    def batches() -> Iterator[Batch]:
        nonlocal count
        for records in collection.scan(where=where, include=include, batch=BATCH):
            yield Batch.of(records)
            count += len(records)
            if progress is not None:
                progress(count)

    write(Source(batches(), embedder=collection.embedder_identity if embeddings else None))
    return count


def import_from(
    collection: Collection,
    source: str | os.PathLike[str] | Source | Iterable[Batch],
    *,
    existing: Existing = "skip",
    progress: Callable[[int], None] | None = None,
) -> Imported:
    """Add the records of a file, or of another engine, to a collection.

    Each batch is on the disk before the next one is read. An import that was interrupted is taken up by calling it
    again: with `existing="skip"` what is there already is neither embedded nor written a second time.

    Args:
        collection: where they go. Records without an embedding are embedded by the collection's embedder.
        source: a `.parquet`, `.jsonl` or `.npy` file (what `export_to` writes, or with columns or keys of the names
            id; document or text; embedding or vector; metadata; all others become metadata), or what `chroma`,
            `faiss`, `hnswlib`, `qdrant` and `usearch` of this module return. Records without an id are given their
            place in the file as one, so that a second import knows them.
        existing: what becomes of a record whose id the collection has: "skip" keeps the collection's, "replace" takes
            the new one, "error" stops.
        progress: called with the number of records read so far.

    Raises:
        InvalidInput: a record is wrong; the message says where it stands. What came before it has been imported.
        AlreadyExists: with existing="error".
        StorageError: the source cannot be read.
    """
    if existing not in ("skip", "replace", "error"):
        raise InvalidInput(f"existing must be 'skip', 'replace' or 'error', got {existing!r}")
    if isinstance(source, (str, os.PathLike)):
        source = reader(source)
    made_by = source.embedder if isinstance(source, Source) else None
    if made_by is not None and (collection.embedder_identity is not None or not collection.count()):
        collection.adopt(made_by)
    added = skipped = 0
    for batch in source:
        taken = _put(collection, batch, existing)
        added += len(batch) - taken
        skipped += taken
        if progress is not None:
            progress(added + skipped)
    return Imported(added, skipped)


def _put(collection: Collection, batch: Batch, existing: Existing) -> int:
    """Add or replace a batch; return how many of it were skipped."""
    write = collection.upsert if existing == "replace" else collection.add
    new = batch
    while True:
        if existing == "skip":
            known = collection.known(batch.ids)
            new = batch.only([at for at, name in enumerate(batch.ids) if name not in known])
        try:
            for part in new.parts():
                write(part.documents, ids=part.ids, embeddings=part.matrix(), metadatas=part.metadatas)
        except AlreadyExists:
            if existing == "skip":  # another process was faster with some of them: look again
                continue
            raise
        return len(batch) - len(new)
