"""The values that cross the public surface: plain, frozen, and free of any engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metric: TypeAlias = Literal["cosine", "dot", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")

Scalar: TypeAlias = str | int | float | bool | None
Metadata: TypeAlias = Mapping[str, Any]  # scalars, dates, and lists and mappings of these
Where: TypeAlias = Mapping[str, Any]
OrderBy: TypeAlias = Any  # a field by name, "-name", F(name), -F(name), or a sequence of these


class FileRows(NamedTuple):
    """Vectors in a file: `rows` of them, C-ordered little-endian float32, from byte `start` on.

    `chosen` are the only ones that count, ascending from 0; None: all.
    """

    path: str | os.PathLike[str]
    start: int
    rows: int
    chosen: NDArray[np.uint32] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One stored record. `embedding` (float32, shape (dimension,)) is there when it was asked for."""

    id: str
    document: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps` (the embedding as a list, if it is there)."""
        return _plain(self)


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. `score` is what it was ranked by, better when higher: in a dense search the cosine (in [-1, 1]), the
    dot product, or minus the Euclidean distance; else BM25, the fused score, or the reranker's.

    `distance` is the same fact for those who think in distances: 1 - cosine, or minus the score.
    `scores` has what each leg and stage said of it: "dense", "lexical", "fused", "rerank". `highlights` has where words
    of the query stand in the document: (start, end), so that `document[start:end]` is the word.
    """

    id: str
    score: float
    distance: float
    document: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    scores: dict[str, float] = field(default_factory=dict)
    highlights: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps` (the embedding as a list, if it is there)."""
        return _plain(self)

    def marked(self, before: str = "**", after: str = "**") -> str:
        """The document with its highlights between two marks.

        Example:
            >>> Hit("cat", 1.0, 0.0, "The cat sat.", highlights=((4, 7),)).marked("<b>", "</b>")
            'The <b>cat</b> sat.'
        """
        parts, end = [], 0
        text = self.document or ""
        for first, last in self.highlights:
            parts += [text[end:first], before, text[first:last], after]
            end = last
        return "".join([*parts, text[end:]])


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `Database.verify` found damaged. `repairable`: `Database.repair` mends it, and nothing is lost.

    `file` is absolute. `ids` are those of the records that are damaged, where these are known, and `rows` theirs.
    """

    file: Path
    what: str
    repairable: bool
    collection: str | None = None
    ids: tuple[str, ...] = ()
    rows: tuple[int, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        where = f"collection {self.collection!r}, " if self.collection is not None else ""
        return f"{where}{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a search did, in counts that do not depend on the machine, and the time it took.

    rows_scanned: rows whose code was scored. rows_reread: rows whose full vector was read. hops: nodes of a graph whose
    neighbours were looked at. effort: how far an approximate search went, in the unit of its kind (width of a walk),
    0 for an exact one. expected: share of the true answers that this effort found when it was measured.
    bytes_read: bytes of codes, factors and vectors read; of several threads each looks closer at a few rows that the
    others could have told it to pass over, so it differs a little. For a batch, all figures are of the whole batch.
    plan: the way that was chosen: "scan" of all codes, "gather" (of those allowed alone), "walk" through a graph,
    "sweep" (over the graph's short codes of those allowed), or "probe" of lists or tables; ", then scan" or ", then
    sweep" where these found too little for some queries, as many as `rescued`.
    stages: milliseconds of each stage of a collection's search: embed, filter, dense, fuse, fetch, rerank; of an index
    that walks or sweeps: encode (the query), walk, look (closer, at what was found), summed over the threads.
    """

    kind: str
    exact: bool
    queries: int
    rows_scanned: int
    rows_reread: int
    bytes_read: int
    threads: int
    milliseconds: float
    hops: int = 0
    effort: int = 0
    expected: float = 1.0
    stages: dict[str, float] = field(default_factory=dict, compare=False)
    plan: str = ""
    rescued: int = 0

    @property
    def nanoseconds_per_row(self) -> float:
        """Time of a walk per row it scored; 0 where there was none."""
        return 1e6 * self.stages.get("walk", 0.0) / max(self.rows_scanned, 1)

    @property
    def nanoseconds_per_hop(self) -> float:
        """Time of a walk per node whose neighbours were looked at; 0 where there was none."""
        return 1e6 * self.stages.get("walk", 0.0) / max(self.hops, 1)


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """The answers to one query, best first. A sequence of `Hit` that prints as a table."""

    hits: tuple[Hit, ...] = ()
    query: str | None = None
    report: Report | None = field(default=None, repr=False, compare=False)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def ids(self) -> list[str]:
        """The ids, best first."""
        return [hit.id for hit in self.hits]

    @property
    def scores(self) -> list[float]:
        """The scores, best first."""
        return [hit.score for hit in self.hits]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dictionary a hit, ready for `json.dumps`."""
        return [hit.to_dict() for hit in self.hits]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, one row a hit; fields and scores as columns `metadata.<field>`, `scores.<leg>`."""
        from nearfield._optional import require

        pandas = require("pandas", extra="pandas", purpose="Hits.to_pandas()")
        rows = []
        for hit in self.hits:
            row = hit.to_dict()
            for group in ("metadata", "scores"):
                row.update({f"{group}.{key}": value for key, value in row.pop(group).items()})
            rows.append(row)
        return pandas.DataFrame(rows, columns=None if rows else ["id", "score", "distance", "document"])

    def __repr__(self) -> str:
        head = f"{len(self.hits)} hits" + (f" for {_shorten(self.query, 40)!r}" if self.query is not None else "")
        lines = [
            f"  {rank:>3}  {hit.score:>8.4f}  {_shorten(hit.id, 24):<24}  {_shorten(hit.document or '', 80)}".rstrip()
            for rank, hit in enumerate(self.hits, 1)
        ]
        return "\n".join([f"<Hits: {head}>", *lines])


def _plain(item: Record | Hit) -> dict[str, Any]:
    names = [name for name in item.__slots__ if name != "embedding"]
    plain = {name: getattr(item, name) for name in names}
    if item.embedding is not None:
        plain["embedding"] = item.embedding.tolist()
    return plain


def _shorten(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
