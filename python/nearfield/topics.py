"""What a collection is about, what stands in it twice, and what belongs to nothing in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import inputs
from nearfield.errors import InvalidInput
from nearfield.index import Index
from nearfield.sparse import SparseIndex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from nearfield.collection import Collection
    from nearfield.types import Record, Where

_PAGE = 20_000
_WORD = re.compile(r"[^\W\d_]{3,}")
_ABOVE = 0.2  # how much more often than by chance a keyword's documents are in its topic, of 1
_ROUNDS = 50  # of k-means: it has mostly settled after 20


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of records with a common meaning.

    Attributes:
        number: from 0 on, the largest group first.
        keywords: words that are more frequent here than elsewhere, the best first; empty without documents.
        ids: of the records, the nearest to the middle first.
        examples: the documents nearest to the middle.
    """

    number: int
    keywords: tuple[str, ...]
    ids: tuple[str, ...]
    examples: tuple[str, ...]

    @property
    def label(self) -> str:
        """A short name: the three best keywords."""
        return ", ".join(self.keywords[:3]) or f"topic {self.number}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return {**asdict(self), "label": self.label, "size": len(self.ids)}


@dataclass(frozen=True, slots=True)
class Outlier:
    """A record far from the others: `score` is the mean cosine to its nearest neighbours."""

    id: str
    score: float
    document: str | None


def topics(
    collection: Collection, k: int | None = None, *, where: Where | None = None, keywords: int = 8, seed: int = 0
) -> list[Topic]:
    """Group the records of a collection by meaning: spherical k-means on their vectors, labelled by class TF-IDF.

    Args:
        k: how many groups; None: √(n / 2), at most 50. Groups that stay empty are left out.
        where: only records that match.
        keywords: how many words a topic is described by.
        seed: of the first centres; the same seed gives the same topics.

    Raises:
        InvalidInput: an argument is wrong.

    Keywords follow Grootendorst, "BERTopic" (arXiv 2203.05794): frequency in the topic × log(1 + words a topic /
    frequency in all), times how far the documents with the word keep to the topic. Stop words of the collection's
    language are none, and of words with one stem the best stands for all.

    Example:
        >>> for topic in topics(docs, k=5):
        ...     print(len(topic.ids), topic.label)
    """
    count = inputs.positive(keywords, "keywords")
    groups = None if k is None else inputs.positive(k, "k")
    records, vectors = _records(collection, where)
    if not records:
        return []
    groups = min(groups or max(2, min(50, round(math.sqrt(len(records) / 2)))), len(records))
    assigned, scores = kmeans(vectors, groups, seed=seed)
    sizes = np.bincount(assigned, minlength=groups)
    order = [int(group) for group in np.argsort(-sizes, kind="stable") if sizes[group]]
    members = []
    for group in order:
        rows = np.flatnonzero(assigned == group)
        members.append(rows[np.argsort(-scores[rows], kind="stable")])
    language = collection.language
    rules = SparseIndex(language=None if language == "none" else language)
    words = _keywords([[records[row].document or "" for row in rows] for rows in members], count, rules)
    return [
        Topic(
            number,
            words[number],
            tuple(records[row].id for row in rows),
            tuple(text for row in rows[:3] if (text := records[row].document)),
        )
        for number, rows in enumerate(members)
    ]


def duplicates(collection: Collection, threshold: float = 0.95, *, where: Where | None = None) -> list[list[str]]:
    """Groups of ids whose vectors are nearly the same: each has a cosine of `threshold` to another of its group.

    Exact: no pair is missed. The largest group comes first; in a group the oldest record does.

    Raises:
        InvalidInput: `threshold` is not over 0 and at most 1.
    """
    least = inputs.share(threshold, "threshold")
    assert least is not None
    records, vectors = _records(collection, where)
    one, other, _ = near_pairs(vectors, least)
    leader = np.arange(len(records))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = int(leader[row])
        return row

    for first, second in zip(one.tolist(), other.tolist(), strict=True):
        low, high = sorted((find(first), find(second)))
        leader[high] = low
    groups: dict[int, list[str]] = {}
    for row in sorted({*one.tolist(), *other.tolist()}):
        groups.setdefault(find(row), []).append(records[row].id)
    return sorted(groups.values(), key=len, reverse=True)


def outliers(collection: Collection, n: int = 10, *, neighbours: int = 10, where: Where | None = None) -> list[Outlier]:
    """The n records least like their nearest neighbours, the strangest first.

    Raises:
        InvalidInput: an argument is wrong.
    """
    wanted, around = inputs.positive(n, "n"), inputs.positive(neighbours, "neighbours")
    records, vectors = _records(collection, where)
    if len(records) < 2:
        return []
    index = Index(vectors.shape[1], "cosine")
    index.add(vectors)
    found, scores = index.search(vectors, k=min(around + 1, len(records)))
    others = np.where(found == np.arange(len(records))[:, None], np.nan, scores)
    means = np.nanmean(others, axis=1)
    order = np.argsort(means, kind="stable")[:wanted]
    return [Outlier(records[row].id, float(means[row]), records[row].document) for row in order.tolist()]


def near_pairs(
    vectors: ArrayLike, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """All pairs of rows with a cosine of `threshold` or more: an exact self-join.

    Args:
        vectors: shape (n, dimension).

    Returns:
        Rows i and j with i < j, int64, and their cosines, float32, each of shape (pairs,), ordered by i, then j.

    Example:
        >>> i, j, cosine = near_pairs([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]], 0.9)
        >>> i.tolist(), j.tolist(), f"{cosine[0]:.3f}"
        ([0], [2], '0.999')
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise InvalidInput(f"vectors must have the shape (n, dimension), got {matrix.shape}")
    nothing = np.empty(0, dtype=np.int64)
    if len(matrix) < 2:
        return nothing, nothing.copy(), np.empty(0, dtype=np.float32)
    index = Index(matrix.shape[1], "cosine")
    index.add(matrix)
    pairs: list[NDArray[np.int64]] = []
    cosines: list[NDArray[np.float32]] = []
    open_rows, k = np.arange(len(matrix)), min(8, len(matrix))
    while len(open_rows):  # of most rows a few neighbours suffice; the others are asked for more
        again: list[NDArray[np.int64]] = []
        for start in range(0, len(open_rows), _PAGE):
            rows = open_rows[start : start + _PAGE]
            found, scores = index.search(matrix[rows], k=k)
            full = (scores[:, -1] >= threshold) & (k < len(matrix))
            again.append(rows[full])
            good = (scores >= threshold) & (found > rows[:, None]) & ~full[:, None]
            at, _ = np.nonzero(good)
            pairs.append(np.stack([rows[at], found[good]], axis=1))
            cosines.append(scores[good])
        open_rows, k = np.concatenate(again), min(k * 8, len(matrix))
    joined, values = np.concatenate(pairs), np.concatenate(cosines)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return joined[order, 0], joined[order, 1], values[order]


def kmeans(vectors: ArrayLike, k: int, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Spherical k-means (Dhillon and Modha 2001), begun as in k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        vectors: shape (n, dimension), k ≤ n.

    Returns:
        The group of each row, int64 (n,), and its cosine to the middle of its group, float32 (n,).
    """
    rows = np.array(vectors, dtype=np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    random = np.random.default_rng(seed)
    centres = np.empty((k, rows.shape[1]), dtype=np.float32)
    nearest = np.full(len(rows), -np.inf, dtype=np.float32)
    for group in range(k):
        far = np.maximum(1.0 - nearest.astype(np.float64), 0.0) if group else np.ones(len(rows))
        total = far.sum()
        chosen = random.choice(len(rows), p=far / total) if total > 0 else random.integers(len(rows))
        centres[group] = rows[chosen]
        nearest = np.maximum(nearest, rows @ centres[group])
    assigned = np.full(len(rows), -1, dtype=np.int64)
    for _ in range(_ROUNDS):
        likeness = rows @ centres.T
        now = likeness.argmax(axis=1)
        if (now == assigned).all():
            break
        assigned = now
        for group in range(k):
            middle = rows[assigned == group].sum(axis=0, dtype=np.float64)
            if (length := np.linalg.norm(middle)) > 0:  # an empty group keeps its centre
                centres[group] = middle / length
    return assigned, np.take_along_axis(likeness, assigned[:, None], axis=1)[:, 0]


def _keywords(groups: Sequence[Sequence[str]], count: int, rules: SparseIndex) -> list[tuple[str, ...]]:
    frequency: list[Counter[str]] = []  # of a word in a group
    holders: list[Counter[str]] = []  # documents of a group that have the word
    for texts in groups:
        tokens = [_WORD.findall(text.casefold()) for text in texts]
        frequency.append(Counter(word for words in tokens for word in words))
        holders.append(Counter(word for words in tokens for word in set(words)))
    total, everywhere = Counter[str](), Counter[str]()
    for one, other in zip(frequency, holders, strict=True):
        total.update(one)
        everywhere.update(other)
    documents, mean = sum(map(len, groups)), sum(total.values()) / max(1, len(groups))

    def weight(group: int, word: str) -> float:
        usual = len(groups[group]) / documents
        here = holders[group][word] / everywhere[word]  # of the documents with the word
        above = 1.0 if usual == 1 else (here - usual) / (1 - usual)
        return frequency[group][word] * math.log(1 + mean / total[word]) * above if above >= _ABOVE else 0.0

    best = []
    for group, words in enumerate(frequency):
        weighed = sorted((-weight(group, word), word) for word in words if weight(group, word) > 0)
        by_stem: dict[str, str] = {}
        for _, word in weighed:
            for stem in rules.terms(word)[:1]:
                by_stem.setdefault(stem, word)
            if len(by_stem) == count:
                break
        best.append(tuple(by_stem.values()))
    return best


def _records(collection: Collection, where: Where | None) -> tuple[list[Record], NDArray[np.float32]]:
    pages = collection.scan(where=where, include=["documents", "embeddings"], batch=_PAGE)
    records = [record for page in pages for record in page]
    vectors = [record.embedding for record in records if record.embedding is not None]
    return records, np.stack(vectors) if vectors else np.empty((0, collection.dimension or 1), dtype=np.float32)
