"""Sealed vectors: plain `.npy` files, written once, never changed.

A segment holds the vectors of consecutive rows. It reaches its final name only when all of its bytes are on the disk,
and counts only when the catalog names it. Whoever writes or removes one holds the catalog's write lock, so a file that
the catalog does not name belongs to nobody: it was left by a crash.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield import _native
from nearfield.beside import Task
from nearfield.errors import Corrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECTORS = "vectors"
INDEXES = "indexes"
_TEMPORARY = ".tmp"
_CHUNK = 1 << 20  # bytes that are checked at once: they stay in the cache of a core
_BESIDE = 1 << 20  # bytes from which on writing is worth a thread


class Segment(NamedTuple):
    """A row of the table `segments`, and the file it stands for."""

    path: Path
    first_row: int
    rows: int
    dtype: str
    crc32: int

    def checked(self, dimension: int, known: set[tuple[Path, int]]) -> np.memmap[Any, Any]:
        """As `open`; when the file is not among those `known` to be good, it is read through first.

        Raises:
            Corrupt: also when its bytes are not those that were written.
        """
        vectors = self.open(dimension)
        if (self.path, self.crc32) not in known:
            crc, step = 0, max(1, _CHUNK // (4 * dimension))
            for at in range(0, self.rows, step):
                crc = _native.crc32(_bytes(vectors[at : at + step]), crc)
            if crc != self.crc32:
                raise Corrupt(f"the bytes of {self.path} are not those that were written; restore it from a backup")
            known.add((self.path, self.crc32))
        return vectors

    def open(self, dimension: int) -> np.memmap[Any, Any]:
        """The vectors, memory-mapped: shape (rows, dimension).

        Raises:
            Corrupt: the file is missing, or is not what the catalog says.
        """
        try:
            vectors: np.memmap[Any, Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy reads the header as Python: damage in it raises whatever Python raises
            raise Corrupt(
                f"the vectors in {self.path} cannot be read ({error}); restore the file from a backup"
            ) from error
        if vectors.shape != (self.rows, dimension) or vectors.dtype != np.dtype(self.dtype):
            raise Corrupt(
                f"{self.path} holds {vectors.shape} {vectors.dtype}, the catalog says "
                f"({self.rows}, {dimension}) {self.dtype}; restore the file from a backup"
            )
        return vectors


class SegmentFile:
    """A segment being written. It has its name when `finish` returns; before that, `abandon` leaves nothing of it."""

    def __init__(self, folder: Path, dimension: int) -> None:
        make_folder(folder)
        self.number = next_number(folder)
        self.rows = 0
        self.crc32 = 0
        self.path = folder / file_name(self.number)
        self._dimension = dimension
        self._temporary = self.path.with_name(self.path.name + _TEMPORARY)
        self._file = self._temporary.open("xb")
        self._written(self._header)
        self._end = self._file.tell()

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add vectors, (n, dimension) float32."""
        if len(vectors):
            self._written(lambda: self._write(vectors))

    def sync(self) -> None:
        """Put what was written so far on the disk: then less is left to do when others wait."""
        self._file.flush()
        sync(self._file.fileno())

    def finish(self) -> Path:
        """Put the file and its name on the disk; returns its path. When this raises, no file is left."""
        try:
            self._file.seek(0)
            self._header()
            self.sync()
            self._file.close()
            self._temporary.replace(self.path)
            sync_folder(self.path.parent)
        except BaseException:
            self.abandon()
            raise
        return self.path

    def abandon(self) -> None:
        with suppress(OSError):
            self._file.close()
        for leftover in (self._temporary, self.path):
            with suppress(OSError):
                leftover.unlink()

    def _write(self, vectors: NDArray[np.float32]) -> None:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        self._file.flush()
        self.crc32 = _native.write_rows(self._temporary, self._end, rows, self.crc32)
        self._end += rows.nbytes
        self.rows += len(rows)

    def _header(self) -> None:
        # NumPy leaves room for the number of rows to grow: the header keeps its length.
        shape = (self.rows, self._dimension)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})

    def _written(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException:
            self.abandon()
            raise


def write(folder: Path, parts: Sequence[NDArray[np.float32]]) -> SegmentFile:
    """Write `parts` (each (n, d) float32), one after the other, as a new segment.

    When this returns, the file and its name are on the disk. When it raises, no file is left.
    """
    return _filled(SegmentFile(folder, parts[0].shape[1]), parts)


def _filled(file: SegmentFile, parts: Sequence[NDArray[np.float32]]) -> SegmentFile:
    for part in parts:
        file.append(part)
    file.finish()
    return file


class Beside:
    """Writes a segment in a thread, if it is large, while the caller does something else. `file` waits for it.

    Whoever does not get as far as asking for the file calls `abandon`.
    """

    def __init__(self, folder: Path, parts: Sequence[NDArray[np.float32]]) -> None:
        self._write = functools.partial(write, folder, parts)
        self._task: Task[SegmentFile] | None = None
        if sum(part.nbytes for part in parts) >= _BESIDE:
            file = SegmentFile(folder, parts[0].shape[1])  # while no other thread needs the interpreter
            try:
                self._task = Task(functools.partial(_filled, file, parts))
            except BaseException:  # no more threads, perhaps
                file.abandon()
                raise

    def file(self) -> SegmentFile:
        """The finished file; raises what went wrong with it, and then there is none."""
        return self._write() if self._task is None else self._task.result()

    def abandon(self) -> None:
        if self._task is not None:
            with suppress(Exception):
                self._task.result().abandon()


def put(path: Path, write: Callable[[Path], None]) -> Path:
    """Have `write` make a file, which gets its name when its bytes are on the disk. If this raises, no file is left."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            sync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        for leftover in (temporary, path):
            with suppress(OSError):
                leftover.unlink()
        raise
    return path


def file_name(number: int) -> str:
    return f"{number:06d}.npy"


def index_name(kind: str, number: int) -> str:
    return f"{kind}-{number:06d}.nfi"


def next_number(folder: Path, kind: str = "") -> int:
    """A number that no file has: an orphan may be mapped by a reader, and is not written over."""
    stems = [name.split(".")[0].removeprefix(f"{kind}-" if kind else "") for name in _files(folder)]
    return max((int(stem) for stem in stems if stem.isdigit()), default=0) + 1


def orphans(root: Path, known: Callable[[], Iterable[Path]]) -> list[Path]:
    """Files of ours below `root` that the catalog does not name.

    The files are listed before `known` reads the catalog: a segment finished in between is not taken for an orphan.
    """
    files = [folder / name for folder in _folders(root) for name in _files(folder)]
    names = set(known()) if files else set()
    return [path for path in files if path not in names]


def remove(root: Path, paths: Iterable[Path]) -> None:
    """Remove files, and folders that are empty. What cannot be removed (Windows, while mapped) stays an orphan."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
    for folder in _folders(root):
        with suppress(OSError):
            folder.rmdir()


def let_go(vectors: NDArray[Any]) -> None:
    """Take a mapped file that was read through out of this process's memory; what is asked of it comes again."""
    mapped = getattr(vectors, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def sync(descriptor: int) -> None:
    """Return when the file's bytes are on the disk itself, not in its cache."""
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS, where fsync stops at the drive's cache
        if full is not None:
            fcntl.fcntl(descriptor, full)
            return
    except (ImportError, OSError):  # Windows has no fcntl, and some file systems no F_FULLFSYNC
        pass
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` are on the disk."""
    if os.name == "nt":  # Windows cannot open folders; NTFS journals names by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and the one it stands in, so that both are still there after a power cut."""
    for path in (folder.parent, folder):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def _bytes(vectors: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(vectors).reshape(-1).view(np.uint8)


def _folders(root: Path) -> list[Path]:
    tops = [top for name in (VECTORS, INDEXES) if (top := root / name).is_dir()]
    return sorted(path for top in tops for path in top.iterdir() if path.is_dir())


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.endswith((".npy", ".nfi", _TEMPORARY)))
