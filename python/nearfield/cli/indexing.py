"""A collection for texts, filled from files while a bar shows how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfield.cli import screen
from nearfield.cli.options import filler
from nearfield.collection import Collection
from nearfield.database import Database
from nearfield.embed.local import LocalEmbedder
from nearfield.indexing import Summary, index_folder


def open_for_text(
    database: Database, name: str, embedder: str | None = None, language: str | None = None
) -> Collection:
    """The collection of this name, made if missing, with an embedder that leaves the progress bar to the caller.

    Args:
        database: where it is.
        name: of the collection.
        embedder: what `nearfield.embed.resolve` takes; None: the one that filled it, if its name tells which; else the
            default one.
        language: of its words; None: that of an existing collection, else English.

    Raises:
        EmbedderMismatch: another embedder made its vectors.
        InvalidInput: there is no such language, or the collection has another.
    """
    known = filler(database, name) if embedder is None and name in database.collections() else None
    if known is None and embedder in (None, "default"):
        known = LocalEmbedder(progress=False)
    return database.collection(name, embedder=known or embedder, language=language)


def index_with_bar(collection: Collection, paths: Sequence[str | Path], **options: Any) -> Summary:
    """`index_folder` with a progress bar; the same options."""
    with screen.progress() as bars:
        task = bars.add_task("Looking")
        return index_folder(
            collection,
            paths,
            progress=lambda what, done, total: bars.update(task, description=what, completed=done, total=total),
            **options,
        )
