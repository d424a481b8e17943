"""Files into documents, with ids that stay the same from one reading to the next.

`find_files` says which files, `read_file` reads one, `read` does both and tells what could not be read. A file is
read as a whole or not at all. Text, Markdown, source code, CSV and JSON need nothing; PDF, Word, HTML and ignore files
need `pip install 'nearfield[load]'`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfield.errors import InvalidInput, NearfieldError
from nearfield.load import fetch, plain, rich, rows
from nearfield.load.document import Document, Layout, Source, decoded, id_of, is_address, local, path_of
from nearfield.load.find import Found, find

__all__ = ["SUFFIXES", "Document", "Found", "Loaded", "find_files", "id_of", "path_of", "read", "read_file"]

_TEXT = (".txt", ".text", ".log", ".rst", ".org", ".tex", ".adoc", ".srt", ".vtt")
_MARKDOWN = (".md", ".markdown", ".mdx")
_LANGUAGES = """
py pyi rs js mjs cjs jsx ts tsx java kt kts scala c h cc cpp cxx hpp cs go rb php swift m lua pl r jl sql sh bash zsh
ps1 ex exs erl hs ml clj dart zig nim vue css scss toml yaml yml ini cfg conf proto graphql tf cmake xml
"""
_CODE = tuple(f".{name}" for name in _LANGUAGES.split())
_RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_RICH = (".pdf", ".docx", ".html", ".htm", ".xhtml")
SUFFIXES = (*_TEXT, *_MARKDOWN, *_RECORDS, *_RICH, *_CODE)
_NAMES = {"readme", "license", "licence", "changelog", "authors", "notice", "makefile", "dockerfile", "contributing"}


@dataclass
class Loaded:
    """What `read` brought: the documents; why files could not be read, a sentence each; files of other kinds."""

    documents: list[Document] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_files(
    paths: str | Path | Iterable[str | Path],
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
) -> Found:
    """All files under `paths`: files, folders (searched to the bottom), patterns like `*.md`, and addresses.

    In a folder, what begins with a dot is left out, and what a `.gitignore` or `.nearfieldignore` names. Paths come
    back absolute, so that a file is known by the same name whatever folder the search began in.

    Args:
        paths: one or several; `https://…` stands for itself.
        include, exclude: patterns as in a .gitignore, of paths relative to the folder that is searched: `*.md` at any
            depth, `/*.md` at the top, `drafts/`. A file named by hand needs to match nothing.

    Raises:
        NotFound: a path does not exist, or a pattern matches nothing.
        StorageError: a folder cannot be listed.
        MissingExtra: there are patterns or ignore files, and pathspec is not installed.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    return find(paths, _readable, _as_list(include), _as_list(exclude))


def read_file(source: Source, *, encoding: str | None = None) -> list[Document]:
    """The documents of one file, or of one page of the web.

    A text, Markdown, PDF, Word, HTML or source file is one document; .jsonl, .json and .csv files have one a record.
    Metadata: `source`, `title`, `modified` (UTC), then what the file says itself, which wins: `key: value` lines
    between two `---` at the top, or the fields of a record. A record's `id` must be unique in its file.

    Args:
        source: a path, or an address (http, https, file). Nothing is fetched but the address itself.
        encoding: of text files; None: UTF-8, or UTF-16 where the file begins with its mark.

    Raises:
        NotFound: there is no such file.
        StorageError: the file cannot be opened, the address not fetched.
        InvalidInput: it is of another kind, in another encoding, encrypted, damaged, or without text.
        MissingExtra: the package that reads this kind is not installed.
    """
    source = local(source)
    if is_address(source):
        content = fetch.from_address(str(source))
        name = id_of(source)
        if content.suffix not in SUFFIXES:
            raise InvalidInput(f"{name}: what the server answers is {content.kind}, which cannot be read")
        encoding = encoding or (content.encoding if content.suffix != ".html" else None)
    else:
        source = Path(source).resolve()
        name = source.as_posix()
        if not _readable(source):
            kinds = f"{', '.join((*_MARKDOWN[:1], *_TEXT[:1], *_RECORDS, *_RICH))} and source code"
            raise InvalidInput(
                f"{source}: files of kind {source.suffix or '(no suffix)'!r} cannot be read, only {kinds}"
            )
        content = fetch.from_file(source)
    known = {"source": name, "title": content.title}
    known |= {"modified": content.modified} if content.modified else {}
    return _documents(str(source), id_of(source), content, known, encoding)


def read(
    paths: str | Path | Iterable[str | Path],
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    encoding: str | None = None,
) -> Loaded:
    """All documents under `paths`. A file that cannot be read is a sentence in `problems`, and the rest is read.

    Takes what `find_files` and `read_file` take, and raises what `find_files` raises.

    Example:
        >>> loaded = read("examples/corpus", include="*.md")
        >>> len(loaded.documents), loaded.problems
        (9, [])
    """
    found = find_files(paths, include=include, exclude=exclude)
    loaded = Loaded(others=found.others)
    for file in found.files:
        try:
            loaded.documents += read_file(file, encoding=encoding)
        except NearfieldError as error:
            loaded.problems.append(str(error))
    return loaded


def _documents(
    name: str, id: str, content: fetch.Content, known: dict[str, Any], encoding: str | None
) -> list[Document]:
    suffix, data = content.suffix, content.data
    if suffix == ".pdf":
        return rich.read_pdf(name, id, data, known)
    if suffix == ".docx":
        return rich.read_docx(name, id, data, known)
    if suffix in (".html", ".htm", ".xhtml"):
        # Without a word from the user, the page's own word on its encoding is taken.
        return rich.read_html(name, id, decoded(name, data, encoding) if encoding else data, known)
    text = decoded(name, data, encoding)
    if suffix in (".jsonl", ".ndjson"):
        return rows.read_jsonl(name, id, text, known)
    if suffix == ".json":
        return rows.read_json(name, id, text, known)
    if suffix in (".csv", ".tsv"):
        return rows.read_csv(name, id, text, known, delimiter="\t" if suffix == ".tsv" else None)
    layout: Layout = "markdown" if suffix in _MARKDOWN else "code" if suffix in _CODE else "text"
    return plain.read(id, text, known, layout)


def _readable(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or (not path.suffix and path.name.lower() in _NAMES)


def _as_list(patterns: str | Sequence[str] | None) -> list[str] | None:
    return [patterns] if isinstance(patterns, str) else None if patterns is None else list(patterns)
