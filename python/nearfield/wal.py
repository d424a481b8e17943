"""The write-ahead log in which the last changes are: bytes of it that changed on the disk.

SQLite reads a log up to the first wrong checksum and forgets the rest, so whatever is behind it has to be found before
SQLite opens the log, or nobody will ever know.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nearfield import _native
from nearfield.schema import CATALOG

WAL = f"{CATALOG}-wal"
DAMAGED = f"{CATALOG}-damaged-wal"
_WHAT = (
    "it is damaged, and {} or more changes behind the damage are lost, unless the power failed before they were "
    "acknowledged; compare with a backup"
)


def tell(root: Path, *, keep: bool) -> None:
    """Warn of a damaged log, and with `keep` keep a copy of it: to be called before SQLite opens it."""
    if (lost := _lost(root)) == 0:
        return
    if keep and not (root / DAMAGED).exists():
        with suppress(OSError):  # no room: it is told all the same
            shutil.copyfile(root / WAL, root / DAMAGED)
    warnings.warn(f"{root / WAL}: {_WHAT.format(lost)}", stacklevel=2)


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with the log, and with one that is kept from before."""
    if lost := _lost(root):
        yield root / WAL, _WHAT.format(lost)
    if (root / DAMAGED).exists():
        yield root / DAMAGED, f"a log as it was when the database was opened: {_WHAT.format('some')}"


def _lost(root: Path) -> int:
    """How many commits are behind a damage, at least."""
    found = before = None
    for _ in range(5):
        try:
            found = _native.broken_log(root / WAL)
        except FileNotFoundError:
            return 0
        if found is None or found == before:
            break
        before = found
        time.sleep(0.02)  # someone may be writing, and has written what was behind before what was in front was read
    return 0 if found is None else found[1]
