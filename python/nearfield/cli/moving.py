"""`nearfield export` and `import`: records to and from files, and from other engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nearfield import transfer
from nearfield.cli import screen
from nearfield.cli.options import DEFAULT_DB, Db, Json, Name, Where, app, existing, parsed_where
from nearfield.database import open as open_database
from nearfield.errors import NotFound

ENGINES = ("chroma", "faiss", "hnswlib", "qdrant", "usearch")


@app.command("export")
def export_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="To write: .parquet, .jsonl or .npy.")],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    where: Where = None,
    embeddings: Annotated[bool, typer.Option(help="With the vectors, or the texts alone.")] = True,
    as_json: Json = False,
) -> None:
    """Write the records of a collection to a file."""
    condition = parsed_where(where)
    with existing(db) as database, screen.progress() as bars:
        if collection not in database.collections():
            raise NotFound(f"{db} has no collection {collection!r}; `nearfield info --db {db}` shows what it has")
        records = database.collection(collection, embedder=None)
        task = bars.add_task("export", total=records.count(condition))
        count = transfer.export_to(records, path, where=condition, embeddings=embeddings, progress=_moved(bars, task))
    if as_json:
        return screen.print_json({"file": str(path), "records": count})
    screen.out.print(f"{path}: {screen.count(count, 'record')}", markup=False, soft_wrap=True)
    return None


@app.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet, .jsonl or .npy file, or an engine's.")],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    engine: Annotated[
        str | None, typer.Option("--from", metavar="ENGINE", help=f"What wrote it: {', '.join(ENGINES)}.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The collection to read (chroma, qdrant).")] = None,
    document: Annotated[str, typer.Option(help="The field that holds the text (qdrant).")] = "document",
    vector: Annotated[str | None, typer.Option(help="Which of several named vectors (qdrant).")] = None,
    dimension: Annotated[int | None, typer.Option(min=1, help="Of the vectors (hnswlib).")] = None,
    space: Annotated[str, typer.Option(help="cosine, ip or l2 (hnswlib).")] = "cosine",
    metric: Annotated[str | None, typer.Option(help="Of a new collection: cosine, dot or l2.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace records that exist; else they stay.")] = False,
    as_json: Json = False,
) -> None:
    """Add the records of a file, or of another engine, to a collection. Again: goes on where it stopped."""
    read: Any = path
    if engine == "chroma":
        read = transfer.chroma(path, source or collection)
    elif engine == "qdrant":
        read = transfer.qdrant(path, source or collection, document=document, vector=vector)
    elif engine == "hnswlib":
        if dimension is None:
            raise typer.BadParameter("an hnswlib file does not tell it", param_hint="--dimension")
        read = transfer.hnswlib(path, dimension, space=space)
    elif engine in ("faiss", "usearch"):
        read = getattr(transfer, engine)(path)
    elif engine is not None:
        raise typer.BadParameter(f"there is {', '.join(ENGINES)}; got {engine}", param_hint="--from")
    elif not path.is_file():  # before a database is made for it
        raise NotFound(f"there is no file {path}")
    with open_database(db) as database, screen.progress() as bars:
        records = database.collection(collection, metric=metric)  # type: ignore[arg-type]  # checked there
        done = transfer.import_from(
            records,
            read,
            existing="replace" if replace else "skip",
            progress=_moved(bars, bars.add_task("import", total=None)),
        )
    if as_json:
        return screen.print_json({"added": done.added, "skipped": done.skipped})
    there = f", {done.skipped:,} were there already" if done.skipped else ""
    screen.out.print(f"{screen.count(done.added, 'record')} added to {collection!r} of {db}{there}", markup=False)
    return None


def _moved(bars: Any, task: Any) -> Callable[[int], None]:
    return lambda count: bars.update(task, completed=count)
