"""Searches of a collection, measured on judged queries and set side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield import inputs
from nearfield.collection import Collection
from nearfield.database import open as open_database
from nearfield.errors import InvalidInput
from nearfield.evaluate.metrics import MEASURES
from nearfield.types import Hits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearfield.embed import EmbedderLike
    from nearfield.rerank import Reranker

_BATCH = 64  # queries searched at a time


class Score(NamedTuple):
    """A mean over queries, and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Evaluation:
    """Measures of one or more systems on the same queries. It prints as a table.

    `scores[system][measure]` is a `Score`, `values[system][measure]` the single queries' values, float64 of shape
    (queries,), in the order of `queries`. `skipped` queries had no relevant document in the judgements.
    """

    queries: list[str]
    values: dict[str, dict[str, NDArray[np.float64]]] = field(repr=False)
    skipped: int = 0
    resamples: int = 1000
    seed: int = 0

    @property
    def scores(self) -> dict[str, dict[str, Score]]:
        """Means with their confidence intervals: percentiles of the bootstrap over queries."""
        return {
            system: {name: _interval(values, self._samples()) for name, values in measures.items()}
            for system, measures in self.values.items()
        }

    def difference(self, system: str, other: str, measure: str) -> Score:
        """How much better `system` is than `other`, by the paired bootstrap over queries.

        The difference is more than chance when 0 is outside of its interval.

        Example:
            >>> table.difference("hybrid", "dense", "ndcg@10")  # doctest: +SKIP
            Score(mean=0.0312, low=0.0101, high=0.0527)
        """
        try:
            return _interval(self.values[system][measure] - self.values[other][measure], self._samples())
        except KeyError as missing:
            systems, measures = list(self.values), list(next(iter(self.values.values())))
            raise InvalidInput(f"there is no {missing}; the systems are {systems}, the measures {measures}") from None

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return {
            "queries": len(self.queries),
            "skipped": self.skipped,
            "systems": {
                system: {name: score._asdict() for name, score in measures.items()}
                for system, measures in self.scores.items()
            },
        }

    def _samples(self) -> NDArray[np.int64]:
        size = (self.resamples, len(self.queries))
        return np.random.default_rng(self.seed).integers(0, len(self.queries), size=size)

    def __repr__(self) -> str:
        scores = self.scores
        measures = list(next(iter(scores.values())))
        columns = [["", *measures], *([name, *(str(of[one]) for one in measures)] for name, of in scores.items())]
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*columns, strict=True)
        ]
        return "\n".join([f"<Evaluation: {len(self.queries)} queries, mean [95 % confidence]>", *lines])


def evaluate(
    collection: Collection,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    k: int | Sequence[int] = 10,
    modes: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("dense",),
    rerank: str | Reranker | None = None,
    by: str | None = None,
    resamples: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure nDCG, recall, MRR and MAP of a collection's searches, side by side on the same queries.

    Args:
        collection: what is searched.
        queries: texts by query id.
        qrels: grades by query id and document id; over 0 is relevant. Queries with no relevant document do not count.
        k: at how many answers to measure, or several such numbers.
        modes: modes of `Collection.search`, or names of systems with the options each searches with, for instance
            {"plain": {}, "diverse": {"diversity": 0.3}}.
        rerank: adds the last of the modes, reranked, as one more system.
        by: the field of the metadata that has the judged id, when records are parts of the judged documents; a document
            counts by its best part.
        resamples: of the bootstrap.
        progress: called with the number of searches done so far, and of all.

    Raises:
        InvalidInput: no query has a relevant document, none of these is in the collection, or as `Collection.search`.

    Example:
        >>> table = evaluate(docs, {"q1": "a pet"}, {"q1": {"cat": 1}}, k=[1, 10], modes=["dense", "lexical", "hybrid"])
        >>> table.scores["dense"]["ndcg@10"].mean
        1.0
    """
    cuts = [inputs.positive(cut, "k") for cut in ([k] if isinstance(k, (int, np.integer)) else k)]
    systems: dict[str, Mapping[str, Any]]
    systems = {mode: {"mode": mode} for mode in modes} if not isinstance(modes, Mapping) else dict(modes)
    if isinstance(modes, str) or not systems or not cuts:
        raise InvalidInput(f"modes and k must not be empty, and modes is a list; got modes={modes!r}, k={k!r}")
    if rerank is not None:
        name, options = list(systems.items())[-1]
        systems[f"{name} + rerank"] = {**options, "rerank": rerank}
    known, skipped = judged_queries(queries, qrels)
    if by is None:
        judged = list({document for id in known for document, grade in qrels[id].items() if grade > 0})
        if not collection.known(judged):
            raise InvalidInput(
                f"none of the {len(judged)} relevant documents, such as {judged[0]!r}, is a record of collection "
                f"{collection.name!r}: give by= the field that has their ids, or index them under these ids"
            )
    elif not collection.count({by: {"$exists": True}}):
        raise InvalidInput(f"by: no record of collection {collection.name!r} has the field {by!r}")
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    done = 0
    for system, options in systems.items():
        parts = {"include": ()} if by is None else {"include": ("metadatas",), "group_by": by}
        lines: list[list[str]] = []
        for start in range(0, len(known), _BATCH):
            texts = [queries[id] for id in known[start : start + _BATCH]]
            answers: list[Hits] = collection.search(texts, max(cuts), **{**options, **parts})
            lines += [[hit.id if by is None else str(hit.metadata.get(by)) for hit in hits] for hits in answers]
            done += len(texts)
            if progress is not None:
                progress(done, len(known) * len(systems))
        values[system] = measured(known, lines, qrels, cuts)
    return Evaluation(known, values, skipped, inputs.positive(resamples, "resamples"))


def compare_embedders(
    embedders: Mapping[str, EmbedderLike] | Iterable[str],
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    k: int | Sequence[int] = 10,
    resamples: int = 1000,
) -> Evaluation:
    """Measure embedders side by side: each embeds the documents into a collection in memory and answers the queries.

    Args:
        embedders: by the names they shall have in the table; or names of models.
        documents, queries: texts by id. qrels, k, resamples: as `evaluate`.

    Raises:
        InvalidInput: no query has a relevant document, or a text is empty. NotFound: there is no such model.

    Example:
        >>> letters = lambda texts: [[text.count(letter) + 0.01 for letter in "aeiou"] for text in texts]
        >>> lengths = lambda texts: [[len(text), 1.0] for text in texts]
        >>> table = compare_embedders(
        ...     {"letters": letters, "lengths": lengths},
        ...     {"d1": "a cat", "d2": "dogs"}, {"q": "cats"}, {"q": {"d1": 1}}, k=1,
        ... )
        >>> table.scores["letters"]["recall@1"].mean, table.scores["lengths"]["recall@1"].mean
        (1.0, 0.0)
    """
    named = dict(embedders) if isinstance(embedders, Mapping) else {name: name for name in embedders}
    if not named:
        raise InvalidInput("compare_embedders() was given no embedder")
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    made: Evaluation | None = None
    for name, embedder in named.items():
        with open_database() as db:
            docs = db.collection("docs", embedder=embedder)
            docs.add(list(documents.values()), ids=list(documents))
            made = evaluate(docs, queries, qrels, k=k, modes={name: {}}, resamples=resamples)
        values.update(made.values)
    assert made is not None
    return Evaluation(made.queries, values, made.skipped, resamples)


def judged_queries(queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, float]]) -> tuple[list[str], int]:
    """The queries that have a relevant document, and how many have none.

    Raises:
        InvalidInput: none has.
    """
    known = [id for id in queries if any(grade > 0 for grade in qrels.get(id, {}).values())]
    if not known:
        raise InvalidInput(
            f"none of the {len(queries)} queries has a relevant document in qrels (of {len(qrels)} queries); "
            "qrels is {query id: {document id: grade}}, and grades over 0 are relevant"
        )
    return known, len(queries) - len(known)


def measured(
    queries: Sequence[str],
    answers: Sequence[Sequence[str]],
    qrels: Mapping[str, Mapping[str, float]],
    cuts: Sequence[int],
) -> dict[str, NDArray[np.float64]]:
    """Each measure at each cut, shape (queries,): `answers` are the ids of documents, best first."""
    pairs = list(zip(answers, (qrels[id] for id in queries), strict=True))
    return {
        f"{name}@{cut}": np.array([measure(ranked, judged, cut) for ranked, judged in pairs])
        for cut in cuts
        for name, measure in MEASURES.items()
    }


def _interval(values: NDArray[np.float64], samples: NDArray[np.int64]) -> Score:
    """Efron, Tibshirani: An Introduction to the Bootstrap (1993), the percentile interval."""
    low, high = np.percentile(values[samples].mean(axis=1), [2.5, 97.5])
    return Score(float(values.mean()), float(low), float(high))
