"""Commands that look at runs."""

from __future__ import annotations

from pathlib import Path

import click

from runs.store import list_runs


@click.command("runs")
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
def runs_command(runs_dir: Path) -> None:
    """List the runs."""
    for name in list_runs(runs_dir):
        click.echo(name)


COMMANDS = (runs_command,)
