"""Filling a database: records a second until they are durable and searchable, against Chroma, LanceDB and zvec.

    pip install chromadb lancedb zvec
    python benchmarks/ingest.py --rows 1000000

A record has an id, a vector of 384 dimensions, a document of 200 characters and five metadata fields. Each contender is
given the same batches as fast as it takes them, each in a process of its own; making the batches is not counted. The
clock stops when all is given and one query has been answered, with its documents and metadata. Not every engine puts on
the disk what it has acknowledged: after the clock has stopped all files are synced, and the time this takes stands
beside; "kept" is the ratio with it. Rounds are interleaved; a figure is the median of its rounds. Memory is the peak of
the process beyond what it held before the first batch. A contender that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DIMENSION, BATCH = 384, 10_000
WORDS = [f"{a}{b}{c}" for a in ("sal", "ver", "mon", "tir") for b in ("a", "e", "ond", "ul") for c in ("n", "ta", "sk")]


class Batch(NamedTuple):
    ids: list[str]
    vectors: NDArray[np.float32]
    documents: list[str]
    metadatas: list[dict[str, Any]]


def batches(rows: int, size: int) -> Iterator[Batch]:
    """The same records for everyone."""
    rng = np.random.default_rng(0)
    for first in range(0, rows, size):
        numbers = range(first, min(first + size, rows))
        words = rng.integers(len(WORDS), size=(len(numbers), 40))
        yield Batch(
            [f"record-{n:08d}" for n in numbers],
            rng.standard_normal((len(numbers), DIMENSION), dtype=np.float32),
            [" ".join(WORDS[w] for w in row)[:200] for row in words],
            [
                {
                    "year": 1950 + n % 75,
                    "price": n / 7,
                    "lang": ("en", "de", "fr")[n % 3],
                    "new": n % 5 == 0,
                    "tag": f"t{n % 1000}",
                }
                for n in numbers
            ],
        )


Fill = Callable[[Batch], None]
Finish = Callable[[NDArray[np.float32]], str]  # makes it durable, asks, and returns the id of the first answer


def nearfield(folder: str) -> tuple[Fill, Finish]:
    import nearfield as nf

    docs = nf.open(folder + "/nf").collection("docs", embedder=None)

    def fill(batch: Batch) -> None:
        docs.add(batch.documents, ids=batch.ids, embeddings=batch.vectors, metadatas=batch.metadatas)

    return fill, lambda query: docs.search(query, k=10)[0].id


def chroma(folder: str) -> tuple[Fill, Finish]:
    import chromadb

    client = chromadb.PersistentClient(folder, settings=chromadb.Settings(anonymized_telemetry=False))
    docs = client.create_collection("docs", embedding_function=None, metadata={"hnsw:space": "cosine"})
    most = client.get_max_batch_size()

    def fill(batch: Batch) -> None:
        for at in range(0, len(batch.ids), most):
            ids, vectors, documents, metadatas = (column[at : at + most] for column in batch)
            docs.add(ids=ids, embeddings=vectors, documents=documents, metadatas=metadatas)

    return fill, lambda query: docs.query(query_embeddings=[query], n_results=10)["ids"][0][0]


def lancedb(folder: str) -> tuple[Fill, Finish]:
    import lancedb as peer
    import pyarrow as pa

    db = peer.connect(folder)
    table = None

    def fill(batch: Batch) -> None:
        nonlocal table
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.ravel()), DIMENSION)
        columns = {"id": batch.ids, "vector": vectors, "document": batch.documents}
        columns |= {key: [fields[key] for fields in batch.metadatas] for key in batch.metadatas[0]}
        data = pa.table(columns)
        if table is None:
            table = db.create_table("docs", data)
        else:
            table.add(data)

    def finish(query: NDArray[np.float32]) -> str:
        assert table is not None
        return str(table.search(query).distance_type("cosine").limit(10).to_list()[0]["id"])

    return fill, finish


def zvec(folder: str) -> tuple[Fill, Finish]:
    import zvec as peer

    kinds = peer.DataType
    fields = {"document": kinds.STRING, "year": kinds.INT64, "price": kinds.DOUBLE, "lang": kinds.STRING}
    fields |= {"new": kinds.BOOL, "tag": kinds.STRING}
    schema = peer.CollectionSchema(
        "docs",
        fields=[peer.FieldSchema(name, kind) for name, kind in fields.items()],
        vectors=[
            peer.VectorSchema(
                "v", kinds.VECTOR_FP32, DIMENSION, index_param=peer.FlatIndexParam(metric_type=peer.MetricType.COSINE)
            )
        ],
    )
    docs = peer.create_and_open(folder + "/zvec", schema)

    def fill(batch: Batch) -> None:
        made = [
            peer.Doc(id=id, vectors={"v": vector}, fields={"document": document, **fields})
            for id, vector, document, fields in zip(*batch, strict=True)
        ]
        for at in range(0, len(made), 1024):  # it takes no more at once
            for status in docs.insert(made[at : at + 1024]):
                assert status.ok(), status

    def finish(query: NDArray[np.float32]) -> str:
        docs.flush()
        return str(docs.query(peer.Query(field_name="v", vector=query), topk=10)[0].id)

    return fill, finish


CONTENDERS = {"nearfield": nearfield, "chroma": chroma, "lancedb": lancedb, "zvec": zvec}


def run(name: str, rows: int) -> dict[str, Any]:
    """Fill a fresh database in this process."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("NEARFIELD_BENCH_DIR")) as folder:
        fill, finish = CONTENDERS[name](folder)
        query = next(batches(1, 1)).vectors[0]
        before, seconds = _peak(), 0.0
        for batch in batches(rows, BATCH):
            if not seconds:
                query = batch.vectors[17]
                before = _peak()
            started = time.perf_counter()
            fill(batch)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        found = finish(query)
        asked = time.perf_counter() - started
        memory = _peak() - before
        assert found == "record-00000017", found
        synced = _sync(Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {"seconds": seconds + asked, "first_query": asked, "sync": synced, "memory": memory, "disk": size}


def one_by_one(count: int = 300) -> dict[str, float]:
    """Milliseconds of a durable `add` of one record, and of an fsync of as many bytes, turn by turn."""
    import nearfield as nf

    added, synced = [], []
    with tempfile.TemporaryDirectory(dir=os.environ.get("NEARFIELD_BENCH_DIR")) as folder:
        docs = nf.open(folder + "/nf").collection("docs", embedder=None)
        with open(folder + "/file", "wb") as file:
            for batch in batches(count, 1):
                started = time.perf_counter()
                docs.add(batch.documents, ids=batch.ids, embeddings=batch.vectors, metadatas=batch.metadatas)
                added.append(time.perf_counter() - started)
                started = time.perf_counter()
                file.write(batch.vectors.tobytes())
                file.flush()
                os.fsync(file.fileno())
                synced.append(time.perf_counter() - started)
    return {"add_ms": 1000 * statistics.median(added), "fsync_ms": 1000 * statistics.median(synced)}


def _sync(folder: Path) -> float:
    """Seconds until all that is in a folder is on the disk."""
    started = time.perf_counter()
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - started


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(run(options.child, options.rows)))
    there = {"chroma": "chromadb"}
    names = [name for name in options.only if importlib.util.find_spec(there.get(name, name))]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            command = [sys.executable, __file__, "--child", name, "--rows", str(options.rows)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
    figures = {
        name: {key: statistics.median(round[key] for round in found) for key in found[0]}
        for name, found in rounds.items()
    }
    raw = options.rows * DIMENSION * 4
    print(f"{options.rows:,} records of {DIMENSION} dimensions, medians of {options.rounds} rounds\n")
    print(
        f"{'':12}{'records/s':>12}{'nearfield is':>14}{'sync':>8}{'kept':>8}{'first query':>13}{'memory':>9}{'disk':>7}"
    )
    for name, found in figures.items():
        ours = figures.get("nearfield", found)
        ratio = found["seconds"] / ours["seconds"]
        kept = (found["seconds"] + found["sync"]) / (ours["seconds"] + ours["sync"])
        print(
            f"{name:12}{options.rows / found['seconds']:>12,.0f}{ratio:>13.1f}x{found['sync']:>6.1f} s{kept:>7.1f}x"
            f"{found['first_query']:>11.2f} s"
            f"{found['memory'] / raw:>8.1f}x{found['disk'] / raw:>6.1f}x"
        )
    single = one_by_one()
    print(f"\none durable add: {single['add_ms']:.2f} ms; one fsync: {single['fsync_ms']:.2f} ms (medians)")
    if options.out:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        result = {
            "rows": options.rows,
            "rounds": options.rounds,
            "machine": machine,
            "figures": figures,
            "single": single,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
