"""What all commands share: the application they belong to, their common options, and how a database is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nearfield.collection import Collection
from nearfield.database import Database
from nearfield.database import open as open_database
from nearfield.embed import Embedder, from_identity
from nearfield.errors import NotFound

DEFAULT_DB = Path("library.nf")

app = typer.Typer(
    help="Search your own texts by meaning, on your own machine.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Db = Annotated[Path, typer.Option("--db", help="The database, a folder.")]
Name = Annotated[str, typer.Option("--collection", help="The collection in it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


Where = Annotated[
    str | None, typer.Option(metavar="JSON", help="""Only records like this: '{"year": {"$lt": 2005}}'.""")
]


def parsed_where(where: str | None) -> dict[str, Any] | None:
    if where is None:
        return None
    try:
        condition = json.loads(where)
    except ValueError as error:
        raise typer.BadParameter(
            f"not JSON: {error}; write '{{\"year\": 2005}}', with both kinds of quotes", param_hint="--where"
        ) from None
    if not isinstance(condition, dict):
        raise typer.BadParameter(f'give an object such as {{"year": 2005}}, got {where}', param_hint="--where")
    return condition


def existing(db: Path) -> Database:
    """Open a database that is there: reading must not make one."""
    if not db.exists():
        raise NotFound(
            f"there is no database {db}: make one with `nearfield index PATH --db {db}`, or give another --db"
        )
    return open_database(db)


def known(database: Database, name: str) -> Collection:
    names = database.collections()
    if name not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise NotFound(f"{database.path} has no collection {name!r}; it has: {there}")
    return database.collection(name, embedder=filler(database, name) or "default")


def filler(database: Database, name: str) -> Embedder | None:
    """The embedder that filled a collection, if its identity tells which: that of a remote one is its name."""
    identity = database.collection(name, embedder=None).embedder_identity
    return from_identity(identity) if identity else None
