"""`nearfield map`, `topics` and `duplicates`: what is in a collection, at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nearfield.cli import screen
from nearfield.cli.options import DEFAULT_DB, Db, Json, Name, Where, app, existing, known, parsed_where
from nearfield.collection import Collection
from nearfield.plot import METHODS, plot_map
from nearfield.topics import duplicates as find_duplicates
from nearfield.topics import outliers as find_outliers
from nearfield.topics import topics as find_topics


@contextmanager
def looking(
    db: Path, collection: str, where: str | None, what: str
) -> Iterator[tuple[Collection, dict[str, Any] | None]]:
    """A collection that is looked at, and the condition; says meanwhile what is done."""
    condition = parsed_where(where)
    with existing(db) as database, screen.busy(what):
        yield known(database, collection), condition


@app.command()
def map(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="map.html to look into, or .png, .svg, .pdf.")],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    color: Annotated[
        str | None, typer.Option(help="A field of the metadata, or `topic`, found by grouping if no record has it.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"How points are placed: {', '.join(METHODS)}.")] = "pca",
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Draw so many records at most, evenly taken.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Draw a collection as a map: near points are near in meaning."""
    with looking(db, collection, where, "Drawing") as (docs, condition):
        chosen: str | dict[str, str] | None = color
        if color == "topic" and not docs.count({"topic": {"$exists": True}}):
            chosen = {id: topic.label for topic in find_topics(docs, where=condition) for id in topic.ids}
        drawn = plot_map(docs, output, method=method, color=chosen, where=condition, limit=limit)
    if as_json:
        screen.print_json({"file": output.as_posix(), "records": drawn, "method": method})
    else:
        screen.out.print(f"{screen.count(drawn, 'record')} drawn in {output}", markup=False, soft_wrap=True)


@app.command()
def topics(
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    groups: Annotated[int | None, typer.Option("-n", min=1, help="How many topics; else as many as suit.")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Group a collection by meaning, with keywords and an example of each group, and what fits nowhere."""
    with looking(db, collection, where, "Grouping") as (docs, condition):
        found = find_topics(docs, groups, where=condition)
        strange = find_outliers(docs, 5, where=condition)
    if as_json:
        outside = [{"id": one.id, "score": one.score} for one in strange]
        screen.print_json({"topics": [topic.to_dict() for topic in found], "outliers": outside})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="dim")
    table.add_column("records", justify="right", no_wrap=True)
    table.add_column("keywords, the most typical text", overflow="fold")
    for topic in found:
        cell = Text(", ".join(topic.keywords) or "(no words)", style="bold", overflow="fold")
        cell.append("\n" + screen.plain(topic.examples[0], 160) if topic.examples else "", style="not bold")
        table.add_row(f"{len(topic.ids):,}", cell)
    screen.out.print(table)
    if strange:
        screen.out.print("Least like anything else:")
        for one in strange:
            line = screen.plain(one.document or one.id, max(20, screen.out.width - 12))
            screen.out.print(f"  {one.score:.2f}  {line}", markup=False, soft_wrap=True)


@app.command()
def duplicates(
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    threshold: Annotated[float, typer.Option(help="The cosine from which two records count as the same.")] = 0.95,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Find records that say nearly the same; every pair is compared."""
    with looking(db, collection, where, "Comparing") as (docs, condition):
        found = find_duplicates(docs, threshold, where=condition)
        texts = {id: docs.get(id)[0].document or "" for group in found for id in group}
    if as_json:
        screen.print_json({"threshold": threshold, "groups": found})
        return
    what = f"{screen.count(len(found), 'group')} of records with a cosine of {threshold:g} or more"
    screen.out.print(what, markup=False, soft_wrap=True)
    for group in found:
        screen.out.print()
        for id in group:
            screen.out.print(Text(screen.plain(texts[id], 120)))
            screen.out.print(Text(screen.plain(id), style="cyan"))
