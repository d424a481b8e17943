"""The dangers: text that falls between two passages, offsets that lie, passages too long for the model."""

from __future__ import annotations

import itertools
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield.chunk import Tokens, passages
from nearfield.embed import LocalEmbedder, TruncationWarning
from nearfield.errors import InvalidInput

PROSE = st.lists(
    st.sampled_from(["word", "a", "longerword", ". ", "! ", "\n", "\n\n", " ", "\t", "。", "é", "\u3000"])
).map("".join)


MARKDOWN = st.lists(
    st.sampled_from(
        ["# A\n", "## B b\n", "```\n", "word ", "long sentence. ", "\n", "\n\n", "Under\n---\n", "- item\n", "    "]
    )
).map("".join)
WAYS = st.sampled_from(["paragraphs", "markdown", "sentences", "code", "tokens"])


def three_letters(text: str) -> list[tuple[int, int]]:
    """A tokenizer that a cut within a word puts out of step, as real ones are."""
    return [match.span() for match in re.finditer(r"\w{1,3}|\S", text)]


def utf8(text: str) -> list[tuple[int, int]]:
    """One with several tokens a character."""
    return [(at, at + 1) for at, letter in enumerate(text) for _ in letter.encode("utf-8", "replace")]


@given(
    text=PROSE | MARKDOWN | st.text(),
    by=WAYS,
    size=st.integers(1, 60),
    least=st.none() | st.integers(0, 30),
    overlap=st.integers(0, 20),
    tokens=st.sampled_from([None, three_letters, utf8]),
)
def test_nothing_is_lost_offsets_are_true_and_no_limit_is_passed(
    text: str, by: str, size: int, least: int | None, overlap: int, tokens: Tokens | None
) -> None:
    overlap = min(overlap, size - 1)
    found = passages(text, by=by, size=size, least=least, overlap=overlap, tokens=tokens)
    at = before = 0
    for passage in found:
        assert passage.text == text[passage.start : passage.end]
        assert passage.text == passage.text.strip() != ""
        length = len(tokens(passage.text)) if tokens else len(passage.text)
        assert length <= size or len(passage.text) == 1
        assert not text[at : passage.start].strip(), "what stands between two passages is white space"
        assert passage.end > at or (at, before) == (0, 0), "each passage goes further than the one before"
        if not overlap:
            assert passage.start >= at
        at, before = passage.end, passage.start
    assert not text[at:].strip()


@given(text=PROSE, size=st.integers(10, 40), overlap=st.integers(1, 9))
def test_an_overlap_repeats_no_more_than_it_may(text: str, size: int, overlap: int) -> None:
    found = passages(text, by="sentences", size=size, overlap=overlap)
    for one, other in itertools.pairwise(found):
        assert one.end - other.start <= overlap


def test_a_paragraph_is_a_passage() -> None:
    text = "One paragraph,\nof two lines.\n\n  \n\nAnother one."
    assert [p.text for p in passages(text, least=5)] == ["One paragraph,\nof two lines.", "Another one."]


def test_a_heading_goes_with_what_it_heads() -> None:
    body = "Cats purr when they are content, and also when they are hurt; nobody quite knows why they do so."
    assert [p.text for p in passages(f"# Cats\n\n{body}\n\n# Dogs\n\n{body}\n\nThe end.")] == [
        f"# Cats\n\n{body}",
        f"# Dogs\n\n{body}\n\nThe end.",
    ]


def test_long_paragraphs_are_cut_at_sentences_into_like_pieces() -> None:
    sentence = "This sentence is fifty characters long, believe me."
    found = passages(" ".join([sentence] * 25))
    assert len(found) == 2
    assert all(p.text.endswith("believe me.") for p in found)
    assert abs(len(found[0].text) - len(found[1].text)) <= len(sentence) + 1


def test_a_line_end_is_no_sentence_end_while_there_are_real_ones() -> None:
    text = ("some words that\nfill the lines " * 10 + "and end. ") * 4
    assert all(p.text.endswith("end.") for p in passages(text, size=400))


def test_text_without_spaces_is_cut_all_the_same() -> None:
    assert sum(len(p.text) for p in passages("x" * 2000)) == 2000


def test_a_huge_line_takes_no_quadratic_time() -> None:
    assert len(passages("word " * 400_000)) == pytest.approx(2_000_000 / 800, rel=0.2)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        passages("text", size=0)


def test_an_unknown_way_and_too_much_overlap_are_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown way to split 'pages'; there are 'paragraphs'"):
        passages("text", by="pages")
    with pytest.raises(InvalidInput, match="from 0 to 9, below size, got 10"):
        passages("text", size=10, overlap=10)


def test_markdown_sections_do_not_mix_and_know_their_headings() -> None:
    text = """Before.

# Cats #

They purr.

## Food

Fish.

```sh
# no heading

still code
```

Dogs
----

They bark.

# Last

## Of all

End."""
    found = passages(text, by="markdown", least=40)
    assert [(passage.heading, passage.text.split("\n")[0], passage.text.split("\n")[-1]) for passage in found] == [
        (None, "Before.", "Before."),
        ("Cats", "# Cats #", "They purr."),
        ("Cats > Food", "## Food", "```"),
        ("Cats > Dogs", "Dogs", "They bark."),
        ("Last > Of all", "# Last", "End."),
    ]


def test_code_is_divided_between_definitions() -> None:
    method = "    def {0}(self):\n        x = 1\n\n        return x\n"
    text = "import os\n\n\n# About f.\ndef f():\n    y = 2\n\n    return y\n\n\nclass A:\n" + "\n".join(
        method.format(name) for name in ("a", "b", "c", "d")
    )
    found = [passage.text.split("\n")[0] for passage in passages(text, by="code", size=60)]
    assert found == ["import os", "class A:", "def b(self):", "def c(self):", "def d(self):"]
    assert [passage.text.split("\n")[0] for passage in passages(text, by="code", size=50)][:2] == [
        "import os",
        "# About f.",
    ]


def test_sentences_fill_a_passage_and_overlap_by_whole_ones() -> None:
    text = "One one one. Two two two. Three three. Four four four. Five five."
    assert [p.text for p in passages(text, by="sentences", size=40)] == [
        "One one one. Two two two. Three three.",
        "Four four four. Five five.",
    ]
    assert [p.text for p in passages(text, by="sentences", size=40, overlap=14)] == [
        "One one one. Two two two.",
        "Two two two. Three three.",
        "Three three. Four four four. Five five.",
    ]


def test_no_passage_is_longer_than_the_model_reads() -> None:
    embedder = LocalEmbedder(max_tokens=32)
    texts = [
        "Ein Wort und noch eines. " * 40,
        "日本語の文章です。" * 60,
        "naïve café ¤§¶ " * 50,
        "x" * 3000,
        "İstanbul " * 80,
    ]
    text = "\n\n".join(texts)
    for by in ("paragraphs", "tokens", "sentences", "code"):
        found = passages(text, by=by, size=embedder.text_tokens, tokens=embedder.token_spans)
        assert "".join("".join(p.text for p in found).split()) == "".join(text.split())
        with warnings.catch_warnings():
            warnings.simplefilter("error", TruncationWarning)
            embedder.encode_documents([p.text for p in found])


def test_token_spans_point_into_the_text() -> None:
    embedder = LocalEmbedder()
    assert embedder.text_tokens == embedder.max_tokens - 2
    text = "İstanbul'da naïve 日本 "
    assert [text[start:end] for start, end in embedder.token_spans(text)][-3:] == ["naïve", "日", "本"]
