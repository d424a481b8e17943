"""The maintenance lock: who holds it tidies up, publishes indexes and compacts, while all others read and write.

It is a lock on the file `maintenance.lock`, so it ends with the process that held it, however that ended.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

LOCK = "maintenance.lock"


class MaintenanceLock:
    """Held by one thread of one process at a time. That thread may take it again."""

    def __init__(self, root: Path) -> None:
        self._path = root / LOCK
        self._thread = threading.RLock()
        self._depth = 0
        self._file: int | None = None

    def acquire(self, wait: float = 0.0) -> bool:
        """Take the lock, trying for `wait` seconds; False when someone else has it."""
        deadline = time.monotonic() + wait
        if not self._thread.acquire(timeout=wait) if wait else not self._thread.acquire(blocking=False):
            return False
        try:
            while self._depth == 0 and not self._lock_file():
                if time.monotonic() >= deadline:
                    self._thread.release()
                    return False
                time.sleep(0.02)
        except BaseException:
            self._thread.release()
            raise
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.abandon()
        self._thread.release()

    def abandon(self) -> None:
        """Close the file. In a forked child this leaves the lock to the parent, whose file is open still."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock_file(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except PermissionError:  # what Windows says of a lock that is taken
            os.close(file)
            if os.name == "nt":
                return False
            raise
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True
