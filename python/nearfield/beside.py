"""Work that a thread does while its caller does something else that lets the interpreter go, as SQLite and files do."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Task(Generic[T]):
    """`work`, done by a thread. Whoever begins one asks for its result, or at least waits for its end.

    Where several threads are busy, half a millisecond goes by until `threading.Thread.start` has seen the thread begin.
    Here nobody waits for that.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._made: T | None = None
        self._error: BaseException | None = None
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def wait(self) -> None:
        """Return when it has ended, however."""
        with self._running:
            pass

    def result(self) -> T:
        """What it made; raises what went wrong with it."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._made  # type: ignore[return-value]  # without an error it was made

    def _run(self) -> None:
        try:
            self._made = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._running.release()


class _End:
    """Comes after the last item."""


def prefetched(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items, each made by a thread while the one before it is used. An error comes where its item would.

    Whoever stops early closes this iterator; when that is done, nothing more is made.
    """
    iterator = iter(items)
    last: T | _End = next(iterator, _End())  # the first one, while nobody has anything else to do
    if isinstance(last, _End):
        return
    made: Queue[T | _End] = Queue(1)  # when it is full the thread waits, and is in nobody's way
    stopped = False

    def make(rest: Iterator[T]) -> None:
        try:
            for item in rest:
                made.put(item)
                if stopped:
                    break
        finally:
            made.put(_End())

    task = Task(lambda: make(iterator))
    try:
        while not isinstance(last, _End):
            yield last
            last = made.get()
    finally:
        stopped = True
        while not isinstance(last, _End):
            last = made.get()
        task.wait()
    task.result()
