"""An answer with its sources: what `Collection.ask` gives back. Plain values, free of any model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that was given to the model, under the number that the answer calls it by.

    `text` is what was sent of it. `start` and `end` are its place in the source, in characters, if the metadata fields
    `start` and `end` tell it. `score` is the reranker's, or the cosine, or where there is neither the score of the hit.
    `quotes` are the places in `text` of sentences that the answer repeats word for word.
    """

    number: int
    id: str
    text: str
    score: float
    source: str | None = None
    title: str | None = None
    page: int | None = None
    start: int | None = None
    end: int | None = None
    quotes: tuple[tuple[int, int], ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def pages(self) -> str:
        """`page 3`, or `pages 3-4` where the passage ends on another (the metadata field `last_page`); else nothing."""
        if self.page is None:
            return ""
        last = self.metadata.get("last_page", self.page)
        return f"page {self.page}" if last == self.page else f"pages {self.page}-{last}"

    @property
    def place(self) -> str:
        """Where the passage stands: `notes/pets.md, page 3, characters 120-480`; its id when no source is known."""
        parts = [self.source or self.id]
        parts += [self.pages] if self.pages else []
        parts += [f"characters {self.start}-{self.end}"] if self.start is not None and self.end is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and everything that it stands on.

    Attributes:
        text: the answer, with numbers such as [1] that lead to `sources`; none leads nowhere.
        sources: all passages that were sent, in the order of their numbers.
        refused: there is no answer in the sources, or no source was good enough.
        notes: what the reader should know: a citation that was dropped, an answer that was cut, no model at work.
        model: who answered: "openai:gpt-4.1-mini", or "extractive".
        messages: what was sent to the model, word for word; empty when none was asked.
        tokens: about how many tokens that was.
        searched: the words that the sources were searched with.
    """

    question: str
    text: str
    sources: tuple[Citation, ...] = ()
    refused: bool = False
    notes: tuple[str, ...] = ()
    model: str = "extractive"
    messages: tuple[dict[str, str], ...] = field(default=(), repr=False)
    tokens: int = 0
    searched: str = ""
    cited: tuple[int, ...] = ()

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The sources that the answer cites, in the order of their numbers."""
        return tuple(source for source in self.sources if source.number in self.cited)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.text, ""] if self.citations or self.notes else [self.text]
        lines += [f"[{source.number}] {source.place}" for source in self.citations]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def with_quotes(self, quotes: dict[int, list[tuple[int, int]]]) -> Answer:
        """The same answer, whose sources know which of their sentences it repeats."""
        sources = tuple(replace(source, quotes=tuple(quotes.get(source.number, ()))) for source in self.sources)
        return replace(self, sources=sources)


class AnswerStream(Iterator[str]):
    """An answer while it is being written: iterate for its pieces, then read `answer`.

    Example:
        >>> for piece in docs.ask("Who purred?", llm="ollama:llama3.2", stream=True):
        ...     print(piece, end="", flush=True)
    """

    def __init__(self, pieces: Generator[str, None, Answer]) -> None:
        self._pieces = pieces
        self._answer: Answer | None = None
        self.text = ""  # what has come so far; it stays when the rest fails

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration as end:
            if end.value is not None:
                self._answer = end.value
            raise StopIteration from None
        self.text += piece
        return piece

    @property
    def answer(self) -> Answer:
        """The whole answer; what has not been read yet is read now.

        Raises:
            RemoteError: the model failed.
        """
        for _ in self:
            pass
        if self._answer is None:
            raise RuntimeError("the answer failed, or was stopped, before its end; what came is in .text")
        return self._answer
