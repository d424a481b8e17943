"""Commands that look after a database: `verify`, `repair`, `compact`, `backup`, `restore`, `snapshot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nearfield import database
from nearfield.cli import screen
from nearfield.cli.options import DEFAULT_DB, Db, Json, app, existing
from nearfield.types import Finding


@app.command()
def verify(db: Db = DEFAULT_DB, as_json: Json = False) -> None:
    """Read every byte of a database and compare it with its checksums."""
    with existing(db) as opened:
        findings = opened.verify()
    _told(db, findings, as_json)


@app.command()
def repair(
    db: Db = DEFAULT_DB,
    discard: Annotated[bool, typer.Option("--discard", help="Give up damaged records, to use the rest.")] = False,
    as_json: Json = False,
) -> None:
    """Make anew what is derived; say what only a backup can bring back."""
    with existing(db) as opened:
        findings = opened.repair(discard=discard)
    _told(db, findings, as_json)


@app.command()
def compact(db: Db = DEFAULT_DB) -> None:
    """Give the disk back what deleted and replaced records took."""
    before = _bytes(db)
    with existing(db) as opened:
        opened.compact()
    screen.out.print(f"{db}: {screen.size(before)} before, {screen.size(_bytes(db))} now", markup=False, soft_wrap=True)


@app.command()
def backup(target: Annotated[Path, typer.Argument(help="The new folder for it.")], db: Db = DEFAULT_DB) -> None:
    """Copy a database as it is now, while others go on writing to it."""
    with existing(db) as opened:
        opened.backup(target)
    screen.out.print(f"{target}: {screen.size(_bytes(target))}", markup=False, soft_wrap=True)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="The backup; it stays as it is.")],
    target: Annotated[Path, typer.Argument(help="The new folder for the database.")],
) -> None:
    """Copy a backup to where it is to be used."""
    database.restore(source, target)
    screen.out.print(f"{target}: {screen.size(_bytes(target))}", markup=False, soft_wrap=True)


@app.command()
def snapshot(
    name: Annotated[str | None, typer.Argument(help="A name for it; without one, the snapshots are listed.")] = None,
    db: Db = DEFAULT_DB,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the snapshot of this name instead.")] = False,
) -> None:
    """Keep a database as it is now under a name; or list what is kept, or remove it."""
    with existing(db) as opened:
        if name is not None and drop:
            opened.drop_snapshot(name)
        elif name is not None:
            opened.snapshot(name)
        elif drop:
            raise typer.BadParameter("give the name of the snapshot to remove", param_hint="NAME")
        names = opened.snapshots()
    for kept in names or ["no snapshots"]:
        screen.out.print(kept, markup=False)


def _told(db: Path, findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        screen.print_json(
            [
                {
                    "collection": finding.collection,
                    "file": str(finding.file),
                    "what": finding.what,
                    "repairable": finding.repairable,
                    "ids": list(finding.ids),
                }
                for finding in findings
            ]
        )
    else:
        for finding in findings:
            mend = "repairable" if finding.repairable else "needs a backup"
            screen.out.print(f"{mend}: {finding}", markup=False, soft_wrap=True)
        if not findings:
            screen.out.print(f"{db} is as it was written.", markup=False, soft_wrap=True)
    if findings:
        raise typer.Exit(1)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
