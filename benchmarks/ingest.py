"""Filling a database: records a second until they are durable and searchable, against Chroma, LanceDB and zvec.

    pip install chromadb lancedb zvec
    python benchmarks/ingest.py --rows 1000000

A record has an id, a vector of 384 dimensions, a document of 200 characters and five metadata fields. Each contender is
given the same batches as fast as it takes them, each in a process of its own. Making the batches is not counted, though
threads may catch up in that time: "whole" is the ratio with it. The clock stops when all is given and one query has
been answered, with its documents and metadata. Not every engine puts on the disk what it has acknowledged: how often
each asked for that is counted by strace (in a smaller run); after the clock has stopped all files are synced, and the
time this takes stands beside; "kept" is the ratio with it. Rounds are interleaved, their order turns, and figures are
medians of them. Memory is the peak of the process beyond what it held before the first batch; for nearfield the graph,
which a thread begins to build at the first query, is waited for after the clock has stopped, and the peak until then
stands beside. A contender that is not installed is left out, and one that took longer than `--patience` seconds is not
asked again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data import clustered

DIMENSION, BATCH = 384, 10_000
WORDS = [f"{a}{b}{c}" for a in ("sal", "ver", "mon", "tir") for b in ("a", "e", "ond", "ul") for c in ("n", "ta", "sk")]


class Batch(NamedTuple):
    ids: list[str]
    vectors: NDArray[np.float32]
    documents: list[str]
    metadatas: list[dict[str, Any]]


POOL = 8  # batches that are made anew; the others are made of these, in no time


def batches(rows: int, size: int) -> Iterator[Batch]:
    """The same records for everyone. No two vectors are the same."""
    rng = np.random.default_rng(0)
    count = min(size, rows)
    pool, _, _ = clustered(POOL * count, 1, DIMENSION)
    documents = [[_document(words) for words in rng.integers(len(WORDS), size=(count, 40))] for _ in range(POOL)]
    for at, first in enumerate(range(0, rows, size)):
        numbers = range(first, min(first + size, rows))
        place = at % POOL * count
        vectors = pool[place : place + len(numbers)].copy()
        if at >= POOL:  # moved by some of the difference of others, as `data.real` does it
            for sign, start in zip((0.15, -0.15), rng.integers((POOL - 1) * count, size=2), strict=True):
                for piece in range(0, len(numbers), 1000):
                    end = min(piece + 1000, len(numbers))
                    vectors[piece:end] += np.float32(sign) * pool[start + piece : start + end]
        yield Batch(
            [f"record-{n:08d}" for n in numbers],
            vectors,
            documents[at % POOL][: len(numbers)],
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


def _document(words: NDArray[np.int64]) -> str:
    return " ".join(WORDS[word] for word in words)[:200]


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
        seconds, cpu, before, begun, query = 0.0, 0.0, 0, 0.0, None
        for batch in batches(rows, BATCH):
            if query is None:
                query = batch.vectors[17].copy()
                _forget_peak()
                before = _peak()
                begun = time.perf_counter()
            started, worked = time.perf_counter(), time.process_time()
            fill(batch)
            seconds += time.perf_counter() - started
            cpu += time.process_time() - worked
        assert query is not None
        started, worked = time.perf_counter(), time.process_time()
        found = finish(query)
        asked = time.perf_counter() - started
        whole = time.perf_counter() - begun
        cpu += time.process_time() - worked
        memory = _peak() - before
        assert found == "record-00000017", found
        synced = _sync(Path(folder))
        for thread in threading.enumerate():
            if thread.name == "nearfield index":
                thread.join()
        built = _peak() - before
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    figures = {"seconds": seconds + asked, "first_query": asked, "sync": synced, "memory": memory, "disk": size}
    return figures | {"memory_until_built": built, "cpu": cpu, "whole": whole}


def syncs(name: str, rows: int) -> int | None:
    """How often a contender asks the system to put something on the disk, while it takes so many records."""
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile("r") as counts:
        strace = [
            "strace",
            "-f",
            "-qq",
            "-o",
            counts.name,
            "-e",
            "trace=fsync,fdatasync,msync,sync,syncfs",  # not sync_file_range, which promises nothing
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*strace, *_child(name, rows, "--fill-only")], **quiet, check=True)
        return sum(re.match(r"\d+ +\w*sync\w*\(", line) is not None for line in counts)


def fill_only(name: str, rows: int) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("NEARFIELD_BENCH_DIR")) as folder:
        fill, _ = CONTENDERS[name](folder)
        for batch in batches(rows, BATCH):
            fill(batch)


def _child(name: str, rows: int, *more: str) -> list[str]:
    return [sys.executable, __file__, "--child", name, "--rows", str(rows), *more]


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
    """Bytes this process held at the most, since `_forget_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    """Making the records took memory too. Where it cannot be forgotten, the figure is too small."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=600)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--fill-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.fill_only:
            return fill_only(options.child, options.rows)
        return print(json.dumps(run(options.child, options.rows)))
    there = {"chroma": "chromadb"}
    names = [name for name in options.only if importlib.util.find_spec(there.get(name, name))]
    load = [os.getloadavg()[0]]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if any(round["seconds"] > options.patience for round in rounds[name]):
                continue
            done = subprocess.run(_child(name, options.rows), stdout=subprocess.PIPE, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {options.rows / rounds[name][-1]['seconds']:,.0f} records/s", file=sys.stderr)
    load.append(os.getloadavg()[0])
    counted = {name: syncs(name, 5 * BATCH) for name in names}
    figures = {
        name: {key: statistics.median(round[key] for round in found) for key in found[0]}
        for name, found in rounds.items()
    }
    raw = options.rows * DIMENSION * 4
    print(f"{options.rows:,} records of {DIMENSION} dimensions, medians of {options.rounds} rounds, load {load}\n")
    print(
        f"{'':12}{'records/s':>12}{'nearfield is':>14}{'cpu/rec.':>10}{'sync':>8}{'kept':>8}{'whole':>8}"
        f"{'first query':>13}{'memory':>9}{'built':>7}{'disk':>7}{'syncs a batch':>15}"
    )
    for name, found in figures.items():
        ours = figures.get("nearfield", found)
        ratio = found["seconds"] / ours["seconds"]
        kept = (found["seconds"] + found["sync"]) / (ours["seconds"] + ours["sync"])
        asked = counted[name]
        print(
            f"{name:12}{options.rows / found['seconds']:>12,.0f}{ratio:>13.2f}x"
            f"{1e6 * found['cpu'] / options.rows:>7.1f} us{found['sync']:>6.1f} s{kept:>7.2f}x"
            f"{found['whole'] / ours['whole']:>7.2f}x"
            f"{found['first_query']:>11.2f} s"
            f"{found['memory'] / raw:>8.2f}x{found['memory_until_built'] / raw:>6.2f}x{found['disk'] / raw:>6.1f}x"
            f"{'?' if asked is None else f'{asked / 5:.1f}':>15}"
        )
    single = one_by_one()
    print(f"\none durable add: {single['add_ms']:.2f} ms; one fsync: {single['fsync_ms']:.2f} ms (medians)")
    if options.out:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": load}
        result = {
            "rows": options.rows,
            "machine": machine,
            "versions": {name: importlib.metadata.version(there.get(name, name)) for name in names},
            "figures": figures,
            "rounds": rounds,
            "syncs_in_5_batches": counted,
            "single": single,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
