"""The demonstration: the same questions asked by meaning and by keywords, side by side."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nearfield.cli import screen
from nearfield.cli.asking import show
from nearfield.cli.evaluation import evaluation_table
from nearfield.cli.indexing import index_with_bar, open_for_text
from nearfield.collection import Collection
from nearfield.database import open as open_database
from nearfield.errors import InvalidInput, NotFound
from nearfield.evaluate import evaluate, load_judged
from nearfield.plot import plot_map
from nearfield.request import MODES
from nearfield.topics import topics
from nearfield.types import Hit, Record

MAP = Path("nearfield-map")  # drawn into the current folder

# Asked of examples/corpus. No right answer has a word in common with its question; wrong ones do.
QUESTIONS = (
    "a feline resting on a rug",
    "my automobile refuses to start on cold mornings",
    "why did the stock market crash",
    "how can I fall asleep faster at night",
    "what to do when a person's heart stops beating",
)

ANSWERED = "How do bats find their way in the dark?"


def run_demo(folder: Path | None, db: Path | None) -> None:
    """Index `folder` (None: the corpus of the repository) and ask it questions; then, in a terminal, let the user ask.

    Raises:
        NotFound: there is no such folder, or none was given and the repository is not here.
        InvalidInput: there is no text in the folder.
    """
    corpus = _beside("corpus")
    folder = folder or corpus
    if folder is None:
        raise NotFound("the example texts come with the repository, not with the package: nearfield demo FOLDER")
    with (
        tempfile.TemporaryDirectory(prefix="nearfield-demo-") as temporary,
        open_database(db or Path(temporary, "demo.nf")) as database,
    ):
        docs = open_for_text(database, "docs")
        _index(docs, folder)
        records = docs.get()
        if corpus is not None and folder.resolve() == corpus.resolve():
            last = ANSWERED
            for question in QUESTIONS:
                _ask(docs, records, question, None)
        else:
            screen.out.print("How some passages begin, and what else is close to them:\n")
            last = ""
            for question, origin in _borrowed(records):
                _ask(docs, records, question, origin)
                last = last or question
        if last:
            _answer(docs, last)
        _draw(docs)
        if judged := _beside("judged"):
            _evaluate(judged)
        _prompt(docs, records)
    _farewell(folder, db)


def _beside(name: str) -> Path | None:
    """examples/NAME of the repository that this code runs from, or of the current folder."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "examples" / name).is_dir():
            return root / "examples" / name
    return None


def _index(docs: Collection, folder: Path) -> None:
    started = time.perf_counter()
    done = index_with_bar(docs, [folder])
    for problem in done.problems:
        screen.err.print(f"problem: {screen.plain(problem)}", markup=False, soft_wrap=True)
    if not docs.count():
        raise InvalidInput(f"{folder}: no text was found in it; give another folder")
    seconds = time.perf_counter() - started
    what = f"{screen.count(done.passages, 'passage')} of {screen.count(done.files, 'file')}"
    screen.out.print(f"Indexed {what} in {seconds:.1f} s ({done.embedded:,} embedded)\n", markup=False)
    for mode in MODES:  # the first search after a start also makes an index; the questions are not timed with it
        docs.search("warm", k=1, mode=mode)


def _borrowed(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Five questions for a folder nobody has prepared: how passages spread over it begin."""
    step = max(1, len(records) // 5)
    chosen = [(_beginning(records[at].document or ""), at) for at in range(step // 2, len(records), step)]
    return [(question, at) for question, at in chosen if question][:5]


def _beginning(text: str) -> str:
    lines = [line.strip("#*->_ \t") for line in text.splitlines()]
    prose = " ".join(line for line in lines if line)
    return screen.plain(re.split(r"(?<=[.!?])\s", prose, maxsplit=1)[0], 120)


def _ask(docs: Collection, records: Sequence[Record], question: str, origin: int | None) -> None:
    cells = []
    for how, mode, nothing in (
        ("by meaning", "dense", "nothing else is here"),
        ("by keywords", "lexical", "no other passage has any of these words"),
    ):
        started = time.perf_counter()
        hits = docs.search(question, k=1 if origin is None else 2, mode=mode)
        seconds = time.perf_counter() - started
        other = [hit for hit in hits if origin is None or hit.id != records[origin].id]
        cells.append(_cell(how, seconds, other[0] if other else None, nothing))
    wide = screen.out.width >= 70
    table = Table(box=None, show_header=False, pad_edge=False, expand=wide, padding=(0, 3, 0, 0))
    if wide:
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*cells)
    else:
        for cell in cells:
            table.add_row(cell)
    screen.out.print(Text(f"? {screen.plain(question)}", style="bold"))
    screen.out.print(table)
    screen.out.print()


def _cell(how: str, seconds: float, hit: Hit | None, otherwise: str) -> Text:
    cell = Text(f"{how}, {seconds * 1000:.1f} ms", style="dim", overflow="fold")
    if hit is None:
        return cell.append(f"\n{otherwise}", style="not dim italic")
    cell.append(f"\n{hit.score:.2f}  ", style="not dim green")
    cell.append(screen.plain(hit.document or "", 150), style="not dim")
    return cell.append(f"\n{screen.place(hit)}", style="not dim cyan")


def _answer(docs: Collection, question: str) -> None:
    """The last question gets an answer in words, with its sources."""
    screen.out.print(Text(f"? {screen.plain(question)}", style="bold"))
    show(docs.ask(question, llm=os.environ.get("NEARFIELD_LLM"), stream=True))
    screen.out.print()


def _draw(docs: Collection) -> None:
    """A map of the passages, coloured by topic, into the current folder."""
    found = topics(docs)
    names = {id: topic.label for topic in found for id in topic.ids}
    paths = [MAP.with_suffix(".html")]
    if importlib.util.find_spec("matplotlib") is not None:
        paths.append(MAP.with_suffix(".png"))
    for path in paths:
        plot_map(docs, path, color=names, title="The passages of this demonstration")
    what = f"{screen.count(len(found), 'topic')}, as a map: {' and '.join(map(str, paths))}\n"
    screen.out.print(what, markup=False)


def _evaluate(folder: Path) -> None:
    """Measure three ways of searching on queries whose right answers people have written down."""
    screen.out.print(f"How good is a search? Judged queries, {folder.name} ({folder.parent.name}/):", style="bold")
    with open_database() as database:
        judged = load_judged(folder)
        docs = open_for_text(database, judged.name)
        judged.fill(docs)
        screen.out.print(evaluation_table(evaluate(docs, judged.queries, judged.qrels, modes=list(MODES))))
    screen.out.print("Of your own: nearfield eval FOLDER\n", markup=False)


def _prompt(docs: Collection, records: Sequence[Record]) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    while question := _line("Ask something yourself (Enter to stop): "):
        screen.out.print()
        _ask(docs, records, question, None)


def _line(prompt: str) -> str:
    try:
        return screen.out.input(prompt, markup=False).strip()
    except EOFError:
        screen.out.print()
        return ""


def _farewell(folder: Path, db: Path | None) -> None:
    lines = [] if db else [f"nearfield index {folder} --db library.nf"]
    lines.append(f'nearfield search "your question" --db {db or "library.nf"}')
    lines.append(f'nearfield ask "your question" --db {db or "library.nf"}')
    screen.out.print("Your own:\n  " + "\n  ".join(lines), markup=False, soft_wrap=True)
