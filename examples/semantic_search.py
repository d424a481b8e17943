"""Search a folder of texts by meaning, with a filter on metadata. Run: python examples/semantic_search.py"""

from __future__ import annotations

from pathlib import Path

import nearfield as nf
from nearfield.chunk import passages
from nearfield.load import find_files, read_file

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    with nf.open() as db:  # in memory; nf.open("library.nf") keeps it
        docs = db.collection("docs")
        for path in find_files([CORPUS]).files:
            for document in read_file(path):
                texts = [passage.text for passage in passages(document.text)]
                docs.add(documents=texts, metadatas=[document.metadata] * len(texts))
        print(f"{docs.count()} passages")

        for query in (
            "a feline resting on a rug",
            "the financial crisis of the twenties",
            "a device for talking from afar",
        ):
            print(f"\n{query}")
            for hit in docs.search(query, k=2):
                print(f"  {hit.score:.3f}  {hit.metadata['title']}: {hit.document[:60]}…")

        print("\na new way to see, before 1900")
        for hit in docs.search("a new way to see", k=2, where={"year": {"$lt": 1900}}):
            print(f"  {hit.score:.3f}  {hit.metadata['year']}  {hit.metadata['title']}")


if __name__ == "__main__":
    main()
