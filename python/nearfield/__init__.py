"""nearfield: an embedded vector search engine. Names are loaded when first used."""
# ruff: noqa: I001  # several names a line: this file has 40

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfield import errors as errors
    from nearfield.answers import Answer as Answer
    from nearfield.collection import Collection as Collection
    from nearfield.database import Database as Database, open as open, restore as restore
    from nearfield.fields import F as F
    from nearfield.index import Index as Index, build_info as build_info
    from nearfield.indexing import in_source as in_source, index_folder as index_folder, neighbours as neighbours
    from nearfield.rag import Rag as Rag
    from nearfield.sparse import SparseIndex as SparseIndex
    from nearfield.types import Hit as Hit, Hits as Hits, Record as Record, Report as Report

_HOMES = dict.fromkeys(("open", "restore", "Database"), "database") | {"Collection": "collection", "F": "fields"}
_HOMES |= {"Index": "index", "SparseIndex": "sparse", "build_info": "index", "Rag": "rag", "Answer": "answers"}
_HOMES |= dict.fromkeys(("index_folder", "neighbours", "in_source"), "indexing")
_HOMES |= dict.fromkeys(("Hit", "Hits", "Record", "Report"), "types")
__all__ = [*_HOMES, "errors"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nearfield' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"nearfield.{_HOMES.get(name, name)}")
    return module if name == "errors" else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
