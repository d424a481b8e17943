"""Bytes from where they are: a file, or an address that the user named."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from nearfield.errors import InvalidInput, NotFound, StorageError

TIMEOUT = 30  # seconds without an answer
MAX_BYTES = 200_000_000  # of an answer; what is larger is downloaded by hand, with a look at it
_SUFFIX_OF = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "text/plain": ".txt",
}


class Content(NamedTuple):
    """Bytes, and what is known of them. `suffix` says of which kind they are."""

    data: bytes
    suffix: str
    title: str
    modified: str | None
    kind: str = ""
    encoding: str | None = None


def from_file(path: Path) -> Content:
    """The content of a file.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read()
        changed = path.stat().st_mtime
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Content(data, path.suffix.lower(), path.stem, moment(changed))


def from_address(address: str) -> Content:
    """What an http or https server answers, and of which kind it says that is.

    Raises:
        NotFound: the server has no such page.
        StorageError: the server cannot be reached, or answers something else than a page.
        InvalidInput: the page is too large.
    """
    address = urldefrag(address).url
    request = urllib.request.Request(address, headers={"User-Agent": "nearfield", "Accept": "*/*"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            data = answer.read(MAX_BYTES + 1)
            kind, charset = answer.headers.get_content_type(), answer.headers.get_content_charset()
            stamp, promised = answer.headers.get("Last-Modified"), answer.length
    except urllib.error.HTTPError as error:
        error.close()
        told = f"{address}: the server answered {error.code} {error.reason}"
        raise (NotFound(told) if error.code in (404, 410) else StorageError(told)) from None
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise StorageError(f"{address}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error
    except Exception as error:  # http.client has errors of its own for an answer that is none, or that is cut
        raise StorageError(f"{address}: cannot be fetched: {type(error).__name__}: {error}") from error
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{address}: has more than {MAX_BYTES:,} bytes; download it, and index the file")
    if promised:
        raise StorageError(f"{address}: cannot be fetched: the answer ends {promised:,} bytes too early")
    path = Path(unquote(urlsplit(address).path))
    generic = kind in ("text/plain", "application/octet-stream", "binary/octet-stream")
    suffix = path.suffix.lower() if path.suffix and generic else _SUFFIX_OF.get(kind, path.suffix.lower())
    return Content(data, suffix, path.stem or urlsplit(address).netloc, _stamp(stamp), kind, charset)


def moment(seconds: float) -> str:
    """A time of the file system in UTC, to the second; such texts sort by time."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _stamp(header: str | None) -> str | None:
    try:
        return None if header is None else parsedate_to_datetime(header).astimezone(UTC).isoformat()
    except ValueError:
        return None
