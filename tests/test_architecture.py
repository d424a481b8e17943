"""The danger: a house that grows where nobody planned it. The plan is ARCHITECTURE.md; this file is its inspector.

A new module gets a line in LAYERS. Imports for type checkers count as imports: who needs another's types knows of it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pathspec
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "nearfield"
CRATES = ROOT / "crates"

# From the ground up. A module imports from rows above its own, and inside a row from modules to its left, except
# that the rows named in APART hold rooms which never know each other. A set is one room in several files.
LAYERS: dict[str, list[str | frozenset[str]]] = {
    "ground": ["errors", "_optional", "types", "answers", "remote", "_native"],
    "parts": [
        "fields",
        "filters",
        "embed",
        "chunk",
        "load",
        "fuse",
        "rerank",
        frozenset(
            {
                "store",
                "beside",
                "catalog",
                "checkpoint",
                "compaction",
                "maintenance",
                "schema",
                "segments",
                "transaction",
                "verify",
                "wal",
                "backup",
            }
        ),
    ],
    "face": [
        "handle",
        "index",
        "sparse",
        "inputs",
        "given",
        "live",
        "live_text",
        "columns",
        "derived",
        "encoding",
        "reading",
        "writing",
        "request",
        "searching",
        "verbs",
        "collection",
        "database",
    ],
    "uses": ["indexing", "transfer", "rag", "evaluate", "plot", "topics"],
    "doors": ["cli"],
}
APART = {"parts", "uses", "doors"}

UNSAFE = {  # the only Rust files that may say `unsafe`, and why
    "nearfield-kernels/src/x86.rs": "SIMD instructions",
    "nearfield-kernels/src/x86_graph.rs": "SIMD instructions of walks through a graph, and prefetching",
    "nearfield-kernels/src/x86_groups.rs": "SIMD instructions of sums over groups of rows",
    "nearfield-kernels/src/x86_pq.rs": "SIMD instructions of product quantisation",
    "nearfield-kernels/src/pages.rs": "asks for large pages, and has long arrays begin with one",
    "nearfield-index/src/writeback.rs": "has the disk begin with a part of a file",
    "nearfield-index/src/mapped.rs": "maps files, whose bytes are numbers",
    "nearfield-index/src/pool.rs": "lends work to threads that its owner waits for",
    "nearfield-kernels/src/x86": "SIMD instructions, one file per instruction set",
    "nearfield-kernels/src/dispatch.rs": "calls what x86.rs may only do after the CPU was looked at",
}


def tracked(*suffixes: str) -> list[Path]:
    """Files that are in the repository or would be after `git add`; in a copy without one, those it does not ignore."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # whoever owns the folder
    names = listing.stdout.split("\0")[:-1]
    if listing.returncode:
        ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text().splitlines())
        names = [name for name in ignored.match_tree_files(ROOT, negate=True) if name.split("/")[0] != ".git"]
    return [path for name in names if (path := ROOT / name).is_file() and (not suffixes or name.endswith(suffixes))]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(module: str) -> tuple[str, int]:
    """The row of a module (its first name under nearfield) and its place in that row."""
    for row, rooms in LAYERS.items():
        for place, name in enumerate(rooms):
            if module == name or (isinstance(name, frozenset) and module in name):
                return row, place
    raise AssertionError(f"nearfield.{module} has no layer: give it a place in ARCHITECTURE.md, then in LAYERS")


def may_import(importer: str, imported: str) -> bool:
    rows = list(LAYERS)
    (row, place), (other_row, other_place) = room(importer), room(imported)
    if row != other_row:
        return rows.index(other_row) < rows.index(row)
    return place == other_place or (row not in APART and other_place < place)


def own_imports(source: str, package: list[str]) -> Iterator[str]:
    """The first names under nearfield that `source` imports, anywhere in it ('' for nearfield itself)."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{full}.{alias.name}" for alias in node.names] if full == "nearfield" else [full]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        for name in names:
            if name.split(".")[0] == "nearfield":
                yield [*name.split("."), ""][1]


def first_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


# Layers


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    module = first_name(path)
    package = ["nearfield", *path.relative_to(PACKAGE).parts[:-1]]
    for imported in own_imports(path.read_text(), package):
        assert imported not in ("", "__init__"), f"{path.name} imports the root package, which imports everything"
        if imported != "__version__":
            assert may_import(module, imported), f"nearfield.{module} must not import nearfield.{imported}"


def test_the_inspector_sees_every_form_of_import() -> None:
    source = (
        "import nearfield.store\nfrom nearfield import index\nfrom nearfield.embed.local import x\n"
        "def f():\n    from . import sibling\n    from ..types import Hit\n"
        "    importlib.import_module('nearfield.cli')\n"
        "import numpy\nimport nearfield\n"
    )
    assert list(own_imports(source, ["nearfield", "embed"])) == ["store", "index", "embed", "", "embed", "types", "cli"]
    assert may_import("cli", "database")
    assert may_import("collection", "index")
    assert may_import("schema", "store")
    assert not may_import("index", "collection")
    assert not may_import("store", "filters")
    assert not may_import("types", "index")
    with pytest.raises(AssertionError, match="no layer"):
        room("gargoyle")


def test_only_verbs_call_upward_and_only_what_people_do_with_a_collection() -> None:
    from nearfield.verbs import HOMES

    assert {room(home)[0] for home in HOMES.values()} == {"uses"}
    for path in MODULES:
        row = room(first_name(path))[0]
        if row not in ("uses", "doors") and path.name not in ("verbs.py", "_optional.py"):
            by_name = re.search(r'import_module\(f"nearfield\.(?!embed\.)', path.read_text())
            assert not by_name, f"{path.name} imports a room by a name it makes up: only verbs.py may"


def _modules_after(code: str) -> set[str]:
    """Top-level modules that `code` brought in, beyond those of a bare start of Python."""
    probe = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def _foreign(modules: set[str]) -> set[str]:
    return {
        name
        for name in modules
        if name.lstrip("_") not in sys.stdlib_module_names and name not in sys.stdlib_module_names
    }


def test_importing_nearfield_needs_numpy_at_most() -> None:
    loaded = _modules_after("import nearfield")
    assert "nearfield" in loaded
    assert _foreign(loaded) <= {"nearfield", "numpy"}
    assert not loaded & {"sqlite3", "asyncio", "multiprocessing", "http", "urllib", "concurrent"}


def test_no_module_below_the_doors_needs_an_extra_to_be_imported() -> None:
    names = [
        ".".join(["nearfield", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in MODULES
        if room(first_name(path))[0] != "doors"
    ]
    assert _foreign(_modules_after("\n".join(f"import {name}" for name in names))) <= {"nearfield", "numpy"}


def test_every_public_name_has_a_home() -> None:
    import nearfield

    for name in nearfield.__all__:
        assert getattr(nearfield, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        nearfield.nonsense  # noqa: B018


# Crates


def _manifest(crate: str) -> dict[str, object]:
    return tomllib.loads((CRATES / crate / "Cargo.toml").read_text())


@pytest.mark.parametrize(
    ("crate", "ours", "never"),
    [
        ("nearfield-kernels", set(), {"pyo3", "numpy", "rayon", "crossbeam", "tokio", "memmap2", "libc"}),
        ("nearfield-index", {"nearfield-kernels"}, {"pyo3", "numpy"}),
        ("nearfield-py", {"nearfield-index"}, {"rayon"}),
    ],
)
def test_crate_arrows(crate: str, ours: set[str], never: set[str]) -> None:
    manifest = _manifest(crate)
    names = {name for table in ("dependencies", "build-dependencies") for name in manifest.get(table, {})}  # type: ignore[attr-defined]
    assert {name for name in names if name.startswith("nearfield")} == ours
    assert not names & never


def test_every_crate_has_its_place() -> None:
    assert {path.parent.name for path in CRATES.glob("*/Cargo.toml")} == {
        "nearfield-kernels",
        "nearfield-index",
        "nearfield-py",
    }


def _code(path: Path) -> str:
    """A Rust file without comments and without its inline test module."""
    source = re.sub(r"^#\[cfg\(test\)\]\nmod \w+ \{.*?^\}", "", path.read_text(), flags=re.M | re.S)
    return re.sub(r"//.*", "", source)


def test_the_kernels_know_no_files_threads_or_network() -> None:
    for path in (CRATES / "nearfield-kernels" / "src").rglob("*.rs"):
        assert not re.search(r"\bstd::(fs|thread|net|process|io)\b", _code(path)), path.name


def test_unsafe_stands_only_where_it_must() -> None:
    for path in CRATES.rglob("src/**/*.rs"):
        place = path.relative_to(CRATES).as_posix()
        if re.search(r"\bunsafe\b", _code(path)):
            assert place in UNSAFE or str(Path(place).parent) in UNSAFE, (
                f"{place}: move it to x86.rs, or argue in UNSAFE"
            )


def test_simd_stands_only_in_the_architecture_files() -> None:
    for path in CRATES.rglob("src/**/*.rs"):
        if "x86" not in path.relative_to(CRATES).as_posix():
            assert not re.search(r"\b_mm(256|512)?_\w+|\barch::x86_64\b|\btarget_feature\b", _code(path)), path.name


def test_no_flag_ties_the_build_to_this_processor() -> None:
    """`target-cpu` compiles the portable path with instructions that older machines lack: they die of SIGILL."""
    for path in [*tracked(".toml", "Makefile", ".yml", ".yaml", ".sh"), ROOT / ".ci" / "run"]:
        assert "target-cpu" not in path.read_text(), path
    assert not list(ROOT.glob(".cargo/config*"))


# Budgets


@pytest.mark.parametrize("path", [*MODULES, PACKAGE / "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_python_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (40 if path == PACKAGE / "__init__.py" else 500)


@pytest.mark.parametrize("path", tracked(".py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_benchmarks_and_examples_stay_small(path: Path) -> None:
    """Tests have no budget: they are read one at a time."""
    budget = {"benchmarks": 500, "examples": 60}.get(path.relative_to(ROOT).parts[0])
    assert budget is None or len(path.read_text().splitlines()) <= budget


@pytest.mark.parametrize("path", sorted(CRATES.rglob("*.rs")), ids=lambda path: str(path.relative_to(CRATES)))
def test_rust_files_stay_small(path: Path) -> None:
    source = re.sub(r"^#\[cfg\(test\)\]\nmod \w+ \{.*?^\}\n?", "", path.read_text(), flags=re.M | re.S)
    assert len(source.splitlines()) <= 700


def test_the_binding_stays_thin() -> None:
    assert sum(len(path.read_text().splitlines()) for path in (CRATES / "nearfield-py").rglob("*.rs")) < 1000


@pytest.mark.parametrize("path", [*ROOT.glob("dist/*.whl"), *PACKAGE.glob("_native*.so")], ids=lambda path: path.name)
def test_what_is_shipped_stays_small(path: Path) -> None:
    assert path.stat().st_size < 15_000_000


# Housekeeping


def test_no_lock_file_is_tracked() -> None:
    """Lock files record where a download came from; versions are pinned in the manifests instead."""
    locks = {"Cargo.lock", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json"}
    assert not [path for path in tracked() if path.name in locks]


# Written so that this file does not match itself.
REGISTRY = re.compile(rb"(pypi|pythonhosted|crates)\.(org|io)|registry\.(npmjs)|(deb)\.debian", re.I)
MACHINE_PATH = re.compile(rb"(?<![\w./-])/(home|Users|root|work|mnt)/\w")


def test_no_registry_address_and_no_machine_path_is_tracked() -> None:
    for path in tracked():
        content = path.read_bytes()
        for pattern in (REGISTRY, MACHINE_PATH):
            found = pattern.search(content)
            assert not found, f"{path.relative_to(ROOT)}: {found[0].decode(errors='replace') if found else ''}"


def test_rust_versions_are_pinned_in_one_place() -> None:
    text = (ROOT / "Cargo.toml").read_text()
    for name, wanted in tomllib.loads(text)["workspace"]["dependencies"].items():
        version = wanted if isinstance(wanted, str) else wanted.get("version")
        if version is None:
            assert wanted["path"].startswith("crates/"), name
            continue
        assert re.fullmatch(r"=\d+\.\d+\.\d+", version), f"{name} = {version}: write the exact version"
        line = next(line for line in text.splitlines() if re.match(rf"{name}\s*=", line))
        assert "#" in line, f"{name}: say on its line why it is needed"
    for crate in CRATES.glob("*/Cargo.toml"):
        for table in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, wanted in _manifest(crate.parent.name).get(table, {}).items():  # type: ignore[attr-defined]
                assert isinstance(wanted, dict), (crate, name)
                assert wanted.get("workspace") is True, (
                    f"{crate.parent.name}: {name} takes its version from the workspace"
                )


def test_each_python_dependency_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    assert len(project["dependencies"]) == 1, "nearfield needs NumPy and nothing else; the rest are extras"
    extras = [wanted for group in project["optional-dependencies"].values() for wanted in group]
    for wanted in [*project["dependencies"], *extras]:
        if not wanted.startswith("nearfield["):
            line = next(line for line in text.splitlines() if f'"{wanted}"' in line)
            assert "#" in line, f"{wanted}: say on its line why it is needed"
            assert re.search(r"==|<", wanted), f"{wanted}: give it an upper bound"


def test_versions_agree() -> None:
    import nearfield

    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert python == rust == nearfield.__version__
    assert f"## [{python}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("target", ["help", "demo", "test", "soak", "lint", "fmt", "bench", "clean"])
def test_the_makefile_has_the_targets_that_the_readme_names(target: str) -> None:
    assert re.search(rf"^{target}:.*## \w", (ROOT / "Makefile").read_text(), re.M)


def test_ci_runs_what_people_run() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make")]
    assert commands == ["make lint", "make test"]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_paths_named_in_the_documents_exist(document: str) -> None:
    """Paths in backticks that look like files of this repository."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.S)
    named = re.findall(r"`((?:crates|python|tests|benchmarks|docs|examples|\.ci)/[\w./-]*\w/?)`", text)
    for name in named:
        assert (ROOT / name).exists(), f"{document} names {name}, which is not there"
