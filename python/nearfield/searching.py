"""What happens in a search: from a query as it was given to hits with their documents.

First, in one snapshot of the database: each leg ranks, rankings are fused, and what the rest needs is read. Then, with
no lock held: rerank, min_score, group_by, diversity, and the hits. The arithmetic is in `fuse`.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import fuse, inputs, rerank
from nearfield.derived import Derived
from nearfield.encoding import Encoder
from nearfield.errors import Corrupt, InvalidInput, NotFound, shown
from nearfield.fuse import Fusion, Ranking
from nearfield.live import consistent
from nearfield.request import Request
from nearfield.rerank import Reranker
from nearfield.store import Store
from nearfield.transaction import State, Stored, Transaction
from nearfield.types import Hit, Hits, Report

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Question:
    """What one list of hits answers: texts, vectors (n, dimension), or both; several count by their best score."""

    texts: list[str]
    vectors: NDArray[np.float32] | None

    @property
    def text(self) -> str | None:
        return " ".join(self.texts) if self.texts else None


@dataclass(slots=True)
class Found:
    """What the snapshot held: a ranking a question, what its legs said, and the records of all of them."""

    rankings: list[Ranking]
    legs: list[dict[str, Ranking]]
    complete: list[bool]  # a deeper search would bring nothing more
    records: dict[int, Stored]
    vectors: dict[int, NDArray[np.float32]]
    report: Report


class Clock:
    """Milliseconds spent in each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What was done since the last lap was this stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + 1000 * (now - self._last)
        self._last = now


class Searcher:
    """The searches of one collection."""

    def __init__(self, store: Store, derived: Derived, encoder: Encoder, state: State) -> None:
        self._store = store
        self._derived = derived
        self._live = derived.index
        self._columns = derived.columns
        self._text = derived.text
        self._encoder = encoder
        self._id = state.origin
        self._name = state.name
        self._metric = state.metric

    def search(self, query: Any, request: Request) -> Hits | list[Hits]:
        """`Collection.search`, its arguments checked."""
        clock = Clock()
        with self._store.reading() as transaction:
            state = transaction.state(self._id, self._name)
        queries = inputs.queries(query, state.dimension)
        texts, vectors = queries.texts or [], queries.vectors
        away = None if request.negative is None else inputs.queries(request.negative, state.dimension)
        self._check(request, texts, vectors)
        if state.live and "dense" in request.legs:
            unknown = [*(texts if vectors is None else ()), *((away.texts or ()) if away else ())]
            made = self._encoder.queries(state, unknown) if unknown else np.empty((0, 0), dtype=np.float32)
            if vectors is None:
                vectors, made = made[: len(texts)], made[len(texts) :]
            negative = None if away is None else made if away.vectors is None else away.vectors
            vectors = self._blended(vectors, negative, request.combine)
            clock.lap("embed")
        hits = self._answers(self._questions(texts, vectors, request.combine), request, clock)
        return hits[0] if queries.single or request.combine is not None else hits

    def similar(self, examples: Any, request: Request) -> Hits:
        """`Collection.similar`, its arguments checked."""
        with self._store.reading() as transaction:
            state = transaction.state(self._id, self._name)
            names, vectors, texts = self._examples(transaction, state, examples, "ids")
            if not len(vectors):
                raise InvalidInput("similar() needs at least one example: an id or a vector")
            away, negative, _ = self._examples(transaction, state, request.negative, "negative")
        self._check(request, texts, vectors)
        vectors = self._blended(vectors, negative, request.combine)
        questions = self._questions(texts, vectors, request.combine)
        return self._answers(questions, request, Clock(), [*names, *away])[0]

    # -- what is asked ----------------------------------------------------------------------------------------------

    def _check(self, request: Request, texts: list[str], vectors: NDArray[np.float32] | None) -> None:
        if request.combine is not None and not texts and not (vectors is not None and len(vectors)):
            raise InvalidInput(f"combine={request.combine!r} needs at least one query, got none")
        if request.reranker is not None and not texts:
            raise InvalidInput("rerank compares texts, and the query has none: give a text, or leave rerank out")
        if "lexical" in request.legs and not texts and vectors is not None and len(vectors):
            raise InvalidInput("a vector has no words to search for: give a text, or search with mode='dense'")
        if request.legs == ("lexical",) and request.negative is not None:
            raise InvalidInput("negative examples move a vector, and mode='lexical' has none: use 'dense' or 'hybrid'")

    def _blended(
        self, vectors: NDArray[np.float32], negative: NDArray[np.float32] | None, combine: str | None
    ) -> NDArray[np.float32]:
        """All examples as one vector, or each by itself, moved away from the negative ones."""
        if not len(vectors) or (combine != "mean" and (negative is None or not len(negative))):
            return vectors
        groups = [vectors] if combine == "mean" else np.split(vectors, len(vectors))
        return np.stack([fuse.blend(group, negative, unit=self._metric == "cosine") for group in groups])

    def _questions(self, texts: list[str], vectors: NDArray[np.float32] | None, combine: str | None) -> list[Question]:
        if combine is not None:
            return [Question([" ".join(texts)] if texts and combine == "mean" else texts, vectors)]
        count = len(texts) if vectors is None else len(vectors)
        return [Question(texts[at : at + 1], None if vectors is None else vectors[at : at + 1]) for at in range(count)]

    def _examples(
        self, transaction: Transaction, state: State, values: Any, name: str
    ) -> tuple[list[str], NDArray[np.float32], list[str]]:
        """The ids of examples given by id, the vectors of all, and what documents there are."""
        names, vectors = inputs.examples(values, state.dimension, name)
        known = transaction.rows_of(state.id, names)
        if missing := [one for one in names if one not in known]:
            raise NotFound(f"collection {self._name!r} has no record with the id {shown(missing[0])} (of {name})")
        rows = [known[one] for one in names]
        stored = transaction.vectors_of(state, rows)
        records = transaction.records(state.id, rows)
        texts = [text for row in rows if (text := records[row].document)]
        return names, stored if not len(vectors) else np.concatenate([stored, vectors]) if rows else vectors, texts

    # -- what is found ----------------------------------------------------------------------------------------------

    def _answers(
        self, questions: list[Question], request: Request, clock: Clock, excluded: Sequence[str] = ()
    ) -> list[Hits]:
        answers: dict[int, list[Hit]] = {}
        depth, report = request.kept if len(request.legs) == 1 else request.candidates, None
        left = list(range(len(questions)))
        while left:
            asked = [questions[at] for at in left]
            search = functools.partial(self._found, asked, request, depth, clock, excluded)
            found = consistent(self._store, self._derived.gates, search)
            report, again = found.report, []
            for place, at in enumerate(left):
                if not self._worth_reranking(found, place, request):
                    again.append(at)
                    continue
                answers[at] = self._refined(found, place, asked[place].text, request, clock)
                if len(answers[at]) < request.k and not found.complete[place] and request.reranker is None:
                    again.append(at)  # a few groups had all the candidates
            left, depth = again, 4 * depth
        self._derived.tend()
        if request.explain:
            report = replace(report or _nothing(0), stages=dict(clock.stages))
        return [
            Hits(tuple(answers[at]), question.text, report if request.explain else None)
            for at, question in enumerate(questions)
        ]

    def _found(
        self,
        questions: list[Question],
        request: Request,
        depth: int,
        clock: Clock,
        excluded: Sequence[str],
        transaction: Transaction,
    ) -> Found:
        state = transaction.state(self._id, self._name)
        asked = [question.vectors for question in questions if question.vectors is not None]
        if state.live == 0 or not (asked or request.legs == ("lexical",)):
            empty = [Ranking(np.empty(0, dtype=np.int64), np.empty(0)) for _ in questions]
            return Found(empty, [{} for _ in questions], [True] * len(questions), {}, {}, _nothing(len(questions)))
        options: dict[str, Any] = {}
        if request.filter is not None:
            options["allow"] = self._columns.allowed(transaction, state, request.filter)
            clock.lap("filter")
        hidden = list(transaction.rows_of(state.id, excluded).values()) if excluded else []
        k = max(1, min(depth + len(hidden), state.live))
        legs: list[dict[str, Ranking]] = [{} for _ in questions]
        reports = []
        if "dense" in request.legs:
            matrix = np.concatenate(asked) if len(asked) > 1 else asked[0]
            rows, scores, report = self._live.search(
                transaction, state, matrix, k, recall=request.recall, exact=request.exact, **options
            )
            _sort_in(legs, "dense", [len(one) for one in asked], rows, scores, depth, hidden)
            reports.append(report)
            clock.lap("dense")
        if "lexical" in request.legs:
            texts = [text for question in questions for text in question.texts]
            rows, scores, report = self._text.search(transaction, state, texts, k, **options)
            _sort_in(legs, "lexical", [len(question.texts) for question in questions], rows, scores, depth, hidden)
            reports.append(report)
            clock.lap("lexical")
        keep = request.kept if request.group_by is None else depth
        rankings = [_one(request.fusion, of, keep) for of in legs]
        clock.lap("fuse")
        complete = [
            request.group_by is None or depth >= state.live or all(len(leg.keys) < depth for leg in of.values())
            for of in legs
        ]
        if request.min_score is not None and request.reranker is None:
            for at, one in enumerate(rankings):
                rankings[at] = _at_least(request.min_score, one)
                complete[at] = complete[at] or len(rankings[at].keys) < len(one.keys)
        union = list({row for one in rankings for row in one.keys.tolist()})
        told = "documents" in request.include or request.reranker is not None
        records = transaction.records(state.id, union, documents=told)
        if len(records) < len(union):
            raise Corrupt(
                f"collection {self._name!r} has a vector without a record (row {min(set(union) - set(records))}); "
                "restore it from a backup"
            )
        if request.legs == ("dense", "lexical"):
            for question, of, one in zip(questions, legs, rankings, strict=True):
                of["dense"] = self._completed(of["dense"], question, one, transaction, state)
        drawn = "embeddings" in request.include or request.diversity > 0
        vectors = dict(zip(union, transaction.vectors_of(state, union), strict=True)) if drawn else {}
        clock.lap("fetch")
        return Found(rankings, legs, complete, records, vectors, _together(reports))

    def _completed(
        self, leg: Ranking, question: Question, ranked: Ranking, transaction: Transaction, state: State
    ) -> Ranking:
        """The dense leg with the scores of those that only words have found: so every hit has one."""
        more = np.setdiff1d(ranked.keys, leg.keys)
        if not len(more) or question.vectors is None:
            return leg
        scores = fuse.similarity(question.vectors, transaction.vectors_of(state, more.tolist()), state.metric)
        return Ranking(np.concatenate([leg.keys, more]), np.concatenate([leg.scores, scores.max(axis=0)]))

    # -- what is answered -------------------------------------------------------------------------------------------

    def _worth_reranking(self, found: Found, at: int, request: Request) -> bool:
        """Whether the candidates have as many groups as are wanted: a reranker is dear, and asked once, when they have.

        Beyond the usual number of candidates it gets only those that bring a group more.
        """
        if request.reranker is None or request.group_by is None:
            return True
        ranked, records = found.rankings[at], found.records
        counts: dict[Any, int] = {}
        kept, members = [], 0
        for place, group in enumerate(_groups(ranked, records, request.group_by)):
            if not records[int(ranked.keys[place])].document:
                continue
            counts[group] = counts.get(group, 0) + 1
            new = counts[group] <= request.group_size and members < request.k
            members += new
            if place < request.kept or new:
                kept.append(place)
        if members < request.k and not found.complete[at]:
            return False
        found.rankings[at] = Ranking(ranked.keys[kept], ranked.scores[kept])
        return True

    def _refined(self, found: Found, at: int, text: str | None, request: Request, clock: Clock) -> list[Hit]:
        ranked, records = found.rankings[at], found.records
        first = ranked
        if request.reranker is not None:
            assert text is not None
            ranked = _reranked(request.reranker, text, ranked, records)
            clock.lap("rerank")
            if request.min_score is not None:
                ranked = _at_least(request.min_score, ranked)
        if request.group_by is not None:
            ranked = _grouped(ranked, records, request.group_by, request.group_size)
        if request.diversity > 0 and len(ranked.keys):
            cosines = self._metric == "cosine" and request.legs == ("dense",) and request.reranker is None
            relevance = ranked.scores if cosines else fuse.minmax(ranked.scores)
            vectors = np.stack([found.vectors[row] for row in ranked.keys.tolist()])
            chosen = fuse.mmr(relevance, vectors, request.k, request.diversity)
            ranked = Ranking(ranked.keys[chosen], ranked.scores[chosen])
        parts = dict(found.legs[at])
        if len(request.legs) > 1:
            parts["fused"] = first
        if request.reranker is not None:
            parts["rerank"] = ranked
        return self._hits(found, _first(request.k, ranked), parts, text, request)

    def _hits(
        self, found: Found, ranked: Ranking, parts: dict[str, Ranking], text: str | None, request: Request
    ) -> list[Hit]:
        cosine = self._metric == "cosine" and list(parts) == ["dense"]
        alone, said = next(iter(parts), ""), []
        if len(parts) > 1:
            said = [
                (name, dict(zip(one.keys.tolist(), one.scores.tolist(), strict=True))) for name, one in parts.items()
            ]
        words = text if "lexical" in request.legs and "documents" in request.include else None
        told, meant, drawn = (part in request.include for part in ("documents", "metadatas", "embeddings"))
        hits = []
        for row, score in zip(ranked.keys.tolist(), ranked.scores.tolist(), strict=True):
            record = found.records[row]
            hits.append(
                Hit(
                    record.id,
                    score,
                    1.0 - score if cosine else -score,
                    record.document if told else None,
                    json.loads(record.metadata) if meant else {},
                    found.vectors[row] if drawn else None,
                    {name: scores[row] for name, scores in said if row in scores} if said else {alone: score},
                    tuple(self._text.highlights(record.document, words)) if words and record.document else (),
                )
            )
        return hits


def _nothing(queries: int) -> Report:
    return Report("empty", True, queries, 0, 0, 0, 0, 0.0)


def _together(reports: list[Report]) -> Report:
    """One report of all legs."""
    if len(reports) == 1:
        return reports[0]
    sums = {
        name: sum(getattr(one, name) for one in reports)
        for name in ("rows_scanned", "rows_reread", "bytes_read", "milliseconds", "hops")
    }
    kind = " + ".join(one.kind for one in reports)
    return replace(reports[0], kind=kind, exact=all(one.exact for one in reports), **sums)


def _sort_in(
    legs: list[dict[str, Ranking]],
    name: str,
    counts: list[int],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    depth: int,
    hidden: list[int],
) -> None:
    """Give each question as many lines of a batch's answer as are its own."""
    good = (rows >= 0) & ~np.isin(rows, hidden) if hidden else rows >= 0
    whole, wide = bool(good.all()), scores.astype(np.float64)
    start = 0
    for at, count in enumerate(counts):
        lines = [
            Ranking(rows[line], wide[line]) if whole else Ranking(rows[line][good[line]], wide[line][good[line]])
            for line in range(start, start + count)
        ]
        legs[at][name] = _first(depth, fuse.best_of(lines))
        start += count


def _one(fusion: Fusion, legs: dict[str, Ranking], keep: int) -> Ranking:
    fused = fusion(legs) if len(legs) > 1 else next(iter(legs.values()))
    return _first(keep, fused)


def _first(count: int, ranked: Ranking) -> Ranking:
    return ranked if len(ranked.keys) <= count else Ranking(ranked.keys[:count], ranked.scores[:count])


def _at_least(lowest: float, ranked: Ranking) -> Ranking:
    good = ranked.scores >= lowest
    return Ranking(ranked.keys[good], ranked.scores[good])


def _reranked(reranker: Reranker, text: str, ranked: Ranking, records: dict[int, Stored]) -> Ranking:
    """The same keys by the reranker's scores; equal ones stay as they were. Keys without a document are left out."""
    told = np.array([row for row in ranked.keys.tolist() if records[row].document], dtype=np.int64)
    documents = [records[row].document or "" for row in told.tolist()]
    scores = rerank.scores_of(reranker, text, documents)
    order = np.argsort(-scores, kind="stable")
    return Ranking(told[order], scores[order])


def _grouped(ranked: Ranking, records: dict[int, Stored], group_by: str, size: int) -> Ranking:
    """The best `size` of each group. A record without the field, or with None in it, is a group of its own."""
    counts: dict[Any, int] = {}
    kept = []
    for place, key in enumerate(_groups(ranked, records, group_by)):
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= size:
            kept.append(place)
    return Ranking(ranked.keys[kept], ranked.scores[kept])


def _groups(ranked: Ranking, records: dict[int, Stored], group_by: str) -> list[Any]:
    """The group of every key."""
    values = ((row, json.loads(records[row].metadata).get(group_by)) for row in ranked.keys.tolist())
    return [(row, "alone") if value is None else _hashable(value) for row, value in values]


def _hashable(value: Any) -> Any:
    """Equal for equal values, as filters see it: 1 and 1.0 are equal, 1 and True are not."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else (type(value) is bool, value)
