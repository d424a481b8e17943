"""What some models want in front of a text, as their cards say. A server that knows only texts leaves it to us."""

from __future__ import annotations

_RELEVANT = "Represent this sentence for searching relevant passages: "

# By a part of the model's name, lower case; the first that fits counts. In front of documents, in front of queries.
_KNOWN: tuple[tuple[str, tuple[str, str]], ...] = (
    ("nomic-embed-text", ("search_document: ", "search_query: ")),
    ("mxbai-embed-large", ("", _RELEVANT)),
    ("arctic-embed-l-v2", ("", "query: ")),
    ("arctic-embed-m-v2", ("", "query: ")),
    ("arctic-embed2", ("", "query: ")),
    ("arctic-embed", ("", _RELEVANT)),
    ("embeddinggemma", ("title: none | text: ", "task: search result | query: ")),
    ("gemini-embedding-2", ("title: none | text: ", "task: search result | query: ")),
    ("multilingual-e5-large-instruct", ("", "")),
    ("e5-", ("passage: ", "query: ")),
    ("bge-m3", ("", "")),
    ("bge-", ("", _RELEVANT)),
    (
        "qwen3-embedding",
        (
            "",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        ),
    ),
)


def prompts_of(model: str, given: tuple[str, str] | None = None) -> tuple[str, str]:
    """What goes in front of documents and of queries: as given, or as the model's card says, else nothing.

    >>> prompts_of("nomic-embed-text")
    ('search_document: ', 'search_query: ')
    >>> prompts_of("nomic-embed-text", given=("", ""))
    ('', '')
    """
    if given is not None:
        return given
    name = model.lower()
    return next((prompts for part, prompts in _KNOWN if part in name), ("", ""))
