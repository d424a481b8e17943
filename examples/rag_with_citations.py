"""Answers with numbered sources. Run: python examples/rag_with_citations.py [ollama:llama3.2, or another model]"""

from __future__ import annotations

import sys
from pathlib import Path

import nearfield as nf
from nearfield.chunk import passages
from nearfield.load import find_files, read_file

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    llm = sys.argv[1] if len(sys.argv) > 1 else None  # None: the nearest sentences are the answer
    with nf.open() as db:
        docs = db.collection("docs")
        for path in find_files([CORPUS]).files:
            for document in read_file(path):
                pieces = passages(document.text)
                places = [{**document.metadata, "start": piece.start, "end": piece.end} for piece in pieces]
                docs.add(documents=[piece.text for piece in pieces], metadatas=places)

        chat = nf.Rag(docs, llm, k=5, budget=1500, min_score=0.3)
        history: list[nf.Answer] = []
        for question in ("How do bats find their way in the dark?", "What do they eat?", "Who won the cup in 2031?"):
            print(f"\n? {question}")
            stream = chat.ask(question, history=history[-1:], stream=True)
            for piece in stream:
                print(piece, end="", flush=True)
            print()
            for source in stream.answer.citations:
                print(f"  [{source.number}] {source.title}, characters {source.start} to {source.end}")
            for note in stream.answer.notes:
                print(f"  ({note})")
            history.append(stream.answer)


if __name__ == "__main__":
    main()
