"""Runs the command line in its own process, with a fake evaluator and a command that hangs."""

from __future__ import annotations

import functools
import signal
import time

import click

from agent.cli import main
from agent.commands import inspect_run
from agent.sealing import Sealing

SLOW = "tests.fake_evaluator:SlowSealer"


@click.command()
def hang() -> None:
    """Wait, and tidy up for as long."""
    try:
        click.echo("begun", err=True)
        time.sleep(60)
    finally:
        click.echo("tidying", err=True)
        time.sleep(60)


if __name__ == "__main__":
    # A test run from a script's background hands on that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inspect_run.Sealing = functools.partial(Sealing, handler=SLOW)  # type: ignore[misc,assignment]
    main.add_command(hang)
    main()
