"""The demonstration: the same questions asked by meaning and by keywords, side by side."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
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

_WITHOUT_CONTENT = """
a about after all also am an and any are as at be been before but by can could did do does for from had has have he her
his how i if in into is it its may me more most my no not of on one or our out over she should so some such than that
the their them then there these they this those to up was we were what when where which who why will with would you your
"""
STOP_WORDS = frozenset(_WITHOUT_CONTENT.split())


class Keywords:
    """Okapi BM25 on word stems: what searching without a model finds."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(stems(text)) for text in texts]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = max(1.0, sum(self._lengths) / max(1, len(texts)))
        self._holders = Counter(stem for counts in self._counts for stem in counts)

    def best(self, query: str, skip: int | None = None) -> tuple[int, float] | None:
        """The best text's position and score; None when no text has any of the words."""
        scores = [self._score(at, set(stems(query))) if at != skip else 0.0 for at in range(len(self._counts))]
        at = max(range(len(scores)), key=scores.__getitem__, default=0)
        return (at, scores[at]) if scores and scores[at] > 0 else None

    def _score(self, at: int, words: set[str]) -> float:
        counts, score = self._counts[at], 0.0
        for word in words & counts.keys():
            holders = self._holders[word]
            rarity = math.log(1 + (len(self._counts) - holders + 0.5) / (holders + 0.5))
            damping = 1.2 * (0.25 + 0.75 * self._lengths[at] / self._mean)
            score += rarity * counts[word] * 2.2 / (counts[word] + damping)
        return score


def stems(text: str) -> list[str]:
    """The words of a text that carry meaning, without their endings: `resting` and `rests` are `rest`."""
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", text.lower()))
    return [re.sub(r"(?<=\w{3})(?:ing|ies|ed|es|s|ly|y|e)$", "", word) for word in words if word not in STOP_WORDS]


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
        keywords = Keywords([record.document or "" for record in records])
        if corpus is not None and folder.resolve() == corpus.resolve():
            last = ANSWERED
            for question in QUESTIONS:
                _ask(docs, records, keywords, question, None)
        else:
            screen.out.print("How some passages begin, and what else is close to them:\n")
            last = ""
            for question, origin in _borrowed(records):
                _ask(docs, records, keywords, question, origin)
                last = last or question
        if last:
            _answer(docs, last)
        _draw(docs)
        if judged := _beside("judged"):
            _evaluate(judged)
        _prompt(docs, records, keywords)
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
    docs.search("warm", k=1)  # the first search after a start also reads the index; the questions are not timed with it


def _borrowed(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Five questions for a folder nobody has prepared: how passages spread over it begin."""
    step = max(1, len(records) // 5)
    chosen = [(_beginning(records[at].document or ""), at) for at in range(step // 2, len(records), step)]
    return [(question, at) for question, at in chosen if question][:5]


def _beginning(text: str) -> str:
    lines = [line.strip("#*->_ \t") for line in text.splitlines()]
    prose = " ".join(line for line in lines if line)
    return screen.plain(re.split(r"(?<=[.!?])\s", prose, maxsplit=1)[0], 120)


def _ask(docs: Collection, records: Sequence[Record], keywords: Keywords, question: str, origin: int | None) -> None:
    started = time.perf_counter()
    hits = docs.search(question, k=1 if origin is None else 2)
    middle = time.perf_counter()
    found = keywords.best(question, skip=origin)
    ended = time.perf_counter()
    other = [hit for hit in hits if origin is None or hit.id != records[origin].id]
    left = _cell("by meaning", middle - started, other[0] if other else None, "nothing else is here")
    by_words = None if found is None else Hit(**records[found[0]].to_dict(), score=found[1], distance=-found[1])
    right = _cell("by keywords", ended - middle, by_words, "no passage has any of these words")
    wide = screen.out.width >= 70
    table = Table(box=None, show_header=False, pad_edge=False, expand=wide, padding=(0, 3, 0, 0))
    if wide:
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(left, right)
    else:
        table.add_row(left)
        table.add_row(right)
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


def _prompt(docs: Collection, records: Sequence[Record], keywords: Keywords) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    while question := _line("Ask something yourself (Enter to stop): "):
        screen.out.print()
        _ask(docs, records, keywords, question, None)


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
