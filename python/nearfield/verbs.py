"""What people do with a collection that rooms above it bring: the only place where a lower room calls a higher one.

`Collection` has these as methods, because that is where people look for them. Which room answers is a name in `HOMES`,
looked up when the method is called; nothing here imports it, and nothing below needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from nearfield.request import SearchOptions

if TYPE_CHECKING:
    from nearfield.answers import Answer, AnswerStream

HOMES = {"ask": "rag"}


class AskOptions(SearchOptions, total=False):
    """What `Collection.ask` takes by name, beside what `Collection.search` takes."""

    llm: Any
    history: Sequence[Any]
    k: int
    style: str
    budget: int
    count_tokens: Callable[[str], int]


class Verbs:
    """The methods of `Collection` that are answered by rooms above it."""

    @overload
    def ask(self, question: str, *, stream: Literal[False] = False, **options: Unpack[AskOptions]) -> Answer: ...
    @overload
    def ask(self, question: str, *, stream: Literal[True], **options: Unpack[AskOptions]) -> AnswerStream: ...
    def ask(self, question: str, *, stream: bool = False, **options: Unpack[AskOptions]) -> Answer | AnswerStream:
        """Answer a question from the records, with numbered citations.

        Args:
            question: in any words.
            llm: who answers: "openai:<model>" (or "openai:<model>@<address>" for any server that speaks its format),
                "google:<model>", "anthropic:<model>", "ollama:<model>", or a function from a list of messages
                {"role", "content"} to text. None: the sentences nearest to the question, word for word.
            history: earlier answers (or messages), oldest first.
            stream: give the pieces of the answer as they come.
            k: how many passages are looked at. budget: how many tokens of them are sent.
            style: "strict" (only what the sources say), "synthesise", or instructions of your own.
            min_score: refuse to answer when no passage scores at least this.
            mode, where, rerank and others: see `search`.

        Returns:
            An `Answer`: its text, the sources it cites, notes, and what was sent. With `stream`, an `AnswerStream`.

        Raises:
            InvalidInput: an argument is wrong.
            RemoteError: the service of the embedder or of the model failed.

        Example:
            >>> answer = docs.ask("Who sat on the mat?")
            >>> print(answer.text)
            The cat sat on the mat. [1]
            >>> answer.citations[0].id
            'cat'
        """
        return _verb("ask")(self, question, stream=stream, **options)  # type: ignore[no-any-return]


def _verb(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(f"nearfield.{HOMES[name]}"), name)
    return found
