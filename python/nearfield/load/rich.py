"""PDF, Word and HTML: formats that a well-kept package of their own reads; here only what to take from it."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nearfield._optional import require
from nearfield.errors import InvalidInput, NearfieldError
from nearfield.load.document import Document, check_lines, cleaned

# What stands on a page of the web and is not what it says.
_FURNITURE = ["script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "form", "iframe", "button"]
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})


def read_pdf(name: str, id: str, content: bytes, known: dict[str, Any]) -> list[Document]:
    """The text of all pages as one document, in which each page begins with a mark `{"page": n}`, n from 1 on.

    Raises:
        InvalidInput: it is encrypted, broken, or holds no text, such as a scan.
    """
    pypdf = require("pypdf", extra="load", purpose=f"{name}: a PDF file")
    with _quiet("pypdf"), _told(name, "PDF"):
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidInput(f"{name}: is encrypted; save a copy that opens without a password")
        pages = [_unbroken(cleaned(page.extract_text())) for page in reader.pages]
        title = cleaned(str((reader.metadata and reader.metadata.title) or "")).strip()
    if not any(pages):
        count = f"{len(pages)} page{'' if len(pages) == 1 else 's'}"
        raise InvalidInput(f"{name}: {count} without any text, so it is probably a scan: run text recognition on it")
    text, marks = "", []
    for number, page in enumerate(pages, 1):
        if page:
            text += "\n\n" if text else ""
            marks.append((len(text), {"page": number}))
            text += page
    return [Document(id, text, {**known, **({"title": title} if title else {})}, marks=tuple(marks))]


def read_docx(name: str, id: str, content: bytes, known: dict[str, Any]) -> list[Document]:
    """The paragraphs and tables of a Word document, as Markdown.

    Raises:
        InvalidInput: it is no Word document, or a broken one.
    """
    docx = require("docx", extra="load", purpose=f"{name}: a Word document")
    if content[:4] == b"\xd0\xcf\x11\xe0":  # an OLE container
        raise InvalidInput(f"{name}: is encrypted, or in the format of Word before 2007; save it anew as .docx")
    with _told(name, "Word document"):
        document = docx.Document(io.BytesIO(content))
        text = cleaned("\n\n".join(block for block in _blocks(document) if block))
        title = cleaned(document.core_properties.title or "").strip()
    return [Document(id, text, {**known, **({"title": title} if title else {})}, "markdown")]


def read_html(name: str, id: str, content: bytes | str, known: dict[str, Any]) -> list[Document]:
    """What a page of the web says, as Markdown: its main part if it marks one, without navigation and scripts.

    Raises:
        InvalidInput: it cannot be read, for instance since its elements are nested some hundred deep.
    """
    bs4 = require("bs4", extra="load", purpose=f"{name}: an HTML page")
    markdownify = require("markdownify", extra="load", purpose=f"{name}: an HTML page")
    with _told(name, "HTML"):
        soup = bs4.BeautifulSoup(content, "html.parser")
        title = cleaned(soup.title.get_text()).strip() if soup.title else ""
        articles = soup.find_all("article")
        root = soup.find("main") or (articles[0] if len(articles) == 1 else soup.body or soup)
        for element in root.find_all([*_FURNITURE, "title"]):
            element.decompose()
        converter = markdownify.MarkdownConverter(
            heading_style="ATX", strip=["a", "img"], escape_asterisks=False, escape_underscores=False, bullets="-"
        )
        text = re.sub(r"\n{3,}", "\n\n", cleaned(converter.convert_soup(root))).strip()
    check_lines(name, text)
    title = " ".join(title.split())
    return [Document(id, text, {**known, **({"title": title} if title else {})}, "markdown")]


def _blocks(document: Any) -> Iterator[str]:
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            rows = [" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in block.rows]
            yield "\n".join(f"| {row} |" for row in rows)
            continue
        style = (block.style.name if block.style is not None else None) or ""
        text = block.text.strip()
        if text and (level := re.fullmatch(r"Heading (\d)", style)):
            text = "#" * min(6, int(level[1])) + " " + " ".join(text.split())
        elif text and style == "Title":
            text = "# " + " ".join(text.split())
        elif text and style.startswith("List"):
            text = f"- {text}"
        yield text


def _unbroken(page: str) -> str:
    """A page without hyphens and spaces that are there only since a line ends."""
    lines = "\n".join(line.rstrip() for line in page.translate(_LIGATURES).split("\n"))
    return re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", lines).strip()


@contextmanager
def _told(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a package raises on a broken file into one sentence."""
    try:
        yield
    except NearfieldError:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except zipfile.BadZipFile:
        raise InvalidInput(f"{name}: not a {kind}, or a damaged one: it is no zip archive") from None
    except RecursionError:
        raise InvalidInput(f"{name}: cannot be read as {kind}: it is nested too deep") from None
    except Exception as error:  # these packages have no common root of errors, and broken files find every hole
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(f"{name}: not a {kind}, or a damaged one: {reason}") from error


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """What is wrong with a file is told once, by us."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
