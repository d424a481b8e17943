"""`nearfield eval`: judged queries against a collection, one column a way of searching."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nearfield.cli import screen
from nearfield.cli.indexing import open_for_text
from nearfield.cli.options import Json, app, existing, known
from nearfield.database import open as open_database
from nearfield.evaluate import Evaluation, evaluate, load_judged
from nearfield.request import MODES


@app.command(name="eval")
def eval_(
    folder: Annotated[
        Path, typer.Argument(help="Judged queries: corpus.jsonl, queries.jsonl and qrels/test.tsv, as BEIR has them.")
    ],
    db: Annotated[
        Path | None, typer.Option("--db", help="Keep the vectors here for the next time; else they are in memory.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", help="Evaluate this collection of --db, and leave the folder's corpus alone."),
    ] = None,
    mode: Annotated[list[str] | None, typer.Option("--mode", help="A way of searching; may be repeated.")] = None,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="At how many answers; may be repeated.")] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also rerank the last mode with this cross-encoder.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The metadata field that has the judged document's id.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgements: qrels/<split>.tsv.")] = "test",
    as_json: Json = False,
) -> None:
    """Measure searches on judged queries: nDCG, recall, MRR and MAP, with confidence intervals."""
    if collection is not None and db is None:
        raise typer.BadParameter("say which database it is in: --db", param_hint="--collection")
    judged = load_judged(folder, split, corpus=collection is None)
    opened = existing(db) if db is not None and collection is not None else open_database(db)
    with opened as database, screen.progress() as bars:
        if collection is None:
            docs = open_for_text(database, judged.name)
            task = bars.add_task("Embedding", total=None)
            judged.fill(docs, lambda done, total: bars.update(task, completed=done, total=total))
        else:
            docs = known(database, collection)
        searching = bars.add_task("Searching", total=None)
        table = evaluate(
            docs,
            judged.queries,
            judged.qrels,
            k=k or [10],
            modes=mode or list(MODES),
            rerank=rerank,
            by=by,
            progress=lambda done, total: bars.update(searching, completed=done, total=total),
        )
        records = docs.count()
    if as_json:
        screen.print_json({"name": judged.name, "records": records, **table.to_dict()})
    else:
        screen.out.print(evaluation_table(table))
        skipped = f", {table.skipped:,} without a relevant document" if table.skipped else ""
        counts = f"{screen.count(len(table.queries), 'query').replace('querys', 'queries')}{skipped}"
        screen.out.print(f"{judged.name}: {counts}; {screen.count(records, 'record')}; 95 % confidence", markup=False)


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a measure, a column a way of searching, with 95 % confidence intervals."""
    scores = evaluation.scores
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    for system in scores:
        table.add_column(system)
    for measure in next(iter(scores.values())):
        found = [of[measure] for of in scores.values()]
        table.add_row(measure, *(f"{one.mean:.3f} [dim]({one.low:.3f}–{one.high:.3f})[/]" for one in found))
    return table
