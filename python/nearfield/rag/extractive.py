"""Answers without a language model: the sentences of the sources that are nearest to the question, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfield.answers import Citation
from nearfield.rag.context import sentences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearfield.embed import Embedder

_MOST = 256  # sentences looked at: some seconds of work for a local model
_CHOSEN = 3
_SHARE = 0.75  # of the best sentence's score: a worse one is beside the point
_SAME = 0.92  # cosine above which two sentences say the same
_SHORT = 3  # words: headings and cries are no answers


def extract(
    question: str, sources: Sequence[Citation], embedder: Embedder
) -> tuple[str, dict[int, list[tuple[int, int]]]]:
    """The best sentences with their citations, and where in each source they stand.

    Args:
        question: what was asked.
        sources: the passages, numbered.
        embedder: the one of the collection, which makes question and sentences comparable.

    Returns:
        The answer, empty when the sources hold no sentences; and for each number, spans of `Citation.text`.
    """
    spans = [
        (source, start, end)
        for source in sources
        for start, end in sentences(source.text)
        if len(source.text[start:end].split()) >= _SHORT and not source.text[start:end].lstrip().startswith(("#", "|"))
    ][:_MOST]
    if not spans:  # one heading, one line of a table: better than nothing
        spans = [(source, 0, len(source.text)) for source in sources[:1]]
    if not spans:
        return "", {}
    texts = [" ".join(source.text[start:end].split()) for source, start, end in spans]
    vectors = _unit(embedder.encode_documents(texts))
    scores = vectors @ _unit(embedder.encode_queries([question]))[0]
    chosen: list[int] = []
    for at in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) == _CHOSEN or (chosen and scores[at] < _SHARE * scores[chosen[0]]):
            break
        if all(vectors[at] @ vectors[other] < _SAME for other in chosen):
            chosen.append(at)
    quotes: dict[int, list[tuple[int, int]]] = {}
    for at in chosen:
        source, start, end = spans[at]
        quotes.setdefault(source.number, []).append((start, end))
    return " ".join(f"{texts[at]} [{spans[at][0].number}]" for at in chosen), quotes


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
