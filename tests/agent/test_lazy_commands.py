"""Commands are loaded when they are called, so that a version or a typo costs no second."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from agent.cli import _MODULES, main


@pytest.mark.parametrize("module", _MODULES)
def test_every_module_has_the_commands_that_are_listed(module: str) -> None:
    found = importlib.import_module(f"agent.commands.{module}").COMMANDS
    assert tuple(sorted(c.name for c in found)) == tuple(sorted(_MODULES[module]))


def test_every_command_that_is_listed_is_there() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    assert {"start", "models", "verify"} <= set(names)
    assert all(main.get_command(context, name) is not None for name in names)
    assert main.get_command(context, "nosuch") is None


def test_the_command_line_and_the_language_s_errors_load_no_torch() -> None:
    script = "import sys, agent.cli, vortex.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_what_the_package_lists_is_there() -> None:
    import vortex

    assert all(getattr(vortex, name) is not None for name in vortex.__all__)
    assert vortex.dot is not None
    with pytest.raises(AttributeError):
        vortex.nosuch  # noqa: B018
