"""Pictures found by words. Run: python examples/image_search.py [folder of pictures]

With `pip install 'nearfield[fastembed]'` and a folder, CLIP looks at the pictures. Without one, three little pictures
are made, and an embedder that only knows colours looks at them: any class with these five members is one.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

import nearfield as nf
from nearfield.embed import ClipEmbedder, find_pictures

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "sky": (90, 160, 255), "grass": (40, 170, 40)}


class Colours:
    """Documents are paths of bitmaps, queries are texts, as with CLIP."""

    dimension, max_tokens, identity = 3, None, "example:colours"

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        pixels = [np.frombuffer(Path(path).read_bytes()[54:], np.uint8).reshape(-1, 3) for path in texts]
        return np.array([each.mean(axis=0)[::-1] for each in pixels], dtype=np.float32)  # a bitmap says blue first

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        known = [[COLOURS[word] for word in text.split() if word in COLOURS] or [(1, 1, 1)] for text in texts]
        return np.array([np.mean(colours, axis=0) for colours in known], dtype=np.float32)


def paint(path: Path, colour: tuple[int, int, int], size: int = 8) -> None:
    header = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54 + 3 * size**2, 0, 0, 54, 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0
    )
    path.write_bytes(header + bytes(colour[::-1]) * size**2)


def main() -> None:
    with tempfile.TemporaryDirectory() as made, nf.open() as db:
        for name, colour in {"meadow": (60, 180, 50), "sea": (20, 60, 220), "tomato": (230, 30, 20)}.items():
            paint(Path(made, f"{name}.bmp"), colour)
        embedder = ClipEmbedder() if len(sys.argv) > 1 else Colours()
        photos = db.collection("photos", embedder=embedder)
        photos.add(find_pictures(sys.argv[1] if len(sys.argv) > 1 else made))
        for query in ("a red fruit", "green grass", "a blue sky above the water"):
            hit = photos.search(query, k=1)[0]
            print(f"{query}: {Path(hit.document or '').name} ({hit.score:.2f})")


if __name__ == "__main__":
    main()
