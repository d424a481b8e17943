"""The write-ahead log moves into the catalog beside those who write; SQLite has someone wait for that.

A checkpoint that fails is no error: all of it is in the log, and the next one, or closing the database, moves it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHANGES = 2000  # rows written, removed or changed, after which the log is worth moving
LIMIT = 1 << 26  # bytes of a log; beyond, a writer sees to it that it begins anew


class Checkpointer:
    """Has a log moved by a thread that lives as long as that takes. The interpreter waits for it at its end.

    `move` moves the log as far as readers allow, beside writers, and raises nothing. It is no part of this object: a
    store that nobody uses any more is to go at once.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._changes = 0
        self._thread: threading.Thread | None = None

    def written(self, changes: int, move: Callable[[], object]) -> None:
        """So many rows were changed. The caller holds the lock of this process's writer."""
        self._changes += changes
        if self._changes >= CHANGES and not (self._thread is not None and self._thread.is_alive()):
            self._changes = 0
            with suppress(RuntimeError):  # the interpreter is at its end, or has too many threads
                self._thread = threading.Thread(target=move, name="nearfield checkpoint")
                self._thread.start()

    def make_room(self, move: Callable[[], object]) -> None:
        """Move all of a log that has become long: then the next change is written at its beginning.

        While many write, each checkpoint ends a little behind the last of them, and a log only begins anew when there
        is nothing left to move. The caller holds the lock of this process's writer, and has no transaction open.
        """
        with suppress(OSError):  # no log yet
            if self._log.stat().st_size > LIMIT:
                self.wait()
                move()

    def wait(self) -> None:
        """Return when no thread is at it."""
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()
