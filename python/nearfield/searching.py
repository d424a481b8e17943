"""What happens in a search: from a query as it was given to hits with their documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from nearfield import filters, inputs
from nearfield.encoding import Encoder
from nearfield.errors import Corrupt, InvalidInput
from nearfield.filters import Filter
from nearfield.live import LiveIndex, consistent
from nearfield.store import Store
from nearfield.transaction import State, Stored, Transaction
from nearfield.types import Hit, Hits, Report, Where

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODES = ("dense",)


class SearchOptions(TypedDict, total=False):
    """What `Collection.search` takes by name."""

    where: Where | None
    where_document: Where | None
    min_score: float | None
    mode: str
    recall: float | None
    exact: bool
    explain: bool


@dataclass(frozen=True, slots=True)
class Request:
    """How many answers, of which records, and how: checked before anything is done."""

    k: int
    filter: Filter | None
    min_score: float | None
    recall: float | None
    exact: bool
    explain: bool

    @classmethod
    def checked(cls, k: int, **options: Unpack[SearchOptions]) -> Request:
        """From the arguments of `Collection.search`.

        Raises:
            InvalidInput: one of them is wrong.
        """
        k = inputs.positive(k, "k")
        if (mode := options.get("mode", "dense")) not in MODES:
            raise InvalidInput(f"unknown mode {mode!r}; there is {', '.join(map(repr, MODES))}")
        return cls(
            k=k,
            filter=filters.parse(options.get("where"), options.get("where_document")),
            min_score=inputs.number(options.get("min_score"), "min_score"),
            recall=inputs.share(options.get("recall"), "recall"),
            exact=bool(options.get("exact")),
            explain=bool(options.get("explain")),
        )


class Searcher:
    """The searches of one collection."""

    def __init__(self, store: Store, live: LiveIndex, encoder: Encoder, state: State) -> None:
        self._store = store
        self._live = live
        self._encoder = encoder
        self._id = state.origin
        self._name = state.name
        self._metric = state.metric

    def search(self, query: Any, request: Request) -> Hits | list[Hits]:
        """`Collection.search`, its arguments checked."""
        with self._store.reading() as transaction:
            state = transaction.state(self._id, self._name)
        queries = inputs.queries(query, state.dimension)
        texts, vectors = queries.texts, queries.vectors
        if vectors is None and texts is not None and state.live:
            vectors = self._encoder.queries(state, texts)
        count = len(texts) if texts is not None else len(vectors) if vectors is not None else 0
        if state.live == 0 or count == 0 or vectors is None:
            report = Report("empty", True, count, 0, 0, 0, 0, 0.0)
            answers: list[list[Hit]] = [[] for _ in range(count)]
        else:
            answers, report = self._answers(vectors, request)
        hits = [
            Hits(tuple(answer), texts[at] if texts is not None else None, report if request.explain else None)
            for at, answer in enumerate(answers)
        ]
        return hits[0] if queries.single else hits

    def _answers(self, vectors: NDArray[np.float32], request: Request) -> tuple[list[list[Hit]], Report]:
        def work(transaction: Transaction) -> Any:
            state = transaction.state(self._id, self._name)
            options: dict[str, Any] = {"recall": request.recall, "exact": request.exact}
            if request.filter is not None:
                options["allow"] = allowed(transaction, state, request.filter)
            k = max(1, min(request.k, state.live))
            rows, scores, report = self._live.search(transaction, state, vectors, k, **options)
            good = rows >= 0
            if request.min_score is not None:
                good &= scores >= request.min_score
            return rows, scores, report, good, transaction.records(state.id, np.unique(rows[good]).tolist())

        rows, scores, report, good, records = consistent(self._store, self._live.gate, work)
        self._live.publish()
        answers: list[list[Hit]] = []
        for row_line, score_line, good_line in zip(rows, scores, good, strict=True):
            kept = zip(row_line[good_line].tolist(), score_line[good_line].tolist(), strict=True)
            answers.append([self._hit(records.get(row), score) for row, score in kept])
        return answers, report

    def _hit(self, record: Stored | None, score: float) -> Hit:
        if record is None:
            raise Corrupt(f"collection {self._name!r} has a vector without a record; restore it from a backup")
        distance = 1.0 - score if self._metric == "cosine" else -score
        return Hit(record.id, score, distance, record.document, json.loads(record.metadata))


def allowed(transaction: Transaction, state: State, condition: Filter) -> NDArray[Any]:
    """The rows that a filter lets through: row ids (int64, ascending), or a mask over all rows (bool)."""
    return transaction.rows(state.id, filters.to_sql(condition))
