"""The commands, one function each. What `--json` prints is a promise to scripts; what people see may change."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nearfield import __version__
from nearfield.cli import asking as _asking  # noqa: F401  # it brings `ask`
from nearfield.cli import bench as _bench  # noqa: F401  # it brings `bench`
from nearfield.cli import evaluation as _evaluation  # noqa: F401  # it brings `eval`
from nearfield.cli import moving as _moving  # noqa: F401  # it brings `export` and `import`
from nearfield.cli import screen
from nearfield.cli import seeing as _seeing  # noqa: F401  # it brings `map`, `topics` and `duplicates`
from nearfield.cli import upkeep as _upkeep  # noqa: F401  # it brings `verify` and its like
from nearfield.cli.demo import run_demo
from nearfield.cli.indexing import index_with_bar, open_for_text
from nearfield.cli.options import DEFAULT_DB, Db, Json, Name, Where, app, existing, known, parsed_where
from nearfield.database import Database
from nearfield.database import open as open_database
from nearfield.index import build_info
from nearfield.indexing import Summary

__all__ = ["app"]  # with all commands


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"nearfield {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def index(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns in quotes, or https://… addresses.")
    ],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    include: Annotated[
        list[str] | None, typer.Option(help="Only files like this, as in a .gitignore; may be repeated.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files like this; may be repeated.")] = None,
    by: Annotated[
        str, typer.Option(help="Divide by paragraphs, sentences, markdown, code or tokens; auto: as the file is.")
    ] = "auto",
    size: Annotated[int | None, typer.Option(min=1, help="Tokens of a passage at most.")] = None,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that a passage repeats of the one before it.")] = 0,
    encoding: Annotated[str | None, typer.Option(help="Of text files that are not UTF-8, such as latin-1.")] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            envvar="NEARFIELD_EMBEDDER",
            help="What makes the vectors: openai:MODEL, ollama:MODEL and others; a model's name or folder.",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the words, for search --mode lexical or hybrid: german, say. [english]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Index text, Markdown, PDF, Word, HTML, CSV, JSON and source files. Again: only what changed."""
    started = time.perf_counter()
    with open_database(db) as database:
        docs = open_for_text(database, collection, embedder, language)
        done = index_with_bar(
            docs, paths, include=include, exclude=exclude, by=by, size=size, overlap=overlap, encoding=encoding
        )
        total = docs.count()
    seconds = time.perf_counter() - started
    for problem in done.problems:
        screen.err.print(f"[red]problem:[/] {escape(screen.plain(problem))}", soft_wrap=True)
    if as_json:
        screen.print_json(done.to_dict() | {"records": total, "seconds": round(seconds, 3)})
    else:
        _print_summary(done, seconds, f"collection {collection!r} of {db}", total)
    if done.problems:
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What you look for, in your own words.")],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    k: Annotated[int, typer.Option("-k", min=1, help="How many answers.")] = 5,
    where: Where = None,
    mode: Annotated[str, typer.Option(help="By meaning (dense), by words (lexical), or by both (hybrid).")] = "dense",
    min_score: Annotated[float | None, typer.Option(help="Leave out answers that score lower.")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="At most one answer for each value of this, such as source.")
    ] = None,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="Prefer answers that differ from one another: 0.3, say.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Find passages by meaning, by words, or by both."""
    condition = parsed_where(where)
    with existing(db) as database:
        docs = known(database, collection)
        options: dict[str, Any] = {"where": condition, "mode": mode, "min_score": min_score}
        hits = docs.search(query, k=k, group_by=group_by, diversity=diversity, **options)
    if as_json:
        answers = [{"rank": rank, **hit.to_dict()} for rank, hit in enumerate(hits, 1)]
        screen.print_json({"query": query, "collection": collection, "hits": answers})
    elif hits:
        screen.out.print(screen.hits_table(hits))
    else:
        limits = " within --where or --min-score" if where is not None or min_score is not None else ""
        screen.out.print(f"No matches in collection {collection!r} of {db}{limits}.", markup=False, soft_wrap=True)


@app.command()
def info(
    db: Annotated[Path | None, typer.Option("--db", help="The database; library.nf, if there is one.")] = None,
    as_json: Json = False,
) -> None:
    """Show what this nearfield is, and what a database holds."""
    facts: dict[str, Any] = {"build": build_info()}
    path = db or (DEFAULT_DB if DEFAULT_DB.exists() else None)
    if path is not None:
        with existing(path) as database:
            facts["database"] = {"path": str(path), "bytes": _bytes_under(path)}
            facts["collections"] = [_described(database, name) for name in database.collections()]
    if as_json:
        return screen.print_json(facts)
    build = facts["build"]
    rows = [("nearfield", f"{build['version']} ({build['profile']} build)"), ("SIMD", build["simd"])]
    if path is not None:
        rows += [("database", f"{path} ({screen.size(facts['database']['bytes'])})")]
    for found in facts.get("collections", []):
        shape = f"{found['dimension'] or 'no'} dimensions, {found['metric']}"
        rows += [("", ""), ("collection", found["name"]), ("records", f"{found['count']:,}"), ("vectors", shape)]
        rows += [("embedder", found["embedder"] or "none")]
    screen.out.print(screen.facts(rows))
    return None


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Any folder of text or Markdown.")] = None,
    db: Annotated[Path | None, typer.Option("--db", help="Keep the database here; else it is gone at the end.")] = None,
) -> None:
    """Index a folder and ask it questions, by meaning and by keywords."""
    run_demo(folder, db)


def _print_summary(done: Summary, seconds: float, where: str, total: int) -> None:
    counts = ((done.new, "new"), (done.changed, "changed"), (done.unchanged, "unchanged"), (done.gone, "gone"))
    files = ", ".join(f"{number:,} {what}" for number, what in counts if number) or "nothing new"
    parts = [f"{screen.count(done.files, 'file')} ({files})", screen.count(done.passages, "passage")]
    parts += [f"{done.embedded:,} embedded"] + ([f"{done.removed:,} removed"] if done.removed else [])
    screen.out.print(f"{', '.join(parts)} in {seconds:.1f} s", markup=False, soft_wrap=True)
    screen.out.print(f"{where} holds {screen.count(total, 'passage')}", markup=False, soft_wrap=True)
    if done.empty:
        screen.err.print(f"note: {screen.count(done.empty, 'file')} had no text", markup=False)
    if done.others:
        kinds = Counter(path.suffix or "no suffix" for path in done.others).most_common(6)
        listed = ", ".join(f"{kind} ({number:,})" for kind, number in kinds)
        screen.err.print(
            f"note: {screen.count(len(done.others), 'file')} of other kinds left out: {listed}", markup=False
        )
    if done.problems:
        screen.err.print(f"{screen.count(len(done.problems), 'file')} could not be read", markup=False)


def _described(database: Database, name: str) -> dict[str, Any]:
    docs = database.collection(name, embedder=None)
    return {
        "name": name,
        "count": docs.count(),
        "dimension": docs.dimension,
        "metric": docs.metric,
        "embedder": docs.embedder_identity,
    }


def _bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


_FIRST = ["index", "search", "ask", "info", "demo"]  # in the help; who comes new begins with these
_place = {name: place for place, name in enumerate(_FIRST)}
app.registered_commands.sort(key=lambda command: _place.get(getattr(command.callback, "__name__", ""), len(_FIRST)))
