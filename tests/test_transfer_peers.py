"""The danger: a collection of another engine arrives changed. Each real engine writes, nearfield reads.

Engines that are not installed are passed over; `make test` installs them (the extra "migrate").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfield as nf
from databases import vectors
from nearfield import transfer
from nearfield.errors import InvalidInput, MissingExtra, NotFound, StorageError

pytestmark = pytest.mark.filterwarnings("ignore")  # what the others warn of is not ours to mend

COUNT = 30


@pytest.fixture
def collection(tmp_path: Path) -> Any:
    with nf.open(tmp_path / "x.nf") as db:
        yield db.collection("c", embedder=None)


def arrived(collection: nf.Collection, ids: list[str], expected: Any, *, rtol: float = 0) -> list[nf.Record]:
    records = collection.get(ids, include=["documents", "metadatas", "embeddings"])
    assert collection.count() == len(ids)
    np.testing.assert_allclose(np.stack([r.embedding for r in records]), expected, rtol=rtol, atol=rtol)
    return records


def test_chroma(collection: nf.Collection, tmp_path: Path, monkeypatch: Any) -> None:
    chromadb = pytest.importorskip("chromadb")
    monkeypatch.setattr("nearfield.transfer.peers.ROWS", 7)
    client = chromadb.PersistentClient(
        path=str(tmp_path / "chroma"), settings=chromadb.Settings(anonymized_telemetry=False)
    )
    made = vectors(COUNT)
    ids = [f"id {i}" for i in range(COUNT)]
    client.create_collection("docs", embedding_function=None).add(
        ids=ids,
        embeddings=made,
        documents=[f"text {i}" for i in ids],
        metadatas=[{"n": i, "yes": True} for i in range(COUNT)],
    )
    source = transfer.chroma(tmp_path / "chroma", "docs")
    assert transfer.import_from(collection, source) == (COUNT, 0)
    records = arrived(collection, ids, made)
    assert records[3].document == "text id 3"
    assert records[3].metadata == {"n": 3, "yes": True}
    with pytest.raises(NotFound, match="'docs'"):
        transfer.chroma(tmp_path / "chroma", "other")
    with pytest.raises(NotFound, match="no folder"):
        transfer.chroma(tmp_path / "nowhere", "docs")


@pytest.mark.parametrize("kind", ["Flat", "IDMap,Flat", "IVF4,Flat", "IDMap,IVF4,Flat", "HNSW16", "SQ8", "PQ4x4"])
def test_faiss(collection: nf.Collection, tmp_path: Path, kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    made = vectors(COUNT)
    index = faiss.index_factory(made.shape[1], kind)
    faiss.omp_set_num_threads(1)
    index.train(made)
    numbers = list(range(COUNT))
    if "IDMap" in kind or kind == "IVF4,Flat":
        numbers = [1000 - 7 * i for i in range(COUNT)]
        index.add_with_ids(made, np.array(numbers))
    else:
        index.add(made)
    faiss.write_index(index, str(tmp_path / "f.index"))
    assert transfer.import_from(collection, transfer.faiss(tmp_path / "f.index")) == (COUNT, 0)
    lossy = kind in ("SQ8", "PQ4x4")
    arrived(collection, [str(n) for n in numbers], made, rtol=3.0 if lossy else 0)


def test_names_for_the_vectors_of_faiss(collection: nf.Collection, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(4)
    index.add(vectors(3))
    faiss.write_index(index, str(tmp_path / "f.index"))
    with pytest.raises(InvalidInput, match=r"ids has 2 entries, .* has 3"):
        transfer.faiss(tmp_path / "f.index", ids=["a", "b"])
    transfer.import_from(collection, transfer.faiss(tmp_path / "f.index", ids=["a", "b", "c"]))
    arrived(collection, ["a", "b", "c"], vectors(3))


@pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
def test_hnswlib(collection: nf.Collection, tmp_path: Path, space: str) -> None:
    hnswlib = pytest.importorskip("hnswlib")
    made = vectors(COUNT)
    index = hnswlib.Index(space=space, dim=4)
    index.init_index(COUNT)
    labels = [3 * i for i in range(COUNT)][::-1]
    index.add_items(made, labels)
    index.save_index(str(tmp_path / "h.bin"))
    source = transfer.hnswlib(tmp_path / "h.bin", 4, space=space)
    assert transfer.import_from(collection, source) == (COUNT, 0)
    if space == "cosine":
        made = made / np.linalg.norm(made, axis=1, keepdims=True)
    arrived(collection, [str(label) for label in labels], made, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_usearch(collection: nf.Collection, tmp_path: Path, dtype: str) -> None:
    module = pytest.importorskip("usearch.index")
    made = vectors(COUNT)
    index = module.Index(ndim=4, metric="cos", dtype=dtype)
    keys = np.array([5 * i + 1 for i in range(COUNT)])[::-1].copy()
    index.add(keys, made)
    index.save(str(tmp_path / "u.usearch"))
    assert transfer.import_from(collection, transfer.usearch(tmp_path / "u.usearch")) == (COUNT, 0)
    arrived(collection, [str(key) for key in keys], made, rtol=0 if dtype == "f32" else 1e-2)


@pytest.mark.parametrize("named", [False, True])
def test_qdrant(collection: nf.Collection, tmp_path: Path, named: bool, monkeypatch: Any) -> None:
    module = pytest.importorskip("qdrant_client")
    monkeypatch.setattr("nearfield.transfer.peers.ROWS", 7)
    models = module.models
    made = vectors(COUNT)
    client = module.QdrantClient(path=str(tmp_path / "q"))
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config={"text": size, "image": size} if named else size)
    payloads = [{"n": i, "words": f"text {i}"} for i in range(COUNT)]
    points = [
        models.PointStruct(id=i + 1, vector={"text": row, "image": row[::-1]} if named else row, payload=payloads[i])
        for i, row in enumerate(made.tolist())
    ]
    client.upsert("docs", points)
    client.close()
    name = "text" if named else None
    source = transfer.qdrant(tmp_path / "q", "docs", document="words", vector=name)
    assert transfer.import_from(collection, source) == (COUNT, 0)
    records = arrived(collection, [str(i + 1) for i in range(COUNT)], made)
    assert (records[3].document, records[3].metadata) == ("text 3", {"n": 3})
    if named:
        with pytest.raises(InvalidInput, match="'text', 'image'"):
            transfer.import_from(collection, transfer.qdrant(tmp_path / "q", "docs"))


@pytest.mark.parametrize(
    ("module", "read"),
    [
        ("faiss", transfer.faiss),
        ("hnswlib", lambda path: transfer.hnswlib(path, 4)),
        ("usearch", transfer.usearch),
    ],
)
def test_a_file_that_is_no_index(tmp_path: Path, module: str, read: Any) -> None:
    pytest.importorskip(module)
    (tmp_path / "x").write_bytes(b"garbage " * 100)
    with pytest.raises(StorageError, match=f"(?i)not an(?: index of)? {module}"):
        read(tmp_path / "x")
    with pytest.raises(NotFound, match="no file"):
        read(tmp_path / "y")


def test_an_engine_that_is_not_installed(tmp_path: Path, monkeypatch: Any) -> None:
    import importlib

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("chroma", "faiss", "qdrant", "usearch"):
        arguments = ("docs",) if name in ("chroma", "qdrant") else ()
        with pytest.raises(MissingExtra, match=rf"pip install 'nearfield\[{name}\]'"):
            getattr(transfer, name)(str(tmp_path), *arguments)
