"""King − man + woman, with words as records. Run: python examples/vector_arithmetic.py"""

from __future__ import annotations

import numpy as np

import nearfield as nf

PEOPLE = ["king", "queen", "man", "woman", "prince", "princess", "boy", "girl", "uncle", "aunt", "actor", "actress"]
PLACES = ["Paris", "France", "Rome", "Italy", "Berlin", "Germany", "Madrid", "Spain", "river", "mountain"]
THINGS = ["apple", "banana", "bread", "water", "computer", "guitar", "bicycle", "train", "winter", "summer"]
PUZZLES = [
    ("king", "man", "woman"),
    ("uncle", "man", "woman"),
    ("Paris", "France", "Italy"),
    ("Rome", "Italy", "Spain"),
]


def main() -> None:
    with nf.open() as db:
        words = db.collection("words")
        words.add(every := PEOPLE + PLACES + THINGS, ids=every)

        for start, minus, plus in PUZZLES:
            hits = words.similar([start, plus], k=2, negative=minus)
            print(f"{start} - {minus} + {plus} = {hits[0].id}  ({hits[0].score:.2f}; then {hits[1].id})")

        # The same by hand: unit vectors added up, and the three words themselves left out.
        embedder = words.embedder
        assert embedder is not None
        king, man, woman = embedder.encode_documents(["king", "man", "woman"])
        target = king - man + woman
        hits = words.search(target / np.linalg.norm(target), k=4)
        print("by hand:", next(id for id in hits.ids if id not in ("king", "man", "woman")))

        print("fruit or weather:", words.search(["fruit", "weather"], k=4, combine="max").ids)


if __name__ == "__main__":
    main()
