"""A collection: records (id, document, metadata, vector) that are searched by meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from nearfield import compaction, filters, inputs
from nearfield.derived import Derived, ahead
from nearfield.encoding import Encoder
from nearfield.fields import F
from nearfield.reading import Reader
from nearfield.request import Request, SearchOptions
from nearfield.searching import Searcher
from nearfield.store import Store
from nearfield.transaction import State
from nearfield.types import Hits, Metadata, Metric, OrderBy, Record, Scalar, Where
from nearfield.verbs import Verbs
from nearfield.writing import Writer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from nearfield.embed import Embedder, EmbedderLike
    from nearfield.fuse import Fusion
    from nearfield.rerank import Reranker


class Collection(Verbs):
    """Records of one database under one name. Made by `Database.collection()`, not directly.

    It may be used from many threads, after a fork, and, pickled, in other processes. All methods raise `Closed` after
    the database was closed, `NotFound` after the collection was dropped, and a `StorageError` when the disk fails;
    a method that raises has changed nothing.
    """

    def __init__(
        self,
        store: Store,
        derived: Derived,
        state: State,
        embedder: EmbedderLike | None,
        reopen: Callable[..., Collection],
    ) -> None:
        self._store = store
        self._id = state.origin
        self._name = state.name
        self._metric: Metric = inputs.metric(state.metric)
        self._reopen = reopen
        self._encoder = Encoder(embedder, state)
        self._reader = Reader(store, derived, state)
        self._writer = Writer(store, derived, self._reader, self._encoder, state)
        self._derived = derived
        self._searcher = Searcher(store, derived, self._encoder, state)

    @property
    def name(self) -> str:
        """The name, as it is now."""
        return self._state().name

    @property
    def metric(self) -> Metric:
        """cosine, dot or l2."""
        return self._metric

    @property
    def dimension(self) -> int | None:
        """The length of the vectors; None before the first one, unless it was given."""
        return self._state().dimension

    @property
    def language(self) -> str:
        """Of the words in lexical and hybrid search, such as "english"; "none" where they are taken as they are."""
        with self._store.reading() as transaction:
            return transaction.language(transaction.state(self._id, self._name))

    @property
    def embedder(self) -> Embedder | None:
        """What turns texts into vectors here; None when the collection was opened with embedder=None."""
        return self._encoder.embedder

    @property
    def embedder_identity(self) -> str | None:
        """The identity of the embedder that made the vectors; None when they were given, or there are none."""
        return self._state().embedder

    def __repr__(self) -> str:
        return f"<Collection {self._name!r}: {self._metric}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(self._reopen, embedder=self._encoder.spec), (self.name,)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        documents: str | Iterable[str | None] | None = None,
        *,
        ids: str | Iterable[str] | None = None,
        embeddings: ArrayLike | None = None,
        metadatas: Metadata | Iterable[Metadata | None] | None = None,
    ) -> list[str]:
        """Add new records; when this returns they are on the disk and in every process's next search.

        Args:
            documents: texts. Without embeddings, the collection's embedder makes their vectors.
            ids: strings, new to the collection. Left out, they are made: unique, and ascending in time.
            embeddings: vectors, shape (n, dimension), kept as float32. The first ones decide the dimension.
            metadatas: dictionaries of str, int, float, bool, None, date, datetime, and lists and dictionaries of
                these. Dates are kept as ISO 8601 texts.

        A single text, id, vector or dictionary stands for a list of one.

        Returns:
            The ids, in the order of the records.

        Raises:
            AlreadyExists: an id is in the collection.
            InvalidInput: anything else that is wrong with the arguments; EmbedderMismatch: the vectors in the
                collection were made by another embedder.

        Example:
            >>> docs.add(["Dogs chase cats."], ids=["dogs"], metadatas=[{"year": 1999}])
            ['dogs']
        """
        return self._writer.put(documents, ids, embeddings, metadatas, replace=False)

    def upsert(
        self,
        documents: str | Iterable[str | None] | None = None,
        *,
        ids: str | Iterable[str] | None = None,
        embeddings: ArrayLike | None = None,
        metadatas: Metadata | Iterable[Metadata | None] | None = None,
    ) -> list[str]:
        """Like `add`, but a record whose id exists is replaced as a whole: what is not given is gone."""
        return self._writer.put(documents, ids, embeddings, metadatas, replace=True)

    def update(
        self,
        ids: str | Iterable[str],
        *,
        documents: str | Iterable[str | None] | None = None,
        embeddings: ArrayLike | None = None,
        metadatas: Metadata | Iterable[Metadata | None] | None = None,
    ) -> None:
        """Change parts of existing records; what is not given, or given as None in a list, stays.

        A new document is embedded anew, unless its vector is given too or the collection holds vectors only.
        Metadata is replaced as a whole, not merged.

        Raises:
            NotFound: naming ids that do not exist.
            InvalidInput: as `add`.

        Example:
            >>> docs.update("cat", metadatas={"year": 2000})
        """
        self._writer.update(ids, documents, embeddings, metadatas)

    def adopt(self, identity: str) -> None:
        """Say which embedder made the vectors that will be given: texts are then embedded with that one only.

        For vectors that were computed elsewhere, in a collection that is still empty.

        Args:
            identity: as `Collection.embedder_identity` tells it.

        Raises:
            EmbedderMismatch: the collection has vectors of another embedder.
            InvalidInput: it has vectors that were given, whose embedder nobody knows.
        """
        self._writer.adopt(identity)

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        where: Where | None = None,
        where_document: Where | None = None,
    ) -> int:
        """Remove records by id, or all that match the filters, or (both given) those of the ids that match.

        Returns:
            How many records were removed. An id that does not exist counts as nothing; it is not an error.

        Raises:
            InvalidInput: neither was given, or a filter is wrong, or matches everything by being empty.
        """
        return self._writer.delete(ids, where, where_document)

    def compact(self) -> bool:
        """Rewrite the collection without what was deleted or replaced, and give its room on the disk back.

        Also build the graph of a large collection, if that has not been done in the background yet: a process that
        searches builds it beside its searches, which are exact until then.

        Others read and write meanwhile; the order of the records and all answers stay the same. While it works it needs
        little memory beside the indexes that it makes ready, and room on the disk for a second copy. Killed at any
        moment, it has done nothing.

        It begins by itself, in the background, after a write that leaves more rows dead than alive, 10,000 at least;
        closing the database ends it early. Programs that run for moments only had better call this now and then.

        Returns:
            False when there was nothing to gain.

        Raises:
            Locked: another process is compacting or repairing this database, and has been for 30 seconds.
            Corrupt: the collection is damaged; it was left as it is.
        """
        worth = compaction.compact(self._store, self._id, self._name, before=ahead(self._store))
        self._derived.index.build(self._state().id)
        return worth

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        where: Where | None = None,
        where_document: Where | None = None,
        order_by: OrderBy | None = None,
        limit: int | None = None,
        offset: int = 0,
        include: Sequence[str] = ("documents", "metadatas"),
    ) -> list[Record]:
        """Records by id, in the order asked, or all of them, oldest first; of these, those that match.

        "Oldest" is the age of the vector: a record whose vector was replaced moves to the end.

        Args:
            ids: ids that must exist. None: all records.
            where, where_document: filters, see `docs/filters.md`.
            order_by: a field to sort by, or several, the first one first: `"year"`, or `"-year"` to descend. Numbers
                come before dates, other texts, truth values. Records without a value come last, also in descent.
                Equal ones: oldest first.
            limit, offset: how many to return (None: all), and how many to pass over first.
            include: any of "documents", "metadatas", "embeddings".

        Raises:
            NotFound: naming ids that do not exist.
            InvalidInput: a filter or another argument is wrong.

        Example:
            >>> [record.document for record in docs.get(where={"year": {"$lt": 2005}}, order_by="-year", limit=10)]
        """
        start = inputs.not_negative(offset, "offset")
        return self._reader.get(
            ids=None if ids is None else inputs.ids(ids, unique=False),
            filter=filters.parse(where, where_document),
            order=[] if order_by is None else inputs.order(order_by),
            start=start,
            stop=None if limit is None else start + inputs.not_negative(limit, "limit"),
            include=inputs.include(include),
        )

    def scan(
        self,
        *,
        where: Where | None = None,
        where_document: Where | None = None,
        include: Sequence[str] = ("documents", "metadatas"),
        batch: int = 1000,
    ) -> Iterator[list[Record]]:
        """All records, or those that match, oldest first, a list of `batch` at a time: memory holds one list.

        What comes is the collection as it was at the first list, whatever is written meanwhile.

        Raises:
            InvalidInput: as `get`.

        Example:
            >>> sum(len(records) for records in docs.scan(batch=100))
            2
        """
        return self._reader.scan(
            filters.parse(where, where_document), inputs.include(include), inputs.positive(batch, "batch")
        )

    def known(self, ids: str | Iterable[str]) -> set[str]:
        """Those of `ids` that the collection has.

        Example:
            >>> docs.known(["cat", "unicorn"])
            {'cat'}
        """
        return self._reader.known(inputs.ids(ids, unique=False))

    def peek(self, n: int = 10) -> list[Record]:
        """The n oldest records."""
        return self.get(limit=n)

    def count(self, where: Where | None = None, *, where_document: Where | None = None) -> int:
        """How many records there are, or how many match the filters."""
        return self._reader.count(filters.parse(where, where_document))

    def facet(
        self,
        field: str | F,
        where: Where | None = None,
        *,
        where_document: Where | None = None,
        limit: int | None = None,
    ) -> list[tuple[Scalar, int]]:
        """The values of a metadata field, and how many records have each: the most frequent first.

        A record with a list counts once for each different element; one without the field counts nowhere. Numbers that
        are equal are one value. Equally frequent ones stand in the order of `order_by`.

        Args:
            field: its name or dotted path.
            where, where_document: count only in records that match.
            limit: at most so many values.

        Example:
            >>> dict(docs.facet("language", where={"year": {"$gte": 1990}}))
            {'en': 2}
        """
        most = None if limit is None else inputs.not_negative(limit, "limit")
        return self._reader.facet(inputs.field(field, "field"), filters.parse(where, where_document), most)

    @overload
    def search(self, query: str, k: int = 10, **options: Unpack[SearchOptions]) -> Hits: ...
    @overload
    def search(
        self, query: list[str] | tuple[str, ...], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[Hits]: ...
    @overload
    def search(self, query: Any, k: int = 10, **options: Unpack[SearchOptions]) -> Any: ...
    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        where: Where | None = None,
        where_document: Where | None = None,
        min_score: float | None = None,
        mode: str = "dense",
        fusion: str | Fusion = "rrf",
        negative: Any = None,
        combine: str | None = None,
        rerank: str | Reranker | None = None,
        diversity: float = 0.0,
        group_by: str | None = None,
        group_size: int = 1,
        candidates: int | None = None,
        include: Sequence[str] = ("documents", "metadatas"),
        recall: float | None = None,
        exact: bool = False,
        explain: bool = False,
    ) -> Any:
        """The k records nearest to the query, best first; every record acknowledged before the call is considered.

        Args:
            query: a text or a vector of shape (dimension,); or a list of texts, or an array (q, dimension).
            k: how many answers; fewer come back only when fewer records match.
            where, where_document: only records that match these, see `docs/filters.md`.
            min_score: leave out answers whose `Hit.score` is lower.
            mode: "dense", by the vectors; "lexical", by the words (BM25); "hybrid", by both.
            fusion: how a hybrid search makes one ranking of two: "rrf", "weighted", or see `nearfield.fuse`.
            negative: texts or vectors that answers should be unlike; see `nearfield.fuse.blend`.
            combine: take several queries as one: "mean", by the mean of their vectors; "max", a record counts by the
                query that it fits best.
            rerank: a function (query, texts) -> scores that ranks the candidates anew, see `nearfield.rerank`.
            diversity: over 0 and up to 1: choose answers that differ from one another (maximal marginal relevance).
            group_by: a field of the metadata; at most `group_size` answers have the same value of it.
            candidates: how many records are fused, reranked, grouped or diversified; None: 5 k, at least 100.
            include: what hits carry: any of "documents", "metadatas", "embeddings".
            recall: the share of the true answers to be found, in (0, 1]; None leaves it to the engine.
            exact: demand the exact answer.
            explain: fill `Hits.report` with what was done.

        Returns:
            `Hits` for one query, a list of `Hits` for several.

        Raises:
            InvalidInput: an argument is wrong (k < 1, an empty text, another dimension, NaN, an unknown operator),
                or the collection holds vectors only and the query is a text.
            EmbedderMismatch: the collection was filled by another embedder.

        Example:
            >>> for hit in docs.search("a feline resting on a rug", k=3, where={"year": {"$lt": 2005}}):
            ...     print(f"{hit.score:.3f}  {hit.document}")
            0.566  The cat sat on the mat.
            >>> docs.search(["king", "woman"], negative=["man"], combine="mean", k=1)
            >>> docs.search("cats", k=5, diversity=0.3, group_by="language")
        """
        request = Request.checked(
            k,
            where=where,
            where_document=where_document,
            min_score=min_score,
            mode=mode,
            fusion=fusion,
            negative=negative,
            combine=combine,
            rerank=rerank,
            diversity=diversity,
            group_by=group_by,
            group_size=group_size,
            candidates=candidates,
            include=include,
            recall=recall,
            exact=exact,
            explain=explain,
        )
        return self._searcher.search(query, request)

    def similar(self, ids: Any, k: int = 10, **options: Unpack[SearchOptions]) -> Hits:
        """The k records most like those given, which are not among the answers: "more like this".

        Args:
            ids: an id, a vector, or a list of both.
            k: how many answers.
            **options: as `search`; here `negative` takes ids and vectors, and `combine` is "mean" unless it is "max".

        Raises:
            NotFound: an id does not exist. InvalidInput: as `search`.

        Example:
            >>> docs.similar("cat", k=5)
            >>> docs.similar(["cat"], negative=["stocks"], k=20, where={"year": {"$lt": 2005}})
        """
        options["combine"] = options.get("combine") or "mean"
        return self._searcher.similar(ids, Request.checked(k, **options))

    # -- within -----------------------------------------------------------------------------------------------------

    def _state(self) -> State:
        with self._store.reading() as transaction:
            return transaction.state(self._id, self._name)
