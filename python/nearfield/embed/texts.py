"""What every embedder asks of its texts, and what it shows while it works on them."""

from __future__ import annotations

import importlib.util
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nearfield._optional import require
from nearfield.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LONG = 2.0  # seconds of work after which a terminal gets a progress bar unasked


class Asked(ABC):
    """An embedder whose vectors' length is known only from a vector."""

    _dimension: int | None = None

    @abstractmethod
    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    @property
    def dimension(self) -> int:
        """The length of a vector. Where it is not known yet, a word is encoded to see."""
        if self._dimension is None:
            self._dimension = self.encode_queries(["dimension"]).shape[1]
        return self._dimension


class TruncationWarning(UserWarning):
    """Some texts were longer than the model reads; what stood behind its limit is not in their vectors."""


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list of non-empty strings.

    Raises:
        InvalidInput: a text is empty, or only white space, or not a string; its position is named.
    """
    if isinstance(texts, str | bytes):
        raise InvalidInput(f"texts: got a single {type(texts).__name__}; give a list of texts, such as [text]")
    try:
        texts = list(texts)
    except TypeError:
        raise InvalidInput(f"texts: got {type(texts).__name__}; give a list of texts") from None
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"texts[{position}] is {type(text).__name__}, not str; give a list of texts")
        if not text or text.isspace():
            raise InvalidInput(f"texts[{position}] is empty: {text!r:.40} has no meaning to embed; leave it out")
    return texts


@contextmanager
def progress(total: int, shown: bool | None, note: Callable[[], str] | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many more texts are done, and shows it on stderr.

    Args:
        total: the number of texts.
        shown: True: at once; False: never; None: once the work has taken a while, if stderr is a terminal and the
            package rich is installed.
        note: asked at each step for what else there is to say: what it has cost so far.

    Raises:
        MissingExtra: `shown` is True and rich is not installed.
    """
    if shown is None:
        shown = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
        patience = _LONG
    else:
        patience = 0.0
    if not shown or total == 0:
        yield lambda _done: None
        return
    rich = require("rich.progress", extra="cli", purpose="A progress bar")
    columns = [*rich.Progress.get_default_columns(), rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[note]}")]
    bar = rich.Progress(*columns, console=require("rich.console", extra="cli", purpose="").Console(stderr=True))
    task = bar.add_task("embedding", total=total, note="")
    begun, started = time.monotonic(), False

    def advance(done: int) -> None:
        nonlocal started
        bar.update(task, advance=done, note=note() if note else "")
        if not started and time.monotonic() - begun >= patience:
            bar.start()
            started = True

    try:
        advance(0)
        yield advance
    finally:
        if started:
            bar.stop()
