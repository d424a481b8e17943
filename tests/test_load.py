"""The dangers: a file that is skipped in silence, half read, or known by another name the next time."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from documents import BROKEN, locked, pdf
from nearfield.errors import InvalidInput, NearfieldError, NotFound, StorageError
from nearfield.load import Document, find_files, id_of, path_of, read, read_file


def own(document: Document) -> dict[str, object]:
    """Metadata but the time, which is the file system's."""
    return {key: value for key, value in document.metadata.items() if key != "modified"}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Finding


def test_folders_are_searched_to_the_bottom_and_other_kinds_are_told(tmp_path: Path) -> None:
    wanted = [write(tmp_path / name, "text") for name in ("a.md", "deep/er/b.TXT", "c.jsonl")]
    other = write(tmp_path / "picture.png", b"\x89PNG")
    for hidden in (".git/config.txt", ".secret.md", "library.nf/notes.txt"):
        write(tmp_path / hidden, "not for reading")
    found = find_files([tmp_path])
    assert found.files == sorted(wanted)
    assert found.others == [other]


def test_a_file_given_twice_is_found_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.md", "text")
    assert find_files([tmp_path, file, tmp_path / "." / "a.md"]).files == [file]


def test_a_file_has_one_name_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "notes" / "a.md", "text")
    names = set()
    for folder, path in ((tmp_path, "notes"), (tmp_path / "notes", "."), (tmp_path / "notes", "../notes/a.md")):
        monkeypatch.chdir(folder)
        names.add(read_file(find_files([path]).files[0])[0].id)
    assert names == {id_of(file)}


def test_patterns_work_without_a_shell(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "text")
    write(tmp_path / "b.txt", "text")
    write(tmp_path / "deep" / "c.md", "text")
    assert [path.name for path in find_files([str(tmp_path / "**" / "*.md")]).files] == ["a.md", "c.md"]
    with pytest.raises(NotFound, match="no file matches"):
        find_files([str(tmp_path / "*.rst")])


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    file = write(tmp_path / "[draft].md", "text")
    assert find_files([file]).files == [file]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere: no such file or folder"):
        find_files([tmp_path / "nowhere"])


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    file = write(closed / "a.md", "text")
    file.chmod(0)
    with pytest.raises(StorageError, match=r"a\.md: cannot be read"):
        read_file(file)
    closed.chmod(0)
    try:
        with pytest.raises(StorageError, match="closed: cannot be listed"):
            find_files([tmp_path])
    finally:
        closed.chmod(0o700)


# Text and Markdown


def test_plain_text_is_one_document_named_by_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "rain.txt", "\ufeffIt rains.\r\n\r\n# no heading here\r\n")
    (document,) = read_file(file)
    assert document.text == "It rains.\n\n# no heading here\n"
    assert own(document) == {"source": file.as_posix(), "title": "rain"}
    assert document.id == file.as_posix()


def test_front_matter_becomes_metadata(tmp_path: Path) -> None:
    head = 'topic: pets\nyear: 1999\nprice: -1.5\nold: true\nnone:\nname: "007"\nzip: 00501\n'
    head += 'tags: [a, 2]\nlist:\n  - x\n  - "y"\n'
    (document,) = read_file(write(tmp_path / "a.md", f"---\n{head}---\n\n# The *Title* #\n\nBody.\n"))
    assert {key: value for key, value in own(document).items() if key not in ("source", "title")} == {
        "topic": "pets",
        "year": 1999,
        "price": -1.5,
        "old": True,
        "none": None,
        "name": "007",
        "zip": "00501",
        "tags": ["a", 2],
        "list": ["x", "y"],
    }
    assert document.metadata["title"] == "The *Title*"
    assert document.text.strip() == "# The *Title* #\n\nBody."


def test_the_files_own_title_and_source_win(tmp_path: Path) -> None:
    (document,) = read_file(write(tmp_path / "a.md", "---\ntitle: Mine\nsource: a book\n---\n# Other\n"))
    assert own(document) == {"title": "Mine", "source": "a book"}


@pytest.mark.parametrize(
    "text",
    [
        "---\nnested:\n  key: value\n---\nBody.",
        "---\ntext: |\n  many\n  lines\n---\nBody.",
        "---\nNot a field.\n---\nBody.",
        "---\nBody with a rule above.",
        "Text.\n---\nkey: value\n---\n",
    ],
)
def test_front_matter_beyond_us_stays_in_the_text(tmp_path: Path, text: str) -> None:
    (document,) = read_file(write(tmp_path / "a.md", text))
    assert document.text == text
    assert set(own(document)) == {"source", "title"}


# JSON lines


def test_json_lines_keep_ids_and_fields(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "One.", "year": 1999, "meta": {"by": "me", "n": {"x": 1}}, "tags": ["p"], "odd": [[1]]}]
    rows += [{"text": "Two.", "title": "T"}, {"id": 7, "text": ""}]
    file = write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    first, second, third = read_file(file)
    assert [d.id for d in (first, second, third)] == [f"{file.as_posix()}#{key}" for key in ("a", "line2", "7")]
    assert own(first) == {
        "source": file.as_posix(),
        "title": "r",
        "id": "a",
        "year": 1999,
        "meta.by": "me",
        "meta.n.x": 1,
        "tags": ["p"],
        "odd": "[[1]]",
    }
    assert (second.text, second.metadata["title"], third.text) == ("Two.", "T", "")


def test_a_line_separator_inside_a_text_does_not_break_the_line(tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\r\n")
    assert [d.text for d in read_file(file)] == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nonsense", "line 2 is not valid JSON"),
        ('{"text": "x", "n": NaN}', "line 2 is not valid JSON: NaN"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ('["text"]', 'line 2 is not an object with a "text"'),
        ('{"body": "x"}', 'line 2 is not an object with a "text"'),
        ('{"text": 5}', 'line 2 is not an object with a "text"'),
        ('{"text": "x", "id": [1]}', "line 2 has an id that is neither"),
        ('{"text": "x", "id": true}', "line 2 has an id that is neither"),
        ('{"text": "x", "id": "a"}', "line 2 has the id 'a', which line 1 has already"),
        ('{"text": "\\ud800"}', "line 2 holds half of a surrogate pair"),
    ],
)
def test_a_broken_line_is_named_and_nothing_of_its_file_is_taken(tmp_path: Path, line: str, said: str) -> None:
    file = write(tmp_path / "r.jsonl", '{"id": "a", "text": "fine"}\n' + line)
    with pytest.raises(InvalidInput) as caught:
        read_file(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


# Broken files


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"caf\xe9 au lait", r"not UTF-8 text \(byte 0xe9 at 3\)"),
        ("a.md", b"text\0text", "NUL"),
        ("a.txt", b"\xff\xfe\xdd\xd8b\x62", "not UTF-16 text"),
        ("a.csv", b"PK\x03\x04\x00\x00\xff", "NUL"),
        ("a.zip", b"PK", r"files of kind '\.zip' cannot be read, only \.md, \.txt"),
        ("picture", b"text", r"files of kind '\(no suffix\)' cannot be read"),
        ("a.txt", b"fine\n" + b"x" * 10_000_001, "line 2 has 10,000,001 characters; more than 10,000,000 is data"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        read_file(write(tmp_path / name, content))
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.txt: no such file"):
        read_file(tmp_path / "gone.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(NearfieldError, match=r"folder\.txt"):
        read_file(tmp_path / "folder.txt")


def test_ids_of_different_files_never_meet(tmp_path: Path) -> None:
    plain, marked = write(tmp_path / "a.md", "x"), write(tmp_path / "a.md#1.md", "x")
    assert not id_of(marked).startswith(id_of(plain) + "#")
    assert "#" not in id_of(marked)
    assert id_of(tmp_path / "a%23.md") != id_of(tmp_path / "a#.md")


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "café".encode("latin-1"))
    assert read_file(file, encoding="latin-1")[0].text == "café"
    assert read_file(write(tmp_path / "b.txt", "naïve\n".encode("utf-16")))[0].text == "naïve\n"
    with pytest.raises(InvalidInput, match="unknown encoding 'klingon'"):
        read_file(file, encoding="klingon")


def test_one_broken_file_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "good.md", "# Fine\n")
    write(tmp_path / "picture.png", b"")
    for name, content in BROKEN.items():
        write(tmp_path / name, content)
    loaded = read(tmp_path)
    assert [document.metadata["title"] for document in loaded.documents] == ["Fine"]
    assert [path.name for path in loaded.others] == ["picture.png"]
    assert len(loaded.problems) == len(BROKEN)
    for name, problem in zip(sorted(BROKEN), loaded.problems, strict=True):
        assert name in problem
        assert "\n" not in problem
        assert len(problem) < 400


# Ignore files and patterns


def test_ignore_files_are_read_as_git_reads_them(tmp_path: Path) -> None:
    """The oracle is git itself."""
    write(tmp_path / ".gitignore", "*.log\n/build/\n**/cache/*\n!keep.log\ndoc/*.txt\n# no.md\n\\#odd.md\n")
    write(tmp_path / "deep" / ".gitignore", "!*.log\nsecret.md\n/only-here.md\n")
    names = "a.md x.log keep.log build/b.md deep/build/b.md deep/y.log deep/secret.md deep/er/secret.md secret.md"
    names += " deep/only-here.md deep/er/only-here.md a/cache/c.md doc/a.txt doc/sub/a.txt no.md #odd.md build.md"
    for name in names.split():
        write(tmp_path / name, "text")
    git = ["git", "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard", "-z"], cwd=tmp_path, capture_output=True, text=True
    ).stdout.split("\0")
    expected = sorted(name for name in listed if name and not Path(name).name.startswith("."))
    found = find_files([tmp_path]).files
    assert [Path(file).relative_to(tmp_path).as_posix() for file in found] == expected
    inside = find_files([tmp_path / "deep" / "er"]).files  # the rules of the folders above hold there too
    assert [Path(file).name for file in inside] == ["only-here.md"]


def test_own_ignore_file_and_patterns(tmp_path: Path) -> None:
    write(tmp_path / ".nearfieldignore", "drafts/\n")
    for name in ("a.md", "b.txt", "drafts/c.md", "deep/d.md", "deep/e.txt"):
        write(tmp_path / name, "text")

    def names(**options: object) -> list[str]:
        return [Path(file).name for file in find_files(tmp_path, **options).files]  # type: ignore[arg-type]

    assert names() == ["a.md", "b.txt", "d.md", "e.txt"]
    assert names(include="*.md") == ["a.md", "d.md"]
    assert names(include=["/*.md", "/*.txt"]) == ["a.md", "b.txt"]
    assert names(exclude="deep/") == ["a.md", "b.txt"]
    assert names(include="*.txt", exclude=["deep/"]) == ["b.txt"]
    assert names(include="*.pdf") == []


def test_a_link_to_a_folder_above_is_no_endless_walk(tmp_path: Path) -> None:
    file = write(tmp_path / "a.md", "text")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "again.md").symlink_to(file)
    assert find_files(tmp_path).files == [file]


# Records


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    """The csv module stops at 131,072 characters unless it is told otherwise."""
    cell = "A long report. " * 20_000
    (document,) = read_file(write(tmp_path / "long.csv", f'id,text\n1,"{cell}"\n'))
    assert document.text == cell


def test_csv_rows_become_documents_with_typed_fields(tmp_path: Path) -> None:
    rows = 'id,name,price,tags\nA1,"Boots, brown",89.5,"warm\nand dry"\n\n2,Umbrella,12,\n'
    file = write(tmp_path / "shop.csv", rows)
    boots, umbrella = read_file(file)
    assert boots.id == f"{id_of(file)}#A1"
    assert boots.text == "id: A1\nname: Boots, brown\nprice: 89.5\ntags: warm\nand dry"
    assert own(boots) == {
        "source": file.as_posix(),
        "title": "shop",
        "id": "A1",
        "name": "Boots, brown",
        "price": 89.5,
        "tags": "warm\nand dry",
    }
    assert (umbrella.id, umbrella.metadata["price"]) == (f"{id_of(file)}#2", 12)
    assert [d.text for d in read_file(write(tmp_path / "s.csv", "n;text\n1;One; \n".replace("; \n", "\n")))] == ["One"]
    assert [d.metadata["n"] for d in read_file(write(tmp_path / "s.tsv", "n\ttext\n1\tOne,a;b;c\n"))] == [1]
    assert read_file(write(tmp_path / "empty.csv", "")) == []


def test_json_files_are_records_or_one_document(tmp_path: Path) -> None:
    listed = read_file(
        write(tmp_path / "l.json", '[{"text": "One", "n": 1}, {"name": "Two", "by": {"x": ["a", "b"]}}]')
    )
    assert [d.text for d in listed] == ["One", "name: Two\nby.x: a, b"]
    assert [d.id.rpartition("#")[2] for d in listed] == ["item1", "item2"]
    (one,) = read_file(write(tmp_path / "o.json", '{"text": "Body", "year": 1999}'))
    assert (one.text, one.metadata["year"], one.id) == ("Body", 1999, id_of(tmp_path / "o.json"))
    (settings,) = read_file(write(tmp_path / "s.json", '{"a": {"b": 1}, "c": null}'))
    assert settings.text == "a.b: 1"
    assert [d.text for d in read_file(write(tmp_path / "w.json", '["x", "y"]'))] == ["x, y"]
    assert [d.text for d in read_file(write(tmp_path / "e.json", "[]"))] == [""]


# PDF, Word, HTML


def test_a_pdf_is_one_document_that_knows_its_pages(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pdf", pdf(["First page, infor-", "mation."], [], ["Third page."], title="The Title"))
    (document,) = read_file(file)
    assert document.text == "First page, information.\n\nThird page."
    assert document.marks == ((0, {"page": 1}), (document.text.index("Third"), {"page": 3}))
    assert own(document) == {"source": file.as_posix(), "title": "The Title"}


def test_a_pdf_that_only_asks_for_an_empty_password_is_read(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "a.pdf", locked("")))[0].text == "Secret words."


def test_word_headings_and_tables_become_markdown(tmp_path: Path) -> None:
    import docx

    made = docx.Document()
    made.core_properties.title = "Report"
    made.add_heading("Findings", level=1)
    made.add_paragraph("Rain fell.")
    made.add_paragraph("umbrella", style="List Bullet")
    table = made.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "May", "80 mm"
    made.save(str(tmp_path / "r.docx"))
    (document,) = read_file(tmp_path / "r.docx")
    assert document.text == "# Findings\n\nRain fell.\n\n- umbrella\n\n| May | 80 mm |"
    assert (document.metadata["title"], document.layout) == ("Report", "markdown")


def test_html_says_what_its_main_part_says(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title> A &amp; B </title><style>x{}</style></head><body><nav>Menu</nav>
    <main><h1>Cats</h1><p>They <b>purr</b>, <a href="x">often</a>.</p><script>alert(1)</script>
    <ul><li>one</li><li>two</li></ul><pre>a_b  =  1</pre></main><footer>Imprint</footer></body></html>"""
    (document,) = read_file(write(tmp_path / "a.html", page))
    assert document.metadata["title"] == "A & B"
    assert document.text.startswith("# Cats\n\nThey **purr**, often.\n\n- one\n- two")
    assert "a_b  =  1" in document.text
    assert not {word for word in ("Menu", "alert", "Imprint", "x{}") if word in document.text}


def test_html_in_its_own_encoding(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>café</p></body></html>'.encode("latin-1")
    assert read_file(write(tmp_path / "a.htm", page))[0].text == "café"


def test_a_missing_package_is_told_with_its_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.pdf", pdf(["x"]))
    write(tmp_path / "b.txt", "text")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    loaded = read(tmp_path)
    assert [d.text for d in loaded.documents] == ["text"]
    assert "a.pdf" in loaded.problems[0]
    assert "pip install 'nearfield[load]'" in loaded.problems[0]


# Addresses


def test_addresses_are_read_by_what_the_server_says_they_are(server: str) -> None:
    (page,) = read_file(f"{server}/page#part")
    assert (page.id, page.text, page.metadata["title"]) == (f"{server}/page", "# Head\n\nBody.", "T")
    assert page.metadata["modified"] == "2020-01-02T03:04:05+00:00"
    assert read_file(f"{server}/moved")[0].text == page.text
    assert read_file(f"{server}/latin")[0].text == "café"
    assert read_file(f"{server}/notes.md")[0].layout == "markdown"
    assert read_file(f"{server}/file.pdf")[0].marks == ((0, {"page": 1}),)
    loaded = read([f"{server}/page", f"{server}/nowhere"])
    assert len(loaded.documents) == 1
    assert loaded.problems == [f"{server}/nowhere: the server answered 404 Not Found"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/broken", "answered 500"),
        ("/cut", "the answer ends 100 bytes too early"),
        ("/file-next", "cannot be fetched|answered 302"),  # an answer may not lead to the reader's own files
        ("/picture.png", "is image/png, which cannot be read"),
    ],
)
def test_a_server_that_misbehaves_is_one_sentence(server: str, path: str, said: str) -> None:
    with pytest.raises(NearfieldError, match=said):
        read_file(server + path)


def test_an_unreachable_host_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.raises(StorageError, match="cannot be fetched"):
        read_file(address)


def test_a_file_address_is_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a b.txt", "text")
    assert read_file(file.as_uri())[0].id == id_of(file)
    assert path_of(id_of(tmp_path / "a#%.md")) == tmp_path / "a#%.md"
    assert find_files(file.as_uri()).files == [file]


class _Handler(http.server.BaseHTTPRequestHandler):
    ANSWERS: ClassVar[dict[str, tuple[int, str, bytes]]] = {
        "/page": (200, "text/html", b"<title>T</title><h1>Head</h1><p>Body.</p>"),
        "/latin": (200, "text/plain; charset=latin-1", "café".encode("latin-1")),
        "/notes.md": (200, "text/plain", b"# Notes"),
        "/picture.png": (200, "image/png", b"\x89PNG"),
        "/broken": (500, "text/plain", b""),
    }

    def do_GET(self) -> None:
        if self.path in ("/moved", "/file-next"):
            self.send_response(302)
            self.send_header("Location", "/page" if self.path == "/moved" else "file:///etc/hostname")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        code, kind, body = self.ANSWERS.get(self.path, (404, "text/plain", b""))
        if self.path in ("/file.pdf", "/cut"):
            code, kind, body = 200, "application/octet-stream", pdf(["x"])
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
        self.send_header("Content-Length", str(len(body) + (100 if self.path == "/cut" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()
