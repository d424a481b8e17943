"""The dangers: text that falls between two passages, offsets that lie, passages too long for the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield.chunk import passages
from nearfield.errors import InvalidInput

PROSE = st.lists(
    st.sampled_from(["word", "a", "longerword", ". ", "! ", "\n", "\n\n", " ", "\t", "。", "é", "\u3000"])
).map("".join)


@given(text=PROSE | st.text(), max_chars=st.integers(1, 60), min_chars=st.integers(0, 30))
def test_nothing_is_lost_and_offsets_are_true(text: str, max_chars: int, min_chars: int) -> None:
    found = passages(text, max_chars=max_chars, min_chars=min_chars)
    at = 0
    for passage in found:
        assert passage.text == text[passage.start : passage.end]
        assert passage.text == passage.text.strip() != ""
        assert len(passage.text) <= max_chars
        assert not text[at : passage.start].strip(), "what stands between two passages is white space"
        at = passage.end
    assert not text[at:].strip()


def test_a_paragraph_is_a_passage() -> None:
    text = "One paragraph,\nof two lines.\n\n  \n\nAnother one."
    assert [p.text for p in passages(text, min_chars=5)] == ["One paragraph,\nof two lines.", "Another one."]


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
    assert all(p.text.endswith("end.") for p in passages(text, max_chars=400))


def test_text_without_spaces_is_cut_all_the_same() -> None:
    assert sum(len(p.text) for p in passages("x" * 2000)) == 2000


def test_a_huge_line_takes_no_quadratic_time() -> None:
    assert len(passages("word " * 400_000)) == pytest.approx(2_000_000 / 800, rel=0.2)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        passages("text", max_chars=0)
