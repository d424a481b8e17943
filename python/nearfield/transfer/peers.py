"""What other engines wrote, read through their own public Python APIs, as a `Source` for `import_from`.

Each function needs its engine installed, says so otherwise, and reads batch by batch where the engine allows it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._optional import require
from nearfield.errors import InvalidInput, NotFound, StorageError
from nearfield.transfer.batch import Batch, Source
from nearfield.transfer.files import ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def chroma(path: str | os.PathLike[str], collection: str) -> Source:
    """A collection of a Chroma database in a folder: ids, documents, metadatas and embeddings.

    Raises:
        MissingExtra: chromadb is not installed. NotFound: there is no such folder or collection.

    Example:
        >>> transfer.import_from(docs, transfer.chroma("chroma-folder", "docs"))
    """
    chromadb = require("chromadb", extra="chroma", purpose="reading a Chroma database")
    path = _there(path, folder=True)
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(path=path, settings=settings)
    names = [found.name for found in client.list_collections()]
    if collection not in names:
        raise NotFound(f"{path} has no Chroma collection {collection!r}; it has: {', '.join(map(repr, names)) or '-'}")
    records = client.get_collection(collection, embedding_function=None)

    def batches() -> Iterator[Batch]:
        parts = ["documents", "metadatas", "embeddings"]
        offset = 0
        while (got := records.get(limit=ROWS, offset=offset, include=parts))["ids"]:
            offset += len(got["ids"])
            fields = [dict(found or {}) for found in got["metadatas"]]
            yield Batch(got["ids"], got["documents"], fields, np.asarray(got["embeddings"], dtype=np.float32))

    return Source(batches())


def faiss(path: str | os.PathLike[str], *, ids: Sequence[str] | None = None) -> Source:
    """The vectors of an index that `faiss.write_index` wrote, as the index can reconstruct them.

    A quantised index (IVFPQ, SQ) gives back what it kept, not the vectors it was given.

    Args:
        path: the file.
        ids: one for each vector, in the order they were added. Default: faiss's own numbers.

    Raises:
        MissingExtra: faiss-cpu is not installed. NotFound, StorageError: the file is missing, or not an index.
        InvalidInput: the index cannot reconstruct vectors, or ids are too few or too many.

    Example:
        >>> transfer.import_from(docs, transfer.faiss("vectors.faiss"))
    """
    faiss = require("faiss", extra="faiss", purpose="reading a FAISS index")
    path = _there(path)
    try:
        index = faiss.read_index(path)
    except RuntimeError as error:
        raise StorageError(f"{path} is not an index of FAISS: {str(error).splitlines()[0]}") from None
    inner = faiss.downcast_index(index)
    numbers = None
    if hasattr(inner, "id_map"):  # IndexIDMap: the vectors are in the index below it, in their order
        numbers = faiss.vector_to_array(inner.id_map)
        inner = faiss.downcast_index(inner.index)
    keys = np.arange(index.ntotal)
    if hasattr(inner, "invlists"):  # an IVF index knows its vectors by the ids they were added with
        keys = _of_lists(faiss, inner)
        inner.set_direct_map_type(faiss.DirectMap.Hashtable)
    names = _names(ids, keys if numbers is None else numbers, path)

    def get(rows: NDArray[np.int64], owner: Any = index) -> NDArray[np.float32]:  # `inner` is a view into its owner
        try:
            return np.asarray(inner.reconstruct_batch(keys[rows]), dtype=np.float32)
        except RuntimeError:
            raise InvalidInput(f"{path}: a FAISS {type(inner).__name__} cannot give its vectors back") from None

    return Source(_vectors(names, get))


def hnswlib(
    path: str | os.PathLike[str], dimension: int, *, space: str = "cosine", ids: Sequence[str] | None = None
) -> Source:
    """The vectors of an index that `hnswlib.Index.save_index` wrote; for "cosine" it kept them at length 1.

    Args:
        path: the file.
        dimension, space: as the index was made with ("cosine", "ip" or "l2"): the file does not tell them.
        ids: one for each vector, in the order of hnswlib's labels. Default: the labels.

    Raises:
        MissingExtra: hnswlib is not installed. NotFound, StorageError: the file is missing, or not such an index.
        InvalidInput: ids are too few or too many.

    Example:
        >>> transfer.import_from(docs, transfer.hnswlib("vectors.bin", 384))
    """
    hnswlib = require("hnswlib", extra="hnswlib", purpose="reading an hnswlib index")
    path = _there(path)
    try:
        index = hnswlib.Index(space=space, dim=dimension)
        index.load_index(path)
    except RuntimeError as error:
        raise StorageError(f"{path} is not an hnswlib index of {dimension} dimensions: {error}") from None
    labels = np.sort(np.asarray(index.get_ids_list(), dtype=np.int64))
    names = _names(ids, labels, path)

    def get(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(index.get_items(labels[rows]), dtype=np.float32)

    return Source(_vectors(names, get))


def usearch(path: str | os.PathLike[str], *, ids: Sequence[str] | None = None) -> Source:
    """The vectors of an index that `usearch.index.Index.save` wrote, in the precision it kept.

    Args:
        path: the file.
        ids: one for each vector, in the order of usearch's keys. Default: the keys.

    Raises:
        MissingExtra: usearch is not installed. NotFound, StorageError: the file is missing, or not such an index.
        InvalidInput: ids are too few or too many.

    Example:
        >>> transfer.import_from(docs, transfer.usearch("vectors.usearch"))
    """
    module = require("usearch.index", extra="usearch", purpose="reading a usearch index")
    path = _there(path)
    try:
        index = module.Index.restore(path, view=True)
    except Exception as error:  # usearch raises bare exceptions of several kinds
        raise StorageError(f"{path} is not an index of usearch: {error}") from None
    if index is None:
        raise StorageError(f"{path} is not an index of usearch")
    keys = np.sort(np.asarray(index.keys, dtype=np.uint64))
    names = _names(ids, keys, path)

    def get(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(index.get(keys[rows], dtype=np.float32), dtype=np.float32)

    return Source(_vectors(names, get))


def qdrant(client: Any, collection: str, *, document: str = "document", vector: str | None = None) -> Source:
    """A collection of Qdrant: point ids, payloads and vectors.

    Args:
        client: a `qdrant_client.QdrantClient`, or the path of a local database.
        collection: its name.
        document: the payload's field that holds the text, if there is one.
        vector: which of several named vectors.

    Raises:
        MissingExtra: qdrant-client is not installed. NotFound: there is no such folder or collection.
        InvalidInput: the collection has several vectors and none was named, or has no such one.

    Example:
        >>> transfer.import_from(docs, transfer.qdrant("qdrant-folder", "docs", document="text"))
    """
    owned = isinstance(client, (str, os.PathLike))
    if owned:
        module = require("qdrant_client", extra="qdrant", purpose="reading a Qdrant collection")
        client = module.QdrantClient(path=_there(client, folder=True))
    if not client.collection_exists(collection):
        names = ", ".join(repr(found.name) for found in client.get_collections().collections) or "-"
        raise NotFound(f"Qdrant has no collection {collection!r}; it has: {names}")

    def batches() -> Iterator[Batch]:
        offset = None
        try:
            while True:
                points, offset = client.scroll(
                    collection, limit=ROWS, offset=offset, with_vectors=True, with_payload=True
                )
                payloads = [dict(point.payload or {}) for point in points]
                texts = [payload.pop(document, None) for payload in payloads]
                vectors = np.asarray([_named(point.vector, vector, collection) for point in points], dtype=np.float32)
                if points:
                    yield Batch([str(point.id) for point in points], texts, payloads, vectors)
                if offset is None:
                    return
        finally:
            if owned:
                client.close()

    return Source(batches())


def _named(vectors: Any, name: str | None, collection: str) -> Any:
    """The vector of a point, which has one, or several by name."""
    if not isinstance(vectors, dict):
        return vectors
    if name is None and len(vectors) == 1:
        return next(iter(vectors.values()))
    if name not in vectors:
        there = ", ".join(map(repr, vectors))
        raise InvalidInput(f"the points of {collection!r} have the vectors {there}; give vector=, got {name!r}")
    return vectors[name]


def _of_lists(faiss: Any, index: Any) -> NDArray[np.int64]:
    """The ids in the lists of an IVF index."""
    lists = index.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(at), lists.list_size(at)).copy()
        for at in range(lists.nlist)
        if lists.list_size(at)
    ]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def _there(path: str | os.PathLike[str], *, folder: bool = False) -> str:
    if not (os.path.isdir(path) if folder else os.path.isfile(path)):
        raise NotFound(f"there is no {'folder' if folder else 'file'} {os.fspath(path)}")
    return os.fspath(path)


def _names(ids: Sequence[str] | None, numbers: NDArray[Any], path: str) -> list[str]:
    if ids is None:
        return [str(number) for number in numbers.tolist()]
    if len(ids) != len(numbers):
        raise InvalidInput(f"ids has {len(ids)} entries, {path} has {len(numbers)} vectors")
    return list(ids)


def _vectors(names: Sequence[str], get: Any) -> Iterator[Batch]:
    """Batches of vectors alone; `get` gives those of the rows it is asked for."""
    for start in range(0, len(names), ROWS):
        some = names[start : start + ROWS]
        vectors = get(np.arange(start, start + len(some), dtype=np.int64))
        yield Batch(some, [None] * len(some), [{}] * len(some), vectors)
