"""What a search is asked for: its options, checked before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from nearfield import filters, fuse, inputs, rerank
from nearfield.errors import InvalidInput
from nearfield.filters import Filter
from nearfield.fuse import Fusion
from nearfield.rerank import Reranker
from nearfield.types import Where

MODES = {"dense": ("dense",), "lexical": ("lexical",), "hybrid": ("dense", "lexical")}
_COMBINATIONS = ("mean", "max")
_CANDIDATES = 100


class SearchOptions(TypedDict, total=False):
    """What `Collection.search` takes by name."""

    where: Where | None
    where_document: Where | None
    min_score: float | None
    mode: str
    fusion: str | Fusion
    negative: Any
    combine: str | None
    rerank: str | Reranker | None
    diversity: float
    group_by: str | None
    group_size: int
    candidates: int | None
    include: Sequence[str]
    recall: float | None
    exact: bool
    explain: bool


@dataclass(frozen=True, slots=True)
class Request:
    """How many answers, of which records, and how: checked before anything is done."""

    k: int
    legs: tuple[str, ...]
    filter: Filter | None
    min_score: float | None
    fusion: Fusion
    negative: Any
    combine: str | None
    reranker: Reranker | None
    diversity: float
    group_by: str | None
    group_size: int
    candidates: int
    include: frozenset[str]
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
        mode, combine = options.get("mode", "dense"), options.get("combine")
        if mode not in MODES:
            raise InvalidInput(f"unknown mode {mode!r}; there is {', '.join(map(repr, MODES))}")
        if combine is not None and combine not in _COMBINATIONS:
            raise InvalidInput(f"combine must be 'mean', 'max' or None, got {combine!r}")
        diversity = inputs.number(options.get("diversity", 0.0), "diversity") or 0.0
        if not 0 <= diversity <= 1:
            raise InvalidInput(f"diversity must be from 0 to 1, got {diversity!r}")
        group_by, reranker = options.get("group_by"), options.get("rerank")
        if group_by is not None:
            filters.check_field(group_by, "group_by")
        wanted = options.get("candidates")
        return cls(
            k=k,
            legs=MODES[mode],
            filter=filters.parse(options.get("where"), options.get("where_document")),
            min_score=inputs.number(options.get("min_score"), "min_score"),
            fusion=fuse.fusion(options.get("fusion", "rrf")),
            negative=options.get("negative"),
            combine=combine,
            reranker=None if reranker is None else rerank.resolve(reranker),
            diversity=diversity,
            group_by=group_by,
            group_size=inputs.positive(options.get("group_size", 1), "group_size"),
            candidates=max(_CANDIDATES, 5 * k) if wanted is None else max(k, inputs.positive(wanted, "candidates")),
            include=frozenset(inputs.include(options.get("include", ("documents", "metadatas")))),
            recall=inputs.share(options.get("recall"), "recall"),
            exact=bool(options.get("exact")),
            explain=bool(options.get("explain")),
        )

    @property
    def kept(self) -> int:
        """How many of the fused ranking take part in what follows."""
        refined = self.reranker is not None or self.diversity > 0 or self.group_by is not None
        return self.candidates if refined else self.k
