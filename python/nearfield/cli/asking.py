"""`nearfield ask`: an answer with its sources."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.text import Text

from nearfield.answers import Answer, AnswerStream
from nearfield.cli import screen
from nearfield.cli.options import DEFAULT_DB, Db, Json, Name, Where, app, existing, known, parsed_where


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    db: Db = DEFAULT_DB,
    collection: Name = "docs",
    llm: Annotated[
        str | None,
        typer.Option(
            envvar="NEARFIELD_LLM",
            help="Who answers: openai:MODEL, openai:MODEL@ADDRESS, google:MODEL, anthropic:MODEL, ollama:MODEL. "
            "Nobody: the sentences nearest to the question.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to look at.")] = 8,
    budget: Annotated[int, typer.Option(min=1, help="How many tokens of them to send.")] = 3000,
    style: Annotated[str, typer.Option(help="strict: only what the sources say; or synthesise.")] = "strict",
    min_score: Annotated[float | None, typer.Option(help="Do not answer when all passages score lower.")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Answer a question from your texts, with the sources."""
    condition = parsed_where(where)
    with existing(db) as database:
        stream = known(database, collection).ask(
            question,
            llm=llm,
            k=k,
            budget=budget,
            style=style,
            min_score=min_score,
            where=condition,
            stream=True,
        )
        answer = stream.answer if as_json else show(stream)
    if as_json:
        screen.print_json(answer.to_dict())


def show(stream: AnswerStream) -> Answer:
    """Print an answer as it comes, then the sources that it cites, and what should be known of it."""
    for text in _wrapped(stream, screen.out.width):
        screen.out.print(text, end="", markup=False, soft_wrap=True)
    answer = stream.answer
    screen.out.print("\n" if answer.citations else "")
    for source in answer.citations:
        line = Text(f"[{source.number}] {screen.place(source)}", style="cyan", overflow="fold")
        line.append(f", {source.pages}" if source.pages else "")
        known_place = source.start is not None and source.end is not None
        line.append(f", characters {source.start}-{source.end}" if known_place else "")
        screen.out.print(line.append(f"  {source.score:.2f}", style="dim"))
    for note in answer.notes:
        screen.out.print(Text(f"note: {screen.plain(note)}", style="dim", overflow="fold"))
    return answer


def _wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """The same text, word by word, in lines of at most `width` cells; what would steer the terminal is gone."""
    column, gap, word = 0, "", ""
    for char in itertools.chain(itertools.chain.from_iterable(pieces), "\0"):
        if not char.isspace() and char != "\0":
            word += char if char.isprintable() else " "
            continue
        if word:
            if column + len(gap) + cell_len(word) > width and column:
                column, gap = 0, "\n"
            for line in (word[at : at + width] for at in range(0, len(word), width)):  # a word longer than a line
                yield gap + line
                column += (len(gap) if gap != "\n" else 0) + cell_len(line)
                gap = ""
            gap = word = ""
        if char == "\n":
            yield "\n"
            column, gap = 0, ""
        elif column:
            gap += " "
