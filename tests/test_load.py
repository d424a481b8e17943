"""The dangers: a file that is skipped in silence, half read, or known by another name the next time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nearfield.errors import InvalidInput, NearfieldError, NotFound, StorageError
from nearfield.load import find_files, id_of, read_file


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
    assert document.metadata == {"source": file.as_posix(), "title": "rain"}
    assert document.id == file.as_posix()


def test_front_matter_becomes_metadata(tmp_path: Path) -> None:
    head = 'topic: pets\nyear: 1999\nprice: -1.5\nold: true\nnone:\nname: "007"\nzip: 00501\n'
    head += 'tags: [a, 2]\nlist:\n  - x\n  - "y"\n'
    (document,) = read_file(write(tmp_path / "a.md", f"---\n{head}---\n\n# The *Title* #\n\nBody.\n"))
    own = {key: value for key, value in document.metadata.items() if key not in ("source", "title")}
    assert own == {
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
    assert document.metadata == {"title": "Mine", "source": "a book"}


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
    assert set(document.metadata) == {"source", "title"}


# JSON lines


def test_json_lines_keep_ids_and_fields(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "One.", "year": 1999, "meta": {"by": "me", "n": {"x": 1}}, "tags": ["p"], "odd": [[1]]}]
    rows += [{"text": "Two.", "title": "T"}, {"id": 7, "text": ""}]
    file = write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    first, second, third = read_file(file)
    assert [d.id for d in (first, second, third)] == [f"{file.as_posix()}#{key}" for key in ("a", "line2", "7")]
    assert first.metadata == {
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
        ("a.pdf", b"%PDF", r"files of kind '\.pdf' cannot be read, only \.txt, \.md"),
        ("README", b"text", r"files of kind '\(no suffix\)' cannot be read"),
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
