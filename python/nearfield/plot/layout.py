"""Vectors of many dimensions as points on a page."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from nearfield._optional import require
from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

METHODS = ("pca", "umap", "tsne")


def points(vectors: ArrayLike, method: str = "pca", *, seed: int = 0) -> NDArray[np.float32]:
    """Two coordinates for each vector, such that near ones stay near.

    Args:
        vectors: shape (n, dimension).
        method: "pca" keeps large distances, is exact and the same every time; "umap" (extra umap) and "tsne" (extra
            plot) keep neighbourhoods, and say little about distances between groups.
        seed: of umap and tsne.

    Returns:
        float32 of shape (n, 2), centred.

    Raises:
        InvalidInput: the method is unknown, or the vectors are not a matrix.
        MissingExtra: the method's package is not installed.

    Example:
        >>> points([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]]).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    if method not in METHODS:
        raise InvalidInput(f"unknown method {method!r}; there are {', '.join(map(repr, METHODS))}")
    matrix = np.asarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise InvalidInput(f"vectors must have the shape (n, dimension), got {matrix.shape}")
    if method == "pca" or len(matrix) < 5:  # of four points the others make nothing
        return pca(matrix)
    made = _umap(matrix, seed) if method == "umap" else _tsne(matrix, seed)
    placed: NDArray[np.float32] = (made - made.mean(axis=0)).astype(np.float32)
    return placed


def pca(matrix: NDArray[np.float32], dimensions: int = 2) -> NDArray[np.float32]:
    """Principal components (Pearson 1901) by a singular value decomposition of the covariance, in float64.

    The sign of a component is free; here its largest entry is positive, so that a map does not flip between machines.
    """
    if not len(matrix):
        return np.zeros((0, dimensions), dtype=np.float32)
    centred = matrix.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)
    components = np.linalg.svd(centred.T @ centred)[2][:dimensions]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    made = np.zeros((len(matrix), dimensions), dtype=np.float32)
    made[:, : len(components)] = centred @ (components * np.where(largest < 0, -1.0, 1.0)).T
    return made


def _tsne(matrix: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    manifold = require("sklearn.manifold", extra="plot", purpose="A map by t-SNE")
    start = pca(matrix, min(50, *matrix.shape))  # van der Maaten and Hinton 2008 do so too: less noise, less work
    near = min(30.0, (len(matrix) - 1) / 3)
    made: NDArray[np.float32] = manifold.TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(start)
    return made


def _umap(matrix: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed makes it use one thread: which is what is asked for
        library = require("umap", extra="umap", purpose="A map by UMAP")
        reducer = library.UMAP(n_neighbors=min(15, len(matrix) - 1), metric="cosine", random_state=seed)
        made: NDArray[np.float32] = reducer.fit_transform(matrix)
    return made
