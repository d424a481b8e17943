"""The danger: a path for another processor than the developer's that nobody ever ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nearfield as nf

LEVELS = ("scalar", "avx2", "avx512")


def _run(*command: str, level: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NEARFIELD_SIMD": level, "NEARFIELD_TEST_EXAMPLES": "20"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_gives_the_exact_answers(level: str) -> None:
    """The level is chosen once a process, so each one runs the exactness tests in a process of its own."""
    if level == nf.build_info()["simd"]:
        return  # this process runs them itself
    if level not in nf.build_info()["simd_available"]:
        assert level != "scalar", "the portable path is there on every processor"
        return
    run = _run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_exactness.py")),
               "-m", "not soak", level=level)  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_an_unknown_level_is_refused_by_name() -> None:
    run = _run("-c", "import nearfield as nf; nf.Index(3).add([[1, 2, 3]])", level="sse9")
    assert run.returncode != 0
    assert "sse9" in run.stderr
    assert "scalar" in run.stderr, "the message lists what there is"
