"""Vectors to measure with: real ones when they are at hand, otherwise made to resemble them, or files of one's own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL = SHARED / "passages" / "vectors.f16.npy"
SIFT = SHARED / "sift"
PIECE = 50_000  # rows made at a time
CENTRES = 2000
NEAREST = 100  # exact neighbours kept for every query

Rows = NDArray[np.float32]


def _normalise(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(
    rows: int, queries: int, dimension: int, seed: int = 0, base: Rows | None = None
) -> tuple[Rows, Rows, str]:
    """Unit vectors around 2,000 centres, with variances that fall as 1/i along hidden axes, and a common direction.

    Besides the rows (written into `base` where it is given) 4 * 50,000 * dimension bytes are needed, a few times.
    """
    rng = np.random.default_rng(seed)
    spread = (1.0 / np.sqrt(1.0 + np.arange(dimension))).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    centres = rng.standard_normal((CENTRES, dimension), dtype=np.float32) * spread
    centres[:, 0] += 1.0

    def draw(count: int) -> Rows:
        noise = rng.standard_normal((count, dimension), dtype=np.float32) * spread
        return _normalise((centres[rng.integers(CENTRES, size=count)] + 0.7 * noise) @ axes)

    base = np.empty((rows, dimension), np.float32) if base is None else base
    for start in range(0, rows, PIECE):
        base[start : start + PIECE] = draw(min(PIECE, rows - start))
    return base, draw(queries), "clustered synthetic vectors, variances falling as 1/i"


def real(rows: int, queries: int, seed: int = 0) -> tuple[Rows, Rows, str]:
    """MiniLM vectors of real passages. The last ones are the queries and are not among the rows; the others are
    repeated to fill the rows, every repeat moved by 15 % of the difference of two other passages: noise of the shape
    that the data has itself, so that repeats come nearer to a query as well as go farther from it."""
    vectors = _normalise(np.load(REAL).astype(np.float32))
    source, asked = vectors[:-queries], vectors[-queries:]
    rng = np.random.default_rng(seed)
    base = np.empty((rows, vectors.shape[1]), np.float32)
    for start in range(0, rows, len(source)):
        piece = source[: rows - start]
        if start:
            one, other = (source[rng.integers(len(source), size=len(piece))] for _ in range(2))
            piece = _normalise(piece + np.float32(0.15) * (one - other))
        base[start : start + len(piece)] = piece
    repeated = ", repeated with noise of their own kind" if rows > len(source) else ""
    return base, asked, f"{min(rows, len(source)):,} real MiniLM vectors of passages{repeated}"


def load(name: str | None, rows: int, queries: int, dimension: int) -> tuple[Rows, Rows, str]:
    """`name` is "shared", "clustered" or None: the real vectors if they are there and fit.

    Returns:
        rows (rows, dimension) and queries (queries, dimension), float32 of unit length, and a line about them.
    """
    if name == "shared" or (name is None and REAL.exists() and dimension == 384):
        return real(rows, queries)
    return clustered(rows, queries, dimension)


class Prepared(NamedTuple):
    """A data set as files, which every process maps: `rows.npy`, `queries.npy`, `truth.npy`, `about.json`."""

    folder: Path
    about: dict[str, Any]  # data, rows, dimension, metric, queries

    def rows(self) -> Rows:
        """Copy-on-write: some libraries ask for an array that can be written to."""
        return np.asarray(np.load(self.folder / "rows.npy", mmap_mode="c"))

    def queries(self) -> Rows:
        return np.load(self.folder / "queries.npy")

    def truth(self) -> NDArray[np.int64]:
        return np.load(self.folder / "truth.npy")


def prepare(name: str, cache: Path, rows: int | None, dimension: int, queries: int) -> Prepared:
    """`name` is "minilm", "sift", "clustered", or a file: `.npz` with train, test and perhaps metric ("cosine" or
    "l2"); `.hdf5` as ann-benchmarks has them. What was prepared before is used again."""
    stem = re.sub(r"[^\w.-]", "_", Path(name).name)
    shape = f"-{rows or 1_000_000}x{dimension}" if name == "clustered" else f"-{rows}" if rows else ""
    folder = cache / f"{stem}{shape}-{queries}"
    if not (folder / "about.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        about = _write(name, folder, rows, dimension, queries)
        prepared = Prepared(folder, about)
        np.save(folder / "truth.npy", nearest(prepared.rows(), prepared.queries(), NEAREST, about["metric"]))
        (folder / "about.json").write_text(json.dumps(about))
    return Prepared(folder, json.loads((folder / "about.json").read_text()))


def _write(name: str, folder: Path, rows: int | None, dimension: int, queries: int) -> dict[str, Any]:
    if name == "clustered":
        shape = (rows or 1_000_000, dimension)
        base = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float32, shape=shape)
        _, asked, described = clustered(shape[0], queries, dimension, base=base)
        base.flush()
        metric = "cosine"
    else:
        base, asked, metric, described = _read(name, queries)
        base, asked = base[:rows], asked[:queries]
        if metric == "cosine":
            base, asked = _normalise(base), _normalise(asked)
        np.save(folder / "rows.npy", np.ascontiguousarray(base, np.float32))
    np.save(folder / "queries.npy", np.ascontiguousarray(asked, np.float32))
    return {
        "data": described,
        "rows": len(base),
        "dimension": base.shape[1],
        "metric": metric,
        "queries": len(asked),
    }


def _read(name: str, queries: int) -> tuple[Any, Any, str, str]:
    if name == "minilm":
        vectors = np.load(REAL).astype(np.float32)
        return vectors[:-queries], vectors[-queries:], "cosine", "real MiniLM vectors of passages"
    if name == "sift":
        base, asked = (np.load(SIFT / f"{part}_u8.npy").astype(np.float32) for part in ("base", "queries"))
        return base, asked, "l2", "real SIFT descriptors"
    if name.endswith(".npz"):
        with np.load(name) as arrays:
            metric = str(arrays["metric"]) if "metric" in arrays else "cosine"
            return arrays["train"].astype(np.float32), arrays["test"].astype(np.float32), metric, Path(name).stem
    if name.endswith((".hdf5", ".h5")):
        import h5py

        with h5py.File(name) as arrays:
            metric = {"angular": "cosine", "euclidean": "l2"}[arrays.attrs["distance"]]
            return arrays["train"][:], arrays["test"][:], metric, Path(name).stem
    raise SystemExit(f"{name}: not minilm, sift, clustered, a .npz or a .hdf5 file")


def nearest(rows: Rows, queries: Rows, k: int, metric: str) -> NDArray[np.int64]:
    """The k exact neighbours of every query, by brute force in float32 and, among the k + 30 best, in float64."""
    keep = min(k + 30, len(rows))
    scores = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        block = queries @ piece.T
        if metric == "l2":
            block -= np.einsum("ij,ij->i", piece, piece) / 2
        best = np.argpartition(-block, min(keep, block.shape[1]) - 1, axis=1)[:, :keep]
        scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
        places = np.concatenate([places, best + start], axis=1)
        best = np.argpartition(-scores, min(keep, scores.shape[1]) - 1, axis=1)[:, :keep]
        scores, places = np.take_along_axis(scores, best, axis=1), np.take_along_axis(places, best, axis=1)
    found = np.empty((len(queries), min(k, len(rows))), np.int64)
    for place, (query, near) in enumerate(zip(queries.astype(np.float64), places, strict=True)):
        close = rows[near].astype(np.float64)
        exact = -((close - query) ** 2).sum(axis=1) if metric == "l2" else close @ query
        found[place] = near[np.lexsort((near, -exact))][: found.shape[1]]
    return found
