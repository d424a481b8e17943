"""What the measurements ask the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
from pathlib import Path


def resident(*kinds: str) -> int:
    """Bytes of memory that this process holds, or of some kinds ("RssAnon", "RssFile", "RssShmem"); 0 where the
    system does not tell."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.M))
    return 1024 * sum(int(sizes.get(kind, 0)) for kind in kinds or ("VmRSS",))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return run.stdout.strip() or "unknown"


def load() -> float | None:
    """How many processes wanted to run in the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cores() -> list[int]:
    """The cores that this thread may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin(chosen: list[int]) -> None:
    """Keep this thread, and threads and processes that it starts later, to some cores (where the system can)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, chosen)


class Peak:
    """The most memory of its own (not of mapped files) that this process holds while the block runs."""

    def __enter__(self) -> Peak:
        self.before = self.most = resident("RssAnon", "RssShmem")
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident("RssAnon", "RssShmem"))

    def __exit__(self, *_: object) -> None:
        self.most = max(self.most, resident("RssAnon", "RssShmem"))
        self._done.set()
        self._watch.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before
