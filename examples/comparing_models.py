"""Which model is better, and is the difference more than chance? Run: python examples/comparing_models.py"""

from __future__ import annotations

from pathlib import Path

import nearfield as nf
from nearfield.embed import FunctionEmbedder
from nearfield.evaluate import compare_embedders, evaluate, load_judged

JUDGED = Path(__file__).parent / "judged"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter_pairs(texts: list[str]) -> list[list[float]]:
    """A model of fifty years ago: how often each pair of letters stands in a text."""
    pairs = [first + second for first in LETTERS for second in LETTERS]
    return [[float(text.lower().count(pair)) for pair in pairs] for text in texts]


def main() -> None:
    judged = load_judged(JUDGED)
    embedders = {"MiniLM": "default", "letter pairs": FunctionEmbedder(letter_pairs)}
    table = compare_embedders(embedders, judged.documents, judged.queries, judged.qrels, k=3)
    print(table)
    gain = table.difference("MiniLM", "letter pairs", "ndcg@3")
    print(
        f"MiniLM is better by {gain.mean:.2f}, at least {gain.low:.2f}: {'no chance' if gain.low > 0 else 'perhaps'}\n"
    )

    with nf.open() as db:
        docs = db.collection("docs")
        judged.fill(docs)
        print(evaluate(docs, judged.queries, judged.qrels, k=3, modes=["lexical", "dense", "hybrid"]))


if __name__ == "__main__":
    main()
