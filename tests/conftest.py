"""What several test files start from."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import nearfield as nf
from databases import Letters
from nearfield import transaction
from nearfield.cli import main
from terminal import Ended, Run

# The same examples at every run, however slow the machine: CI fails for a change alone. To look for new ones:
# pytest --hypothesis-profile=random
settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.register_profile("random", settings.get_profile("fixed"), derandomize=False)
settings.load_profile("fixed")

# Nothing that stands in somebody's environment may change what a test sees: colours, keys, proxies, our own variables.
_LEFT_OUT = {"GITHUB_ACTIONS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TTY_COMPATIBLE"}
_LEFT_OUT |= {"TTY_INTERACTIVE", "TERMINAL_WIDTH", "COLUMNS", "LINES", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
for name in set(os.environ) - {"NEARFIELD_SIMD", "NEARFIELD_TEST_EXAMPLES"}:
    if name.upper() in _LEFT_OUT or name.startswith("NEARFIELD_") or name.endswith("_API_KEY"):
        del os.environ[name]

# What runs in the background of a script ignores Ctrl-C, and so would the processes that it is sent to here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["memory", "folder"])
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nf.Database]:
    monkeypatch.setattr(transaction, "SEAL_ROWS", 8)  # so that both sealed and unsealed vectors take part
    with nf.open(tmp_path / "x.nf" if request.param == "folder" else None) as opened:
        yield opened


@pytest.fixture
def letters(db: nf.Database) -> nf.Collection:
    collection = db.collection("letters", embedder=Letters())
    collection.add(["aaa", "bbb", "ccc", "aab"], ids=["a", "b", "c", "ab"], metadatas=[{"n": n} for n in range(4)])
    return collection


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command inside this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str | Path) -> Ended:
        monkeypatch.setattr("sys.argv", ["nearfield", *map(str, words)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            main()
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return run
