"""Where does a search lose? What of it is the model's, the quantiser's, the index's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import inputs
from nearfield.collection import Collection
from nearfield.errors import InvalidInput
from nearfield.evaluate.metrics import ndcg
from nearfield.evaluate.retrieval import judged_queries
from nearfield.fuse import similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_PAGE = 20_000


@dataclass(frozen=True, slots=True)
class Loss:
    """The way from a perfect ranking (nDCG 1) to the answers that were served: ndcg = 1 - model - quantiser - index.

    model: what even exact search of unrounded vectors loses. quantiser: what exact search of the collection, with what
    it stores and computes, loses beyond that. index: what the search as it was asked for loses beyond that.
    agreement: the share of the exact first k that was served. A negative loss is luck: an error that did good.
    """

    k: int
    queries: int
    ndcg: float
    model: float
    quantiser: float
    index: float
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


def split_loss(
    collection: Collection,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    k: int = 10,
    recall: float | None = None,
    full: Mapping[str, ArrayLike] | None = None,
) -> Loss:
    """Split the loss of nDCG@k of dense searches into the model's, the quantiser's and the index's.

    Three rankings are compared: the search as asked for (`recall`), the same with exact=True, and a float64 scan of the
    vectors in NumPy. The last one takes time: it reads every vector.

    Args:
        collection: what is searched.
        queries, qrels: as `evaluate`.
        k: at how many answers.
        recall: passed to the first search.
        full: the vectors by id as the model made them; None: as the collection keeps them.

    Raises:
        InvalidInput: no query has a relevant document, or the collection has no embedder.

    Example:
        >>> split_loss(docs, {"q1": "a pet"}, {"q1": {"cat": 1}}).index
        0.0
    """
    k = inputs.positive(k, "k")
    known, _ = judged_queries(queries, qrels)
    embedder = collection.embedder
    if embedder is None:
        raise InvalidInput(
            f"collection {collection.name!r} was opened with embedder=None; split_loss() needs its model"
        )
    vectors = inputs.vectors(embedder.encode_queries([queries[id] for id in known]), collection.dimension, "queries")
    served = [hits.ids for hits in collection.search(vectors, k, recall=recall, include=())]
    exact = [hits.ids for hits in collection.search(vectors, k, exact=True, include=())]
    scanned = _scanned(collection, vectors.astype(np.float64), k, full)

    def mean(answers: list[list[str]]) -> float:
        return float(np.mean([ndcg(ids, qrels[query], k) for query, ids in zip(known, answers, strict=True)]))

    shares = [len({*one} & {*other}) / max(1, len(other)) for one, other in zip(served, exact, strict=True)]
    ends = mean(scanned), mean(exact), mean(served)
    return Loss(k, len(known), ends[2], 1 - ends[0], ends[0] - ends[1], ends[1] - ends[2], float(np.mean(shares)))


def _scanned(
    collection: Collection, queries: NDArray[np.float64], k: int, full: Mapping[str, ArrayLike] | None
) -> list[list[str]]:
    """The ids of the k best for each query, by a float64 scan; equal scores by age."""
    best: list[list[tuple[float, int, str]]] = [[] for _ in queries]
    for first, ids, vectors in _pages(collection, full):
        scores = similarity(queries, vectors, collection.metric)
        for line, kept in zip(scores, best, strict=True):
            top = np.argsort(-line, kind="stable")[:k]
            kept += [(-float(line[at]), first + int(at), ids[at]) for at in top]
            kept.sort()
            del kept[k:]
    return [[id for _, _, id in kept] for kept in best]


def _pages(
    collection: Collection, full: Mapping[str, ArrayLike] | None
) -> Iterator[tuple[int, list[str], NDArray[np.float64]]]:
    wanted = ("embeddings",) if full is None else ()
    for first in range(0, collection.count(), _PAGE):
        records = collection.get(limit=_PAGE, offset=first, include=wanted)
        ids = [record.id for record in records]
        if full is None:
            rows = [record.embedding for record in records]
        elif missing := [id for id in ids if id not in full]:
            raise InvalidInput(f"full has no vector for {missing[0]!r} ({len(missing)} are missing)")
        else:
            rows = [np.asarray(full[id]) for id in ids]
        yield first, ids, np.asarray(rows, dtype=np.float64)
