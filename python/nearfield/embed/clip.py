"""CLIP: pictures and texts as vectors of one space, so that a text finds pictures.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._optional import require
from nearfield.embed.fastembed import library, load
from nearfield.embed.sentence_transformers import SentenceTransformerEmbedder
from nearfield.embed.texts import Asked, check_texts
from nearfield.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def find_pictures(folder: str | os.PathLike[str]) -> list[str]:
    """The picture files under `folder`, by name, in order: what `ClipEmbedder` takes as documents.

    Raises:
        NotFound: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotFound(f"there is no folder {root}")
    return sorted(str(path) for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


class ClipEmbedder(Asked):
    """Documents are paths of pictures, queries are texts: `collection.search("a dog on a beach")` finds photographs.

    Args:
        model: "clip-ViT-B-32", run by fastembed (ONNX, no torch), which downloads it at first use; or a CLIP model
            of sentence-transformers that is already loaded, such as `SentenceTransformer("clip-ViT-L-14")`.
        batch_size: pictures or texts a batch.
        **options: passed to fastembed: cache_dir, threads, specific_model_path and others.

    Raises:
        MissingExtra: fastembed is not installed.
        NotFound: the model cannot be loaded.

    Example:
        >>> import nearfield as nf
        >>> from nearfield.embed import ClipEmbedder, find_pictures
        >>> photos = nf.open("photos.nf").collection("photos", embedder=ClipEmbedder())  # doctest: +SKIP
        >>> photos.add(find_pictures("holiday"))  # doctest: +SKIP
        >>> photos.search("a dog on a beach")[0].document  # doctest: +SKIP
        'holiday/0042.jpg'
    """

    def __init__(self, model: Any = "clip-ViT-B-32", *, batch_size: int = 16, **options: Any) -> None:
        self._batch = {"batch_size": batch_size}
        self._whole: Any = None  # one model for both, of sentence-transformers
        if isinstance(model, str):
            fastembed = library("ClipEmbedder")
            self._name = model
            self._texts = load(fastembed.TextEmbedding, f"Qdrant/{model}-text", options)
            self._pictures = load(fastembed.ImageEmbedding, f"Qdrant/{model}-vision", options)
        elif hasattr(model, "encode") and not options:
            self._whole = model
            self._name = ""
        else:
            raise InvalidInput(
                f"ClipEmbedder: got {type(model).__name__}; give 'clip-ViT-B-32', or a CLIP model of "
                "sentence-transformers that is loaded (and no options then)"
            )

    @property
    def max_tokens(self) -> int | None:
        """77, for queries: CLIP was trained on captions."""
        return 77

    @property
    def identity(self) -> str:
        """`clip:` and the model's name, or the hash of a model that was given."""
        if not self._name:
            self._name = SentenceTransformerEmbedder(self._whole).identity
        return f"clip:{self._name}"

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of pictures, given by their paths: float32 (len(texts), dimension), in the order given.

        Raises:
            InvalidInput: a path is no file, or the file is no picture (it is named).
        """
        paths = check_texts(texts)
        imaging = require("PIL.Image", extra="fastembed", purpose="ClipEmbedder")
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(paths), self._batch["batch_size"]):
            part = [_opened(imaging, path) for path in paths[start : start + self._batch["batch_size"]]]
            found.append(self._stacked(self._seen(part)))
        return np.concatenate(found) if found else np.empty((0, self.dimension), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of texts, to be compared with those of pictures: float32 (len(texts), dimension)."""
        texts = check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._stacked(self._read(texts))

    def _seen(self, pictures: list[Any]) -> Any:
        if self._whole is not None:
            return self._whole.encode(pictures, convert_to_numpy=True, show_progress_bar=False, **self._batch)
        return list(self._pictures.embed(pictures, **self._batch))

    def _read(self, texts: list[str]) -> Any:
        if self._whole is not None:
            return self._whole.encode(texts, convert_to_numpy=True, show_progress_bar=False, **self._batch)
        return list(self._texts.embed(texts, **self._batch))

    def _stacked(self, vectors: Any) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.stack(list(vectors)), dtype=np.float32)


def _opened(imaging: Any, path: str) -> Any:
    """The picture, read in full and closed."""
    try:
        with imaging.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise InvalidInput(
            f"there is no picture {path!r}: the documents of a ClipEmbedder are paths of files"
        ) from None
    except (OSError, ValueError, SyntaxError, imaging.DecompressionBombError) as error:  # what Pillow raises for damage
        raise InvalidInput(f"{path!r} is not a picture that can be read ({error}); leave it out") from None
