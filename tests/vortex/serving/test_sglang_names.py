"""What the plugin relies on is in the SGLang that pip installs: its source is read, not run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vortex.serving.sglang import internals

VERSION = internals.SUPPORTED[0]
# A folder that holds an unpacked `sglang/`, to be read instead of downloading the package.
SOURCE = "VORTEX_SGLANG_SOURCE"
pytestmark = [] if os.environ.get(SOURCE) else [pytest.mark.slow]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ast.Module]:
    """Reads a module of the package by its name."""
    folder = os.environ.get(SOURCE)
    if not folder:
        scratch = tmp_path_factory.mktemp("sglang")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                   f"sglang=={VERSION}", "-d", str(scratch)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"sglang {VERSION} cannot be downloaded here")
        zipfile.ZipFile(wheels[0]).extractall(scratch)
        folder = str(scratch)

    def module(name: str) -> ast.Module:
        path = Path(folder, *name.split("."))
        found = path.with_suffix(".py")
        if not found.is_file():
            found = path / "__init__.py"
        return ast.parse(found.read_text(encoding="utf-8"))

    return module


def defined(body: list[ast.stmt], name: str) -> ast.AST | None:
    """The statement that gives a name its meaning, imports included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return node
        if isinstance(node, ast.ImportFrom | ast.Import) and any(
            (a.asname or a.name) == name for a in node.names
        ):
            return node
    return None


def attributes(cls: ast.ClassDef) -> set[str]:
    """Names that a class's own code assigns, declares or defines."""
    found = {n.name for n in cls.body if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(cls):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute):
                    found.add(part.attr)
                elif isinstance(part, ast.Name):
                    found.add(part.id)
    return found


@pytest.mark.parametrize("need", internals.NEEDED)
def test_names_exist_and_take_what_is_given(read: Callable[[str], ast.Module], need: str) -> None:
    for module, path, parameters in internals.NEEDED[need]:
        body, node = read(module).body, None
        for part in path.split("."):
            node = defined(body, part)
            assert node is not None, f"{module}.{path}"
            body = node.body if isinstance(node, ast.ClassDef) else []
        if parameters is not None:
            assert isinstance(node, ast.FunctionDef), f"{module}.{path}"
            given = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
            assert tuple(given[: len(parameters)]) == parameters, f"{module}.{path}"


@pytest.mark.parametrize("entry", internals.ATTRIBUTES, ids=lambda entry: entry[1])
def test_attributes_are_assigned(
    read: Callable[[str], ast.Module], entry: tuple[str, str, tuple[str, ...]]
) -> None:
    module, name, wanted = entry
    cls = defined(read(module).body, name)
    assert isinstance(cls, ast.ClassDef)
    assert set(wanted) - attributes(cls) == set()


def test_settings_that_are_refused_are_settings(read: Callable[[str], ast.Module]) -> None:
    cls = defined(read("sglang.srt.server_args").body, "ServerArgs")
    assert isinstance(cls, ast.ClassDef)
    wanted = {name for name, _, _ in internals.REFUSED} | {"tp_size", "cuda_graph_config"}
    assert wanted - attributes(cls) == set()


def test_plugins_are_entry_points_of_the_group_that_we_declare(
    read: Callable[[str], ast.Module],
) -> None:
    found = defined(read("sglang.srt.plugins").body, "GENERAL_PLUGINS_GROUP")
    assert isinstance(found, ast.Assign) and ast.literal_eval(found.value) == "sglang.srt.plugins"
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '[project.entry-points."sglang.srt.plugins"]' in text
    assert 'vortex = "vortex.serving.sglang.plugin:register"' in text


def test_a_dense_graph_has_a_key_of_its_own(read: Callable[[str], ast.Module]) -> None:
    """Captures and replays go through the key that both hooks change."""
    cls = defined(read(internals._RUNNER).body, "DecodeCudaGraphRunner")
    assert isinstance(cls, ast.ClassDef)
    text = {n.name: ast.unparse(n) for n in cls.body if isinstance(n, ast.FunctionDef)}
    assert "self.backend.replay(self._replay_graph_key" in text["execute"]
    assert "self.load_batch(" in text["execute"]
    assert "self.capture_one_shape(bs, forward, stream_idx, variant_label)" in "".join(
        text.values()
    )
    assert "init_forward_metadata_out_graph(fb_view)" in text["load_batch"]
