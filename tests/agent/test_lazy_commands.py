"""Commands are loaded when they are called: a version, a typo or a list of them costs no second."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from agent.cli import Commands, main
from agent.commands.listed import LISTED


@pytest.mark.parametrize("module", LISTED)
def test_every_module_has_the_commands_that_are_listed(module: str) -> None:
    found = importlib.import_module(f"agent.commands.{module}").COMMANDS
    assert tuple(sorted(c.name for c in found)) == tuple(sorted(LISTED[module]))


def test_every_command_that_is_listed_is_there() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    assert {"start", "models", "verify"} <= set(names)
    assert all(main.get_command(context, name) is not None for name in names)
    assert main.get_command(context, "nosuch") is None


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_help_is_the_one_that_the_commands_themselves_give(width: int) -> None:
    context, said, own = click.Context(main), *(click.HelpFormatter(width=width) for _ in "ab")
    fresh = Commands("vortex-search", commands={"models": main.commands["models"]})
    fresh.format_commands(context, said)
    assert "start" not in fresh.commands, "nothing was loaded"
    click.Group.format_commands(main, context, own)
    assert said.getvalue() == own.getvalue()


def test_the_help_loads_no_torch() -> None:
    script = (
        "import sys, agent.cli\n"
        "try: agent.cli.main(['--help'])\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Search sparse attention for a model." in done.stdout


def test_the_command_line_and_the_language_s_errors_load_no_torch() -> None:
    script = "import sys, agent.cli, vortex.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_what_the_package_lists_is_there() -> None:
    import vortex

    assert all(getattr(vortex, name) is not None for name in vortex.__all__)
    assert vortex.dot is not None
    with pytest.raises(AttributeError):
        vortex.nosuch  # noqa: B018
