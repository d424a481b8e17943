"""One small adapter for every index that nearfield is compared with. `python benchmarks/ann.py --list` prints them.

An adapter is built in one process and asked in another, so that what a peer is measured by (its memory, its threads) is
its own. They are set up as their own documentation advises; the sources stand in each file.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from .base import Peer


class Entry(NamedTuple):
    """Where an adapter is found, and with which settings it is made."""

    file: str
    settings: dict[str, Any]
    packages: tuple[str, ...]  # distributions whose versions belong to the result


PEERS: dict[str, Entry] = {
    "nearfield-hnsw": Entry("nearfield_", {"kind": "hnsw"}, ()),
    "nearfield-hnsw-memory": Entry("nearfield_", {"kind": "hnsw", "mapped": False}, ()),
    "nearfield-ivf": Entry("nearfield_", {"kind": "ivf"}, ()),
    "nearfield-ivf_pq": Entry("nearfield_", {"kind": "ivf_pq"}, ()),
    "nearfield-lsh": Entry("nearfield_", {"kind": "lsh"}, ()),
    "nearfield-flat": Entry("nearfield_", {"kind": "flat"}, ()),
    "faiss-flat": Entry("faiss_", {"kind": "flat"}, ("faiss-cpu",)),
    "faiss-hnsw": Entry("faiss_", {"kind": "hnsw"}, ("faiss-cpu",)),
    "faiss-hnsw-sq8": Entry("faiss_", {"kind": "hnsw-sq8"}, ("faiss-cpu",)),
    "faiss-ivf": Entry("faiss_", {"kind": "ivf"}, ("faiss-cpu",)),
    "faiss-ivfpqfs": Entry("faiss_", {"kind": "ivfpqfs"}, ("faiss-cpu",)),
    "hnswlib": Entry("hnswlib_", {}, ("hnswlib",)),
    "usearch-f32": Entry("usearch_", {"dtype": "f32"}, ("usearch",)),
    "usearch-i8": Entry("usearch_", {"dtype": "i8"}, ("usearch",)),
    "symphonyqg": Entry("rabitqlib_", {"kind": "symphonyqg"}, ("rabitqlib",)),
    "rabitqlib-hnsw": Entry("rabitqlib_", {"kind": "hnsw"}, ("rabitqlib",)),
    "svs-lvq4x8": Entry("svs_", {"kind": "lvq4x8"}, ("scalable-vs",)),
    "svs-float16": Entry("svs_", {"kind": "float16"}, ("scalable-vs",)),
    "vsag-hgraph": Entry("vsag_", {}, ("pyvsag",)),
    "scann": Entry("scann_", {}, ("scann",)),
    "zvec-hnsw": Entry("zvec_", {}, ("zvec",)),
}
EXACT = ("nearfield-flat", "faiss-flat")  # one point instead of a curve


def make(name: str, dimension: int, metric: str, threads: int) -> Peer:
    """The adapter of this name.

    Raises:
        ImportError: The library is not installed.
        Unfit: It cannot hold such data, or not on this machine.
    """
    entry = PEERS[name]
    adapter = import_module(f"peers.{entry.file}").Adapter(dimension, metric, threads, **entry.settings)
    assert isinstance(adapter, Peer)
    return adapter
