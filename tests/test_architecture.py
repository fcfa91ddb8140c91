"""The promises of the layout: imports point one way, no text is executed, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("vortex", "search_spaces", "evals", "runs", "agent")
MAX_LINES = 400
EXECUTES = ("eval", "exec", "compile", "__import__")
PICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal")
OPTIONAL = ("triton", "sglang", "vortex.triton", "vortex.serving", "anthropic", "openai", "mcp")
# These folders are imported only where the device or the engine is there.
OPTIONAL_FOLDERS = ("vortex/triton/", "vortex/serving/", "evals/device/")
# Programs of the language: read as text, never imported.
PROGRAMS = ("seeds", "controls", "library")

FILES = sorted(
    path
    for package in ORDER
    for path in (ROOT / package).rglob("*.py")
    if path.parent.name not in PROGRAMS
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules(node: ast.AST) -> Iterator[str]:
    """Full names that an import statement brings in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_arrows(source: str, package: str) -> list[str]:
    """Imports of packages to the right of ``package``, anywhere in the text."""
    later = ORDER[ORDER.index(package) + 1 :]
    names = [m for node in ast.walk(ast.parse(source)) for m in modules(node)]
    return [name for name in names if name.split(".")[0] in later]


def dangers(source: str) -> list[str]:
    """Calls that execute text, and modules that execute what they load."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] * (node.func.id in EXECUTES)
        found += [m for m in modules(node) if m.split(".")[0] in PICKLES]
    return found


def executed_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, those under type checking apart."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            if ast.unparse(statement.test).split(".")[-1] != "TYPE_CHECKING":
                yield from executed_on_import(statement.body)
            yield from executed_on_import(statement.orelse)
        elif isinstance(statement, ast.Try):
            handlers = [s for handler in statement.handlers for s in handler.body]
            inner = (*statement.body, *handlers, *statement.orelse, *statement.finalbody)
            yield from executed_on_import(list(inner))
        elif isinstance(statement, ast.With | ast.ClassDef):
            yield from executed_on_import(statement.body)


def eager_optionals(source: str) -> list[str]:
    """Optional modules that importing the text would need."""
    names = [m for s in executed_on_import(ast.parse(source).body) for m in modules(s)]
    return [m for m in names if any(m == o or m.startswith(f"{o}.") for o in OPTIONAL)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_to_the_left(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert wrong_arrows(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_text_is_executed_and_nothing_is_unpickled(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert not source.strip() or ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if not name_of(p).startswith(OPTIONAL_FOLDERS)],
    ids=name_of,
)
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert eager_optionals(path.read_text(encoding="utf-8")) == []


def test_vortex_imports_without_triton_and_sglang() -> None:
    script = (
        "import sys; sys.modules.update({'triton': None, 'sglang': None}); "
        "import vortex, vortex.cost, vortex.geometry, vortex.reference"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_checks_see_what_they_forbid() -> None:
    assert wrong_arrows("def f():\n    from runs.store import open_run", "evals")
    assert not wrong_arrows("import vortex\nfrom evals import result", "runs")
    assert dangers("eval('1')") == ["eval"]
    assert dangers("def f():\n    import pickle") == ["pickle"]
    assert not dangers("import re\nre.compile('x')\nmodel.eval()")
    assert eager_optionals("try:\n    import triton.language\nexcept ImportError:\n    pass")
    assert eager_optionals("from vortex.triton import score")
    assert not eager_optionals("def f():\n    import triton")
    assert not eager_optionals("if TYPE_CHECKING:\n    import triton")
