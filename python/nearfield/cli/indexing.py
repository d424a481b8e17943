"""A collection for texts, filled from files while a bar shows how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfield.cli import screen
from nearfield.collection import Collection
from nearfield.database import Database
from nearfield.embed.local import LocalEmbedder
from nearfield.indexing import Summary, index_folder


def open_for_text(database: Database, name: str) -> Collection:
    """The collection of this name, made if missing, with an embedder that leaves the progress bar to the caller.

    Raises:
        EmbedderMismatch: another embedder made its vectors.
    """
    return database.collection(name, embedder=LocalEmbedder(progress=False))


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
