"""A disk that forgets what was not synced: made from a trace of the system calls of a process that writes.

What a file holds is on the disk when the file was synced; that it has a name, when its folder was. Whatever else was
written is lost when the power fails: all of it, or all but some of it, for a system may write early what it likes.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,write,pwrite64,lseek,ftruncate,fsync,fdatasync,rename,link,unlink,unlinkat,mkdir,rmdir"


@dataclass
class File:
    """`now` is what readers see, `disk` what was synced."""

    now: bytearray = field(default_factory=bytearray)
    disk: bytes = b""


@dataclass
class Folder:
    """Names, as they are and as they are on the disk."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    disk: dict[str, File | Folder] = field(default_factory=dict)


def can_trace() -> bool:
    """Whether strace is there, and the system lets it watch other processes."""
    try:
        return not subprocess.run(["strace", "-f", "--seccomp-bpf", "true"], stderr=subprocess.DEVNULL).returncode
    except OSError:
        return False


def traced(command: list[str], trace: Path) -> None:
    """Run a command under strace."""
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    subprocess.run([*strace, sys.executable, *command], check=True, timeout=300, stdout=subprocess.DEVNULL)


def _text(quoted: str) -> bytes:
    return bytes.fromhex(quoted.replace("\\x", ""))


def _calls(trace: Path) -> Iterator[tuple[str, str, int]]:
    """Name, arguments and result of each call that succeeded, in order of their ends."""
    waiting: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            waiting[thread] = rest.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", rest):
            rest = waiting.pop(thread) + rest[resumed.end() :]
        if match := re.match(r"(\w+)\((.*)\)\s+= (\d+)", rest):
            yield match[1], match[2], int(match[3])


class Disk:
    """Replays a trace, as far as it happened below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = Folder()
        self._offsets: dict[int, int] = {}

    def moments(self, trace: Path) -> Iterator[tuple[bytes, int]]:
        """After each sync: what was printed so far, and how often was synced. `cut` says what the disk has then."""
        printed, syncs = b"", 0
        for name, arguments, result in _calls(trace):
            if name == "write" and arguments.startswith("1<"):
                printed += _text(re.findall(r'"([^"]*)"', arguments)[0])
            elif self._do(name, arguments, result):
                syncs += 1
                yield printed, syncs

    def cut(self, target: Path, keep: random.Random | None = None) -> None:
        """Make `target` what the disk holds if the power fails now; of what is not synced, `keep` keeps some."""
        target.mkdir()
        self._put(self._top, target, keep)

    def _put(self, folder: Folder, target: Path, keep: random.Random | None) -> None:
        names = dict(folder.disk)
        if keep is not None:
            for name in sorted(folder.now.keys() | folder.disk.keys()):
                if keep.random() < 0.5:
                    names.pop(name, None)
                    if name in folder.now:
                        names[name] = folder.now[name]
        for name, thing in names.items():
            if isinstance(thing, Folder):
                (target / name).mkdir()
                self._put(thing, target / name, keep)
            elif not name.endswith("-shm"):  # memory of those who have the catalog open
                early = keep is not None and keep.random() < 0.3
                (target / name).write_bytes(thing.now if early else thing.disk)

    def _find(self, path: str) -> tuple[Folder, str] | None:
        """The folder in which a path is, and its name there."""
        relative = Path(path)
        if not relative.is_relative_to(self._root):
            return None
        folder = self._top
        *parents, name = ["", *relative.relative_to(self._root).parts]
        for parent in parents[1:]:
            inner = folder.now.get(parent)
            if not isinstance(inner, Folder):
                return None
            folder = inner
        return folder, name

    def _do(self, name: str, arguments: str, result: int) -> bool:
        """Do one call; True when it was a sync of something here."""
        paths = [_text(quoted).decode(errors="replace") for quoted in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        held = re.match(r"(\d+)<((?:\\x[0-9a-f]{2})*)>", arguments)
        if held:
            descriptor, place = int(held[1]), self._find(_text(held[2]).decode(errors="replace"))
            if place is None:
                return False
            folder, entry = place
            thing = folder.now.get(entry) if entry else self._top
            if name in ("fsync", "fdatasync"):
                if isinstance(thing, Folder):
                    thing.disk = dict(thing.now)
                elif thing is not None:
                    thing.disk = bytes(thing.now)
                return thing is not None
            if name == "lseek":
                self._offsets[descriptor] = result
            elif isinstance(thing, File) and name in ("write", "pwrite64"):
                data = _text(re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)[0])[:result]
                at = int(arguments.rsplit(", ", 1)[1]) if name == "pwrite64" else self._offsets.get(descriptor, 0)
                thing.now.extend(bytes(max(0, at - len(thing.now))))
                thing.now[at : at + len(data)] = data
                if name == "write":
                    self._offsets[descriptor] = at + len(data)
            elif isinstance(thing, File) and name == "ftruncate":
                length = int(arguments.rsplit(", ", 1)[1])
                thing.now[:] = thing.now[:length] + bytes(max(0, length - len(thing.now)))
            return False
        places = [place for path in paths if (place := self._find(path)) is not None and place[1]]
        if name == "openat":
            self._offsets[result] = 0
            if places:
                folder, entry = places[0]
                if "O_CREAT" in arguments and entry not in folder.now:
                    folder.now[entry] = File()
                thing = folder.now.get(entry)
                if "O_TRUNC" in arguments and isinstance(thing, File):
                    thing.now.clear()
        elif name == "mkdir" and places:
            places[0][0].now[places[0][1]] = Folder()
        elif name in ("unlink", "unlinkat", "rmdir") and places:
            places[0][0].now.pop(places[0][1], None)
        elif name in ("rename", "link") and len(places) == 2:
            (old, old_name), (new, new_name) = places
            new.now[new_name] = old.now[old_name]
            if name == "rename":
                del old.now[old_name]
        return False
