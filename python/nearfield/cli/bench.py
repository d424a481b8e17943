"""`nearfield bench`: every kind of index on the user's own vectors: speed, recall, memory and build, side by side."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from nearfield.cli import screen
from nearfield.cli.options import DEFAULT_DB, Db, Json, Name, app, existing, known
from nearfield.errors import InvalidInput, NotFound
from nearfield.index import KINDS, Index
from nearfield.types import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind at one recall. Speeds are queries a second, the median of three rounds; memory is bytes a vector."""

    kind: str
    asked: float | None
    recall: float
    one_by_one: float
    all_at_once: float
    effort: int
    rows_scanned: float
    build_seconds: float
    memory: float


@app.command()
def bench(
    vectors: Annotated[
        Path | None, typer.Argument(help="A .npy file of shape (rows, dimension); else a collection of --db.")
    ] = None,
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    metric: Annotated[str | None, typer.Option(help=f"For a .npy file: {', '.join(METRICS)}. Default: cosine.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help=f"A kind of index ({', '.join(KINDS)}); may be repeated.")
    ] = None,
    recall: Annotated[
        list[float] | None, typer.Option("--recall", help="A recall to ask, like 0.95; may be repeated.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Answers to a query.")] = 10,
    queries: Annotated[int, typer.Option(min=1, help="Vectors held out to be the queries.")] = 500,
    threads: Annotated[int, typer.Option(min=0, help="For builds and for all queries at once; 0: every core.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure every kind of index on your own vectors: speed, recall, memory and build."""
    kinds = kind or [name for name in KINDS if name != "auto"]
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(KINDS)}", param_hint="--kind")
    for wanted in recall or []:
        if not 0 < wanted <= 1:
            raise typer.BadParameter(f"{wanted:g} is no share over 0 and up to 1", param_hint="--recall")
    rows, measure = _of_file(vectors, metric or "cosine") if vectors is not None else _of_collection(db, collection)
    if len(rows) < 2:
        raise InvalidInput(f"a benchmark needs two vectors at the least, one to ask with; there are {len(rows)}")
    order = np.random.default_rng(0).permutation(len(rows))
    held_out = min(queries, len(rows) // 2)
    asked, rows = rows[order[:held_out]], rows[order[held_out:]]
    measured: list[Measured] = []
    with screen.progress() as bars:
        task = bars.add_task("Measuring", total=len(kinds) + 1)
        exact = Index(rows.shape[1], measure, kind="flat", threads=threads or None)  # type: ignore[arg-type]
        exact.add(rows)
        truth = exact.search(asked, k)
        bars.advance(task)
        for name in kinds:
            bars.update(task, description=f"Measuring {name}")
            measured += _measured(name, measure, rows, asked, truth, recall or [0.9, 0.95, 0.99], threads or None)
            bars.advance(task)
    head = {"rows": len(rows), "dimension": rows.shape[1], "metric": measure, "queries": held_out, "k": k}
    if as_json:
        screen.print_json({**head, "results": [asdict(one) for one in measured]})
        return
    screen.out.print(_table(measured, k))
    screen.err.print(
        f"{len(rows):,} vectors of dimension {rows.shape[1]:,}, {measure}; {held_out:,} others were the queries",
        style="dim",
    )


def _of_file(path: Path, metric: str) -> tuple[NDArray[np.float32], str]:
    if metric not in METRICS:
        raise typer.BadParameter(f"{metric!r} is none of {', '.join(METRICS)}", param_hint="--metric")
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except (ValueError, OSError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it has another format"
        raise InvalidInput(f"{path} is not a .npy file of numbers: {reason}") from error
    if not isinstance(rows, np.ndarray):
        raise InvalidInput(f"{path} holds several arrays ({', '.join(rows)}): save the one to measure with numpy.save")
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise InvalidInput(f"{path} must hold numbers of shape (rows, dimension), got {rows.dtype} of {rows.shape}")
    return np.asarray(rows, dtype=np.float32), metric


def _of_collection(db: Path, name: str) -> tuple[NDArray[np.float32], str]:
    with existing(db) as database:
        docs = known(database, name)
        records = docs.get(include=("embeddings",))
        made = [record.embedding for record in records if record.embedding is not None]
        return np.array(made, dtype=np.float32).reshape(len(made), -1), docs.metric


def _measured(
    kind: str,
    metric: str,
    rows: NDArray[np.float32],
    asked: NDArray[np.float32],
    truth: tuple[NDArray[np.int64], NDArray[np.float32]],
    recalls: list[float],
    threads: int | None,
) -> list[Measured]:
    """One line a recall; a flat index has one line, it reaches them all.

    An answer is right that scores as the k-th best does or better: of equal vectors, any will do.
    """
    best, scores = truth
    worst = np.where(best >= 0, scores, np.inf).min(axis=1)  # of k true answers, or of as many as there are
    index = Index(rows.shape[1], metric, kind=kind, threads=threads)  # type: ignore[arg-type]
    started = time.perf_counter()
    index.add(rows)
    built, k = time.perf_counter() - started, best.shape[1]
    every = index.threads
    lines = []
    for recall in [None] if kind == "flat" else sorted(recalls):
        singly, together = [], []
        for _ in range(_ROUNDS):
            index.threads = 1
            started = time.perf_counter()
            found = [index.search(query, k, recall=recall) for query in asked]
            singly.append(time.perf_counter() - started)
            index.threads = every
            started = time.perf_counter()
            index.search(asked, k, recall=recall)
            together.append(time.perf_counter() - started)
        work = [index.search(query, k, recall=recall, report=True)[2] for query in asked[:50]]
        right = sum(int(((got >= 0) & (near >= least)).sum()) for (got, near), least in zip(found, worst, strict=True))
        lines.append(
            Measured(
                kind=kind,
                asked=recall,
                recall=right / max(1, int((best >= 0).sum())),
                one_by_one=len(asked) / sorted(singly)[_ROUNDS // 2],
                all_at_once=len(asked) / sorted(together)[_ROUNDS // 2],
                effort=work[0].effort,
                rows_scanned=sum(report.rows_scanned for report in work) / len(work),
                build_seconds=built,
                memory=index.memory / len(rows),
            )
        )
    return lines


def _table(measured: list[Measured], k: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("kind")
    for title in ("asked", f"recall@{k}", "1 thread, q/s", "batch, q/s", "rows scanned", "build, s"):
        table.add_column(title, justify="right")
    table.add_column("bytes a vector", justify="right")
    for one in measured:
        table.add_row(
            one.kind,
            "exact" if one.asked is None else f"{one.asked:g}",
            f"{one.recall:.3f}",
            f"{one.one_by_one:,.0f}",
            f"{one.all_at_once:,.0f}",
            f"{one.rows_scanned:,.0f}",
            f"{one.build_seconds:.2f}",
            f"{one.memory:,.0f}",
        )
    return table
