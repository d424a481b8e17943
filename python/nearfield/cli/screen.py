"""What is printed, and where: answers on stdout; progress, notes and problems on stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nearfield.answers import Citation
from nearfield.types import Hit

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def progress() -> Progress:
    """Progress bars on stderr, gone when they are done; none where stderr is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def busy(what: str) -> contextlib.AbstractContextManager[Any]:
    """A sign on stderr that something goes on which has no measure; none where stderr is not a terminal."""
    return err.status(f"{what} …") if err.is_terminal else contextlib.nullcontext()


def print_json(value: Any) -> None:
    """One JSON value on stdout, in UTF-8 where that can be printed."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not utf8, indent=2))


def plain(text: str, width: int | None = None) -> str:
    """`text` on one line, cut at a word to about `width`; what would steer the terminal is gone."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if width is None or len(line) <= width:
        return line
    return (line[:width].rsplit(" ", 1)[0] if " " in line[width // 2 : width] else line[:width]).rstrip(",;:. ") + " …"


def place(hit: Hit | Citation) -> str:
    """Where a hit comes from: its source (a file as seen from here) and its title; else its id."""
    source, title = hit.metadata.get("source"), hit.metadata.get("title")
    if not isinstance(source, str):
        return plain(hit.id)
    with contextlib.suppress(ValueError):
        source = Path(source).relative_to(Path.cwd()).as_posix()
    return plain(source if not isinstance(title, str) or title in source else f"{source} · {title}")


def hits_table(hits: Iterable[Hit]) -> Table:
    """Rank, score, and the passage with its source below it: one layout for wide and narrow terminals."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("passage, source", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        passage = Text(plain(hit.document or "", 240), overflow="fold")
        if words := {re.escape(hit.document[start:end]) for start, end in hit.highlights if hit.document}:
            passage.highlight_regex(rf"\b({'|'.join(sorted(words))})\b", style="bold")
        passage.append(("\n" if hit.document else "") + place(hit), style="cyan")
        table.add_row(str(rank), f"{hit.score:.3f}", passage)
    return table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(plain(value)))
    return table


def count(number: int, one: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {one}" + ("" if number == 1 else "s")


def size(number: int) -> str:
    """Bytes for people: `1.5 MB`."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
