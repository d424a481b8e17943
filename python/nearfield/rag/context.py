"""What goes to the model, and what comes back: passages into a budget of tokens, numbers back to passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

from nearfield.answers import Citation
from nearfield.rag.prompts import SOURCE
from nearfield.types import Hit

_LEAST = 40  # tokens: a shorter beginning of a passage is not worth a number
_END = re.compile(r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？]|\n\s*\n|\n(?=[-*#>|])")
# [1], [1, 3], [2-4], [^1], [Source 1], 【1】: what models write when they are asked for [1].
_CITED = re.compile(r"\s*[\[【](?:\^|sources?\s*)?(\d{1,4}(?:\s*[,;\-–]\s*\d{1,4})*)(?:†[^\]】]*)?[\]】]", re.I)
_OPEN = re.compile(r"\s*[\[【][^\]】]{0,60}$|\s+$")  # may become a citation when more comes


def sentences(text: str) -> list[tuple[int, int]]:
    """The places of the sentences of `text`, without white space around them.

    >>> [text[a:b] for text in ["It is 3.5 m long. It sleeps!"] for a, b in sentences(text)]
    ['It is 3.5 m long.', 'It sleeps!']
    """
    spans, start = [], 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        piece = text[start:end]
        first, last = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if first < last:
            spans.append((first, last))
        start = end
    return spans


def pack(hits: Iterable[Hit], budget: int, count: Callable[[str], int]) -> tuple[Citation, ...]:
    """The best hits that fit, numbered from 1 in the order of their ranks.

    The same text twice is sent once. The first passage that does not fit is cut at the end of a sentence, if enough of
    it is left; what comes after it stays out, even if it would fit: a worse passage must not take a better one's place.

    Args:
        hits: best first.
        budget: tokens for all passages together, with the lines around them.
        count: from a text to its tokens.
    """
    packed: list[Citation] = []
    seen: set[str] = set()
    for hit in hits:
        text = hit.document or ""
        if not text.strip() or (plain := " ".join(text.split())) in seen:
            continue
        seen.add(plain)
        source = _citation(len(packed) + 1, hit, text)
        cost = count(written(source))
        if cost > budget:
            room = budget - (cost - count(text))
            kept = _beginning(text, room, count) if room >= _LEAST or not packed else ""
            if kept:
                packed.append(_citation(len(packed) + 1, hit, kept))
            break
        packed.append(source)
        budget -= cost
    return tuple(packed)


def written(source: Citation) -> str:
    """A source as the model reads it. A text cannot pretend to end there."""
    text = re.sub(r"</(?=source)", "< /", source.text, flags=re.I)
    place = " ".join(re.sub(r'[<>"]', " ", f"{source.title}, {source.place}" if source.title else source.place).split())
    return SOURCE.format(number=source.number, place=place, text=text)


def relevance(hit: Hit) -> float | None:
    """What a threshold is compared with; None for a hit that only words brought into a hybrid search."""
    for stage in ("rerank", "dense"):
        if stage in hit.scores:
            return hit.scores[stage]
    return None if "fused" in hit.scores else hit.score


def _citation(number: int, hit: Hit, text: str) -> Citation:
    fields = hit.metadata

    def known(name: str, kind: type) -> object:
        value = fields.get(name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    score, start = relevance(hit), known("start", int)
    return Citation(
        number,
        hit.id,
        text,
        hit.score if score is None else score,
        source=known("source", str),  # type: ignore[arg-type]
        title=known("title", str),  # type: ignore[arg-type]
        page=known("page", int),  # type: ignore[arg-type]
        start=start,  # type: ignore[arg-type]
        end=start + len(text) if isinstance(start, int) else None,
        metadata=dict(fields),
    )


def _beginning(text: str, room: int, count: Callable[[str], int]) -> str:
    """As many whole sentences from the start of `text` as fit; of a first one that is too long, whole words."""
    kept = ""
    for _, end in sentences(text):
        if count(text[:end]) > room:
            break
        kept = text[:end]
    if kept:
        return kept
    for match in re.finditer(r"\S+", text):
        if count(text[: match.end()]) > room:
            break
        kept = text[: match.end()]
    return kept


@dataclass
class Cited:
    """The numbers that an answer cites: those that lead to a source, and those that led nowhere and were taken out."""

    valid: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)


def checked(pieces: Iterable[str], sources: Sequence[Citation]) -> Generator[str, None, Cited]:
    """The pieces of an answer, in which every citation leads somewhere; wherever the pieces are cut, the same text."""
    found, known = Cited(), {source.number for source in sources}

    def mended(match: re.Match[str]) -> str:
        numbers = _numbers(match[1])
        found.valid.update(known & set(numbers))
        found.dropped.update(set(numbers) - known)
        if set(numbers) <= known:
            space = match[0][: len(match[0]) - len(match[0].lstrip())]
            return space + "".join(f"[{number}]" for number in numbers)
        kept = [number for number in numbers if number in known]
        # Nothing may close up to another citation: "[[9]12]" is not to become "[12]".
        gap = " " if kept or match.string[: match.start()].endswith(("[", "【")) else ""
        return gap + "".join(f"[{number}]" for number in kept)

    held = ""
    for piece in pieces:
        held += piece
        waiting = _OPEN.search(held)
        ready, held = (held[: waiting.start()], held[waiting.start() :]) if waiting else (held, "")
        if text := _CITED.sub(mended, ready):
            yield text
    if text := _CITED.sub(mended, held).rstrip():
        yield text
    return found


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for part in re.split(r"\s*[,;]\s*", text):
        ends = [int(end) for end in re.split(r"\s*[\-–]\s*", part) if end]
        numbers += range(ends[0], min(ends[-1], ends[0] + 20) + 1) if len(ends) == 2 and ends[0] < ends[1] else ends
    return list(dict.fromkeys(numbers))
