"""Group a folder of texts by meaning, and find what fits nowhere. Run: python examples/topic_clustering.py"""

from __future__ import annotations

from pathlib import Path

import nearfield as nf
from nearfield.topics import duplicates, outliers, topics

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    with nf.open() as db:
        docs = db.collection("docs")
        nf.index_folder(docs, CORPUS)
        found = topics(docs, 5)
        for topic in found:
            print(f"{len(topic.ids):>3}  {topic.label:<28} {topic.examples[0][:50]}…")
        print("grouped:", sum(len(topic.ids) for topic in found) == docs.count())
        print("twice in it:", len(duplicates(docs, 0.95)))
        print("least like the others:", (outliers(docs, 1)[0].document or "")[:40])


if __name__ == "__main__":
    main()
