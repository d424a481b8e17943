"""Files of the formats that nearfield reads, made by hand: good ones and broken ones."""

from __future__ import annotations

import io
import zipfile

import pypdf


def pdf(*pages: list[str], title: str | None = None) -> bytes:
    """A PDF file with these lines on its pages."""
    writer = pypdf.PdfWriter()
    for lines in pages:
        page = writer.add_blank_page(width=595, height=842)
        font = pypdf.generic.DictionaryObject(
            {
                pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
                pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
                pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
            }
        )
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): writer._add_object(font)})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        content = pypdf.generic.DecodedStreamObject()
        shown = " ".join(f"({line}) Tj 0 -14 Td" for line in lines)
        content.set_data(f"BT /F1 12 Tf 72 720 Td {shown} ET".encode())
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(content)
    if title is not None:
        writer.add_metadata({"/Title": title})
    return _bytes(writer)


def locked(password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(pdf(["Secret words."])))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    return _bytes(writer)


def _bytes(writer: pypdf.PdfWriter) -> bytes:
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _zip_without_a_document() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return out.getvalue()


BROKEN: dict[str, bytes] = {
    "blank.pdf": pdf([]),
    "cut.pdf": pdf(["words"])[:300],
    "empty.pdf": b"",
    "locked.pdf": locked("hunter2"),
    "no.pdf": b"GIF89a",
    "cut.docx": b"PK\x03\x04 and then nothing",
    "empty.docx": b"",
    "old.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "other.docx": _zip_without_a_document(),
    "deep.html": b"<div>" * 20_000,
    "latin.txt": b"caf\xe9",
    "program.py": b"\x7fELF\x00\x00",
    "rows.csv": b"a,b\n1,2,3\n",
    "quote.csv": b'a,b\n"never closed',
    "names.csv": b"a,a\n1,2\n",
    "rows.jsonl": b'{"text": 1}',
    "deep.json": b"[" * 200_000,
}
