"""Some records on their way in or out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.errors import InvalidInput
from nearfield.types import Metadata, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Records column by column, all of one length; `embeddings` rows are None where a record has none."""

    ids: Sequence[str]
    documents: Sequence[str | None]
    metadatas: Sequence[Metadata]
    embeddings: Sequence[NDArray[np.float32] | None] | NDArray[np.float32]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Batch:
        return cls(
            [record.id for record in records],
            [record.document for record in records],
            [record.metadata for record in records],
            [record.embedding for record in records],
        )

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, places: Sequence[int]) -> Batch:
        """The records at these places."""
        if len(places) == len(self):
            return self
        columns: list[Any] = [self.ids, self.documents, self.metadatas, self.embeddings]
        return Batch(*([column[at] for at in places] for column in columns))

    def parts(self) -> Iterator[Batch]:
        """The records that have an embedding, then those that must be embedded: each a batch, if there are any.

        Raises:
            InvalidInput: a record has neither an embedding nor a document.
        """
        given = [at for at, vector in enumerate(self.embeddings) if vector is not None]
        rest = sorted(set(range(len(self))).difference(given))
        for at in rest:
            if self.documents[at] is None:
                raise InvalidInput(f"the record {self.ids[at]!r} has neither a document nor an embedding")
        for places in filter(None, (given, rest)):
            yield self.only(places)

    def matrix(self) -> NDArray[np.float32] | None:
        """The embeddings, shape (n, dimension); None when the records have none.

        Raises:
            InvalidInput: they differ in length.
        """
        if not len(self) or self.embeddings[0] is None:
            return None
        if isinstance(self.embeddings, np.ndarray):
            return self.embeddings
        lengths = [len(vector) for vector in self.embeddings if vector is not None]
        for name, length in zip(self.ids, lengths, strict=True):
            if length != lengths[0]:
                raise InvalidInput(
                    f"the embedding of record {name!r} has {length} dimensions, those before it {lengths[0]}"
                )
        return np.asarray(self.embeddings, dtype=np.float32)


class Source:
    """Batches, once, and the identity of the embedder that made their vectors where that is known."""

    def __init__(self, batches: Iterable[Batch], *, embedder: str | None = None) -> None:
        self._batches = batches
        self.embedder = embedder

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)
