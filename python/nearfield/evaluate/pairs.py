"""How well an embedder tells similar texts from different ones, and from which cosine on texts count as similar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import inputs
from nearfield.embed import EmbedderLike, resolve
from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PairReport:
    """What `evaluate_pairs` found.

    threshold: pairs with this cosine or more count as similar. accuracy, precision, recall, f1: of that decision.
    auc: the chance that a similar pair has a higher cosine than a different one (0.5: by guessing).
    spearman: the rank correlation of cosines and labels. similar, different: the mean cosines of the two kinds.
    """

    pairs: int
    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float
    spearman: float
    similar: float
    different: float

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


def evaluate_pairs(
    embedder: EmbedderLike,
    pairs: Iterable[tuple[str, str, float | bool]],
    *,
    similar: float = 0.5,
    threshold: float | None = None,
) -> PairReport:
    """Measure an embedder on pairs of texts that people called similar or different.

    Args:
        embedder: as `Database.collection` takes it.
        pairs: two texts and a label: True or False, or a grade.
        similar: grades of this and above mean similar.
        threshold: decide by this cosine, for instance the one found on other pairs; None: by the one that makes most
            decisions right on these, which flatters them a little.

    Raises:
        InvalidInput: no pairs, an empty text, or all pairs of one kind.

    Example:
        >>> letters = lambda texts: [[text.count(letter) + 0.01 for letter in "abc"] for text in texts]
        >>> report = evaluate_pairs(letters, [("aa", "a", True), ("bb", "b", True), ("a", "c", False)])
        >>> report.accuracy, report.auc
        (1.0, 1.0)
    """
    found = list(pairs)
    if not found:
        raise InvalidInput("evaluate_pairs() was given no pairs")
    try:
        grades = np.array([label for _, _, label in found], dtype=np.float64)
        texts = sorted({text for first, second, _ in found for text in (first, second)})
    except (TypeError, ValueError):
        raise InvalidInput(
            "pairs must be triples: a text, another text, and a label (True, False or a grade)"
        ) from None
    truth = grades >= similar
    if truth.all() or not truth.any():
        kind = "similar" if truth.all() else "different"
        raise InvalidInput(f"all {len(found)} pairs are {kind} at similar={similar}: both kinds are needed")
    vectors = inputs.vectors(resolve(embedder).encode_documents(texts), None, "vectors").astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    place = {text: at for at, text in enumerate(texts)}
    first, second = [place[text] for text, _, _ in found], [place[text] for _, text, _ in found]
    cosines: NDArray[np.float64] = np.einsum("ij,ij->i", vectors[first], vectors[second])
    bar = best_threshold(cosines, truth) if threshold is None else float(threshold)
    said = cosines >= bar
    right = float((said & truth).sum())
    ranks = _ranks(cosines)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    return PairReport(
        pairs=len(found),
        threshold=bar,
        accuracy=float((said == truth).mean()),
        precision=right / float(said.sum()) if said.any() else 0.0,
        recall=right / positives,
        f1=2 * right / (float(said.sum()) + positives),
        auc=float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)),  # Mann, Whitney
        spearman=_correlation(ranks, _ranks(grades)),
        similar=float(cosines[truth].mean()),
        different=float(cosines[~truth].mean()),
    )


def best_threshold(cosines: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The highest bar, half-way between two cosines, that makes most of the decisions `cosine >= bar` right."""
    order = np.argsort(-cosines, kind="stable")
    ranked, hits = cosines[order], truth[order]
    right = np.concatenate([[0], np.cumsum(hits)]) + (~hits).sum() - np.concatenate([[0], np.cumsum(~hits)])
    possible = np.concatenate([[True], ranked[1:] < ranked[:-1], [True]])  # never between equal cosines
    at = int(np.argmax(np.where(possible, right, -1)))
    if at == 0:
        return float(np.nextafter(ranked[0], np.inf))
    return float((ranked[at - 1] + ranked[at]) / 2) if at < len(ranked) else float(ranked[-1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[at]
    return ranks


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
