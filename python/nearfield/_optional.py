"""Optional dependencies: imported when used, and one clear sentence when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from nearfield.errors import MissingExtra


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return `module`, or say which extra brings it.

    Raises:
        MissingExtra: `module` is not installed. The message holds the pip line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing != module.split(".")[0]:
            raise  # the package is there, one of its own needs is not: its message is the better one
        package = module.split(".")[0]
        raise MissingExtra(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'nearfield[{extra}]'"
        ) from error
