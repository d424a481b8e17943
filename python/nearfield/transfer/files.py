"""Files that hold records: JSON Lines, Parquet, and NumPy arrays. Read and written batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from nearfield._optional import require
from nearfield.errors import DiskFull, InvalidInput, NearfieldError, NotFound, StorageError
from nearfield.transfer.batch import Batch, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 4096  # records in a batch
_EMBEDDER = b"nearfield.embedder"  # a key of a Parquet file's metadata

# What the parts of a record are called by those who write such files. The first name is the one nearfield writes.
_NAMES = {
    "id": ("id", "_id", "key"),
    "document": ("document", "text", "contents", "content"),
    "embedding": ("embedding", "vector", "embeddings", "values"),
    "metadata": ("metadata", "payload"),
}


def reader(path: str | os.PathLike[str]) -> Source:
    """The records of a file.

    Raises:
        InvalidInput: an unknown ending. NotFound: there is no such file. StorageError: it cannot be read.
    """
    file = Path(path)
    read = _FORMATS[_format(file)][0]
    if not file.is_file():
        raise NotFound(f"there is no file {file}")
    return read(file)


def writer(path: str | os.PathLike[str]) -> Callable[[Source], None]:
    """What writes records to a file, which appears when it is complete.

    Raises:
        InvalidInput: an unknown ending.
    """
    file = Path(path)
    return partial(_FORMATS[_format(file)][1], file)


def _format(path: Path) -> str:
    if (ending := path.suffix.lower()) not in _FORMATS:
        raise InvalidInput(f"{path} ends with {ending or 'nothing'!r}; use one of {', '.join(_FORMATS)}")
    return ending


# -- JSON Lines -----------------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> Source:
    return Source(_batched(_lines(path)))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with _readable(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as error:  # of the encoding, or of the syntax
                raise InvalidInput(f"{path}, line {number} is not JSON ({error}); mend it and import again") from None
            if not isinstance(found, dict):
                raise InvalidInput(f"{path}, line {number} must be an object, got {type(found).__name__}")
            yield _record(found, f"{path.stem}#{number}", f"{path}, line {number}")


def _write_jsonl(path: Path, source: Source) -> None:
    with _replacing(path) as file:
        for batch in source:
            for id, document, metadata, embedding in _rows(batch):
                record: dict[str, Any] = {"id": id, "document": document, "metadata": metadata}
                if embedding is not None:
                    record["embedding"] = embedding.astype(np.float64).tolist()  # each float32 as it is
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


# -- NumPy ----------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Source:
    with _readable(path):
        try:
            vectors: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise StorageError(f"{path} is not a NumPy array: {error}") from error
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise InvalidInput(f"{path} must hold numbers of shape (n, dimension), got {vectors.dtype} {vectors.shape}")
    beside = path.with_suffix(".jsonl")
    records = _lines(beside) if beside.is_file() else _numbered(path.stem, len(vectors))

    def batches() -> Iterator[Batch]:
        at = 0
        for batch in _batched(records):
            piece = vectors[at : (at := at + len(batch))]
            if len(piece) < len(batch):
                raise InvalidInput(f"{beside} has more records than {path}, which has {len(vectors)}")
            yield Batch(batch.ids, batch.documents, batch.metadatas, np.array(piece, dtype=np.float32))
        if at < len(vectors):
            raise InvalidInput(f"{beside} has {at} records, {path} has {len(vectors)}: there must be one for each row")

    return Source(batches())


def _numbered(stem: str, rows: int) -> Iterator[dict[str, Any]]:
    for row in range(rows):
        yield {"id": f"{stem}#{row}", "document": None, "metadata": {}, "embedding": None}


def _write_npy(path: Path, source: Source) -> None:
    shape = (0, 0)

    def header() -> dict[str, Any]:
        return {"descr": "<f4", "fortran_order": False, "shape": shape}

    with _replacing(path) as file, _replacing(path.with_suffix(".jsonl")) as beside:
        np.lib.format.write_array_header_1_0(file, header())  # written again below: NumPy leaves room for larger n
        start = file.tell()
        for batch in source:
            vectors = batch.matrix()
            if vectors is None:
                raise InvalidInput(f"{path} holds embeddings: export them, or choose another format")
            if shape[0] == 0:
                shape = (0, vectors.shape[1])
            file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
            shape = (shape[0] + len(vectors), shape[1])
            for id, document, metadata, _ in _rows(batch):
                line = {"id": id, "document": document, "metadata": metadata}
                beside.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header())
        assert file.tell() == start


# -- Parquet --------------------------------------------------------------------------------------------------------


def _arrow() -> tuple[Any, Any]:
    what = {"extra": "parquet", "purpose": "a .parquet file"}
    return require("pyarrow", **what), require("pyarrow.parquet", **what)


def _read_parquet(path: Path) -> Source:
    arrow, parquet = _arrow()
    with _readable(path):
        try:
            file = parquet.ParquetFile(path)
        except arrow.ArrowInvalid as error:
            raise StorageError(f"{path} is not a Parquet file: {error}") from error
    identity = (file.schema_arrow.metadata or {}).get(_EMBEDDER)

    def batches() -> Iterator[Batch]:
        numbers = count()
        with _readable(path), file:
            for table in file.iter_batches(batch_size=ROWS):
                vectors = _arrow_vectors(arrow, table)
                plain = table.drop_columns([vectors[0]]) if vectors is not None else table
                rows = plain.to_pylist()
                found = [
                    _record(row, f"{path.stem}#{n}", f"{path}, row {n}") for row, n in zip(rows, numbers, strict=False)
                ]
                batch = _batch(found)
                if vectors is not None:
                    batch = Batch(batch.ids, batch.documents, batch.metadatas, vectors[1])
                yield batch

    return Source(batches(), embedder=identity.decode() if identity else None)


def _arrow_vectors(arrow: Any, table: Any) -> tuple[str, NDArray[np.float32]] | None:
    """The column of embeddings, if there is one without gaps, without a Python object for every number."""
    for name in _NAMES["embedding"]:
        if name not in table.schema.names:
            continue
        column = table.column(name)
        if column.null_count or not (
            arrow.types.is_list(column.type)
            or arrow.types.is_fixed_size_list(column.type)
            or arrow.types.is_large_list(column.type)
        ):
            return None
        flat = column.flatten()
        lengths = set(np.unique(column.value_lengths().to_numpy(zero_copy_only=False)).tolist()) if len(column) else {0}
        if flat.null_count or len(lengths) != 1:
            return None
        return name, flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(column), -1)
    return None


def _write_parquet(path: Path, source: Source) -> None:
    arrow, parquet = _arrow()
    with _replacing(path) as file:
        out = None
        schema = None
        for batch in source:
            vectors = batch.matrix()
            if schema is None:
                fields = [("id", arrow.string()), ("document", arrow.string()), ("metadata", arrow.string())]
                if vectors is not None:
                    fields.append(("embedding", arrow.list_(arrow.float32(), vectors.shape[1])))
                schema = arrow.schema(fields)
                if source.embedder is not None:
                    schema = schema.with_metadata({_EMBEDDER: source.embedder.encode()})
                out = parquet.ParquetWriter(file, schema, compression="zstd")
            columns = [
                arrow.array(list(batch.ids), arrow.string()),
                arrow.array(list(batch.documents), arrow.string()),
                arrow.array([json.dumps(fields, ensure_ascii=False) for fields in batch.metadatas], arrow.string()),
            ]
            if vectors is not None:
                flat = arrow.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
                columns.append(arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
            assert out is not None
            out.write_batch(arrow.record_batch(columns, schema=schema))
        if out is None:  # no records: a file all the same
            names = ("id", "document", "metadata")
            out = parquet.ParquetWriter(file, arrow.schema([(name, arrow.string()) for name in names]))
        out.close()


# -- what they share ------------------------------------------------------------------------------------------------


def _record(found: dict[str, Any], id: str, where: str) -> dict[str, Any]:
    """The parts of a record under nearfield's names; what has another name is metadata."""
    parts: dict[str, Any] = {}
    for part, names in _NAMES.items():
        name = next((name for name in names if found.get(name) is not None), None)
        parts[part] = None if name is None else found[name]
        if name is not None:
            found = {key: value for key, value in found.items() if key != name}
    metadata = parts["metadata"]
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            raise InvalidInput(f"{where}: metadata must be an object, got the text {metadata[:60]!r}") from None
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidInput(f"{where}: metadata must be an object, got {type(metadata).__name__}")
    written = set(_NAMES) & set(found)  # a part that is there, and null
    others = {key: _plain(value) for key, value in found.items() if key not in written and value is not None}
    document, embedding = parts["document"], parts["embedding"]
    if document is not None and not isinstance(document, str):
        raise InvalidInput(f"{where}: the document must be text, got {type(document).__name__}")
    if embedding is not None:
        try:
            embedding = np.asarray(embedding, dtype=np.float32)
        except (TypeError, ValueError):
            raise InvalidInput(f"{where}: the embedding must be a list of numbers") from None
    identity = id if parts["id"] is None else str(parts["id"])
    return {"id": identity, "document": document, "metadata": {**(metadata or {}), **others}, "embedding": embedding}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (datetime, date)) else value


def _batch(records: list[dict[str, Any]]) -> Batch:
    return Batch(*([record[part] for record in records] for part in ("id", "document", "metadata", "embedding")))


def _batched(records: Iterator[dict[str, Any]]) -> Iterator[Batch]:
    some: list[dict[str, Any]] = []
    for record in records:
        some.append(record)
        if len(some) == ROWS:
            yield _batch(some)
            some = []
    if some:
        yield _batch(some)


def _rows(batch: Batch) -> Iterator[tuple[str, str | None, Any, NDArray[np.float32] | None]]:
    return zip(batch.ids, batch.documents, batch.metadatas, batch.embeddings, strict=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name, which takes its place when all is on the disk; after an error it is gone."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, NearfieldError):
            full = error.errno in (28, 122)  # ENOSPC, EDQUOT
            raise (DiskFull if full else StorageError)(
                f"{path} cannot be written: {error.strerror or error}; what was there before is as it was"
            ) from error
        raise


_FORMATS: dict[str, tuple[Callable[[Path], Source], Callable[[Path, Source], None]]] = {
    ".parquet": (_read_parquet, _write_parquet),
    ".jsonl": (_read_jsonl, _write_jsonl),
    ".npy": (_read_npy, _write_npy),
}
