"""The command line: `nearfield index`, `search`, `ask`, `info`, `demo`.

Here stands only how the process begins and ends; what it can do is in `commands`, which needs typer and rich.
Exit codes: 0 done; 1 an error, told in one sentence on stderr; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from nearfield._optional import require
from nearfield.errors import NearfieldError

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command in `sys.argv`, then leave Python with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a character that the terminal does not know is no reason to fail
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    try:
        for package in ("typer", "rich"):
            require(package, extra="cli", purpose="The command nearfield")
        from nearfield.cli.commands import app

        app(prog_name="nearfield")
        code = 0
    except SystemExit as end:  # typer's way to return: 2 after wrong usage, 130 after Ctrl-C
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except NearfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 1
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
