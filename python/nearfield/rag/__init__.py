"""Answers from a collection: find, pack, ask, and check what comes back.

P. Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", 2020. `ask` is one question; `Rag`
keeps the settings for many. What a model is told stands in `prompts`; models are in `models`; without one, `extractive`
answers with the sentences of the sources themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from nearfield.answers import Answer, AnswerStream
from nearfield.collection import Collection
from nearfield.errors import InvalidInput
from nearfield.rag import prompts
from nearfield.rag.context import checked, pack, relevance, written
from nearfield.rag.extractive import extract
from nearfield.rag.models import (
    LLM,
    AnthropicModel,
    GoogleModel,
    LanguageModel,
    Message,
    ModelOptions,
    OllamaModel,
    OpenAIModel,
    resolve,
)
from nearfield.remote import estimated_tokens
from nearfield.request import MODES
from nearfield.types import Hit

__all__ = [
    "LLM",
    "AnthropicModel",
    "GoogleModel",
    "LanguageModel",
    "ModelOptions",
    "OllamaModel",
    "OpenAIModel",
    "Rag",
    "ask",
    "resolve",
]
_TURNS = 6  # of a conversation that are sent again
_NUMBERS = re.compile(r"\s*\[\d+\]")
_LONGEST_SEARCH = 1000  # characters: a rewritten question that is longer is no question


class Rag:
    """Questions to one collection, always asked in the same way.

    Args:
        collection: where the sources are; it must be open with the embedder that made its vectors.
        llm: who answers: see `nearfield.rag.resolve`. None: nobody; the sentences of the sources nearest to the
            question are the answer, and a note says so.
        k: how many passages are looked at.
        style: "strict" (only what the sources say), "synthesise", or instructions of your own, in which {unknown}
            stands for the sentence of no answer.
        budget: tokens for the passages that are sent.
        min_score: answer only when a passage scores at least this: the reranker's score, the cosine of a dense or
            hybrid search, or the score of a lexical one. Passages known to score less are not sent.
        mode: "dense", "lexical" or "hybrid"; None: hybrid where there is one, else dense.
        count_tokens: from a text to its tokens; None: an estimate that is rather too high.
        **search: what else `Collection.search` takes: `where`, `rerank`, `diversity`, `group_by` and others.

    Raises:
        InvalidInput: an argument is wrong.
        Unauthorized: the model needs a key, and there is none.

    Example:
        >>> rag = Rag(docs, "ollama:llama3.2", min_score=0.3)  # doctest: +SKIP
        >>> print(rag.ask("Who sat on the mat?"))  # doctest: +SKIP
        The cat sat on the mat [1].
        <BLANKLINE>
        [1] notes/pets.md
    """

    def __init__(
        self,
        collection: Collection,
        llm: LLM | None = None,
        *,
        k: int = 8,
        style: str = "strict",
        budget: int = 3000,
        min_score: float | None = None,
        mode: str | None = None,
        count_tokens: Callable[[str], int] = estimated_tokens,
        **search: Any,
    ) -> None:
        self.collection = collection
        self.model: LanguageModel | None = None if llm is None else resolve(llm)
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise InvalidInput(f"budget: got {budget!r}; give a number of tokens of at least 1")
        if style not in prompts.STYLES and " " not in style:
            known = ", ".join(map(repr, prompts.STYLES))
            raise InvalidInput(f"style: got {style!r}; give {known}, or instructions in your own words")
        self.k, self.budget, self.min_score, self._count = k, budget, min_score, count_tokens
        self.instructions = prompts.STYLES.get(style, style).replace("{unknown}", prompts.UNKNOWN)
        self.mode = mode or ("hybrid" if "hybrid" in MODES else "dense")
        self._search: dict[str, Any] = dict(search)

    @overload
    def ask(
        self, question: str, *, history: Sequence[Answer | Message] = (), stream: Literal[False] = False
    ) -> Answer: ...
    @overload
    def ask(
        self, question: str, *, history: Sequence[Answer | Message] = (), stream: Literal[True]
    ) -> AnswerStream: ...
    def ask(
        self, question: str, *, history: Sequence[Answer | Message] = (), stream: bool = False
    ) -> Answer | AnswerStream:
        """Answer one question.

        Args:
            question: in any words.
            history: the turns before it, oldest first: earlier answers, or messages {"role", "content"}. With a model,
                the question is first rewritten so that it can be searched for without them.
            stream: give the answer in pieces, as it is written.

        Raises:
            InvalidInput: the question is empty, or the search refuses it.
            RemoteError: the embedder's or the model's service failed; pieces that came stay in the stream's `text`.
        """
        if not isinstance(question, str) or not question.strip():
            raise InvalidInput(f"question: got {question!r:.40}; ask something")
        turns = _turns(history)
        answered = AnswerStream(self._answer(question, turns, stream))
        return answered if stream else answered.answer

    def _answer(self, question: str, turns: list[Message], stream: bool) -> Generator[str, None, Answer]:
        searched = self._searchable(question, turns)
        hits = self.collection.search(searched, self.k, mode=self.mode, **self._search)
        good, why = self._good_enough(list(hits))
        sources = pack(good, self.budget, self._count)
        answer = Answer(question, prompts.UNKNOWN, sources, searched=searched)
        if self.model is not None:
            answer = replace(answer, model=self.model.identity)
        if not sources:
            yield prompts.UNKNOWN
            return replace(answer, refused=True, notes=(why or prompts.NO_TEXT,))
        if self.model is None:
            return (yield from self._extracted(answer))
        return (yield from self._generated(self.model, answer, turns, stream))

    def _extracted(self, answer: Answer) -> Generator[str, None, Answer]:
        embedder = self.collection.embedder
        assert embedder is not None  # the search has just used it
        text, quotes = extract(answer.searched, answer.sources, embedder)
        yield text
        return replace(answer, text=text, notes=(prompts.EXTRACTIVE,), cited=tuple(sorted(quotes))).with_quotes(quotes)

    def _generated(
        self, model: LanguageModel, answer: Answer, turns: list[Message], stream: bool
    ) -> Generator[str, None, Answer]:
        asked = prompts.QUESTION.format(
            sources="\n\n".join(written(source) for source in answer.sources), question=answer.question
        )
        messages: list[Message] = [{"role": "system", "content": self.instructions}, *turns]
        messages.append({"role": "user", "content": asked})
        notes: list[str] = []

        def written_by_the_model() -> Generator[str, None, None]:
            note = yield from model.generate(messages, whole=not stream)
            if note:
                notes.append(note)

        pieces: list[str] = []
        cited = yield from _kept(checked(written_by_the_model(), answer.sources), pieces)
        text = "".join(pieces).strip()
        unknown = prompts.UNKNOWN.rstrip(".").lower() in text.lower() and len(text) < 2 * len(prompts.UNKNOWN)
        if not text:
            notes.append(prompts.EMPTY.format(model=model.identity))
        if cited.dropped:
            notes.append(prompts.DROPPED.format(numbers=", ".join(f"[{number}]" for number in sorted(cited.dropped))))
        if text and not cited.valid and not unknown:
            notes.append(prompts.UNCITED)
        return replace(
            answer,
            text=text,
            refused=unknown or not text,
            notes=tuple(notes),
            messages=tuple(messages),
            tokens=sum(self._count(message["content"]) for message in messages),
            cited=tuple(sorted(cited.valid)),
        )

    def _searchable(self, question: str, turns: list[Message]) -> str:
        """The question in words that can be searched for without what was said before."""
        if not turns:
            return question
        if self.model is None:
            before = [turn["content"] for turn in turns if turn["role"] == "user"]
            return f"{before[-1]} {question}" if before else question
        conversation = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        told = prompts.REWRITE.format(conversation=conversation, question=question)
        pieces = self.model.generate([{"role": "user", "content": told}], whole=True)
        rewritten = " ".join("".join(pieces).split())
        return rewritten if 0 < len(rewritten) <= _LONGEST_SEARCH else question

    def _good_enough(self, hits: list[Hit]) -> tuple[list[Hit], str]:
        """The hits that may be sent; and when there are none, why."""
        if not hits:
            return [], prompts.NO_SOURCES
        if self.min_score is None:
            return hits, ""
        known = [score for score in map(relevance, hits) if score is not None]
        if not known or max(known) < self.min_score:
            best = max(known, default=float("-inf"))
            return [], prompts.TOO_WEAK.format(least=self.min_score, best=best)
        return [hit for hit in hits if (score := relevance(hit)) is None or score >= self.min_score], ""


def ask(
    collection: Collection,
    question: str,
    *,
    history: Sequence[Answer | Message] = (),
    stream: bool = False,
    **options: Any,
) -> Answer | AnswerStream:
    """Answer one question from a collection: `Rag(collection, **options).ask(question)`, which see.

    Example:
        >>> def llm(messages):
        ...     return "The cat did [1]."
        >>> ask(docs, "Who sat on the mat?", llm=llm).citations[0].id
        'cat'
    """
    rag = Rag(collection, **options)
    return rag.ask(question, history=history, stream=True) if stream else rag.ask(question, history=history)


def _kept(pieces: Generator[str, None, Any], into: list[str]) -> Generator[str, None, Any]:
    """The same pieces, without white space before the first, also gathered in a list."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        piece = piece if into else piece.lstrip()
        if piece:
            into.append(piece)
            yield piece


def _turns(history: Sequence[Answer | Message]) -> list[Message]:
    """Earlier turns as messages. Numbers of sources are left out: they mean other sources now."""
    turns: list[Message] = []
    for turn in history:
        if isinstance(turn, Answer):
            turns.append({"role": "user", "content": turn.question})
            turns.append({"role": "assistant", "content": _NUMBERS.sub("", turn.text) or prompts.UNKNOWN})
        elif isinstance(turn, dict) and turn.get("role") in ("user", "assistant") and turn.get("content"):
            turns.append({"role": turn["role"], "content": str(turn["content"])})
        else:
            raise InvalidInput(
                f"history: got {turn!r:.80}; give answers, or messages such as {{'role': 'user', 'content': '...'}}"
            )
    turns = turns[-2 * _TURNS :]
    while turns and turns[0]["role"] == "assistant":  # services want a question first
        turns.pop(0)
    return turns
