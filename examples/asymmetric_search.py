"""Short questions, long passages: each side gets its own prompt. Run: python examples/asymmetric_search.py

Models such as E5 or nomic-embed-text want another prefix for questions than for passages; `OllamaEmbedder`,
`LocalEmbedder` and others add them by themselves. Here both are written by hand around the default model.
"""

from __future__ import annotations

import numpy as np

import nearfield as nf
from nearfield.embed import FunctionEmbedder, LocalEmbedder

PASSAGES = {
    "sky": "Sunlight is scattered by the air, short waves more than long ones, so that blue comes from everywhere.",
    "bread": "Yeast turns sugar into gas, which is held by the gluten of the dough, so the loaf grows in the oven.",
    "tides": "The Moon pulls at the near side of the sea more than at the far side, so that water piles up on both.",
}


def main() -> None:
    model = LocalEmbedder()

    def passages(texts: list[str]) -> np.ndarray:
        return model.encode_documents([f"passage: {text}" for text in texts])

    def questions(texts: list[str]) -> np.ndarray:
        return model.encode_queries([f"question: {text}" for text in texts])

    with nf.open() as db:
        embedder = FunctionEmbedder(passages, queries=questions, name="MiniLM with prompts")
        docs = db.collection("docs", embedder=embedder)
        docs.add(documents=list(PASSAGES.values()), ids=list(PASSAGES))
        for question in ("why is the sky blue?", "what makes bread rise?", "why does the sea come and go?"):
            hit = docs.search(question, k=1)[0]
            print(f"{question} {hit.id} ({hit.score:.2f})")
        as_question, as_passage = questions(["why is the sky blue?"])[0], passages(["why is the sky blue?"])[0]
        print(f"the same words, asked and told: cosine {as_question @ as_passage:.2f}")


if __name__ == "__main__":
    main()
