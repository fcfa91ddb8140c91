"""Commands for an agent that a user already runs: see the front, hand in a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agent.commands.inspect_run import DIR, opened
from agent.commands.mcp import mcp
from agent.commands.program_file import parse_knobs, read_program
from agent.interrupts import told
from agent.outside import (
    OUTSIDE,
    fault_of,
    front_facts,
    front_text,
    hand_in,
    judge_pending,
    outcome_facts,
    outcome_of,
    outcome_text,
    source_of,
)
from agent.presentation import board_of
from agent.view import View
from agent.workers import HANDLER
from evals.result import Status
from runs.naming import find_run
from runs.store import Store
from vortex.compile import compile_text
from vortex.errors import ExitCode, VortexError

_EXPECTED = click.Choice(["lower", "same", "higher"])


@click.command()
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True)
@DIR
def front(run: str | None, as_json: bool, runs_dir: Path) -> None:
    """Show what no other candidate beats, fastest first."""
    board = board_of(opened(runs_dir, run))
    click.echo(json.dumps(front_facts(board), indent=2) if as_json else front_text(board))
    if not any(r.on_front and not r.control for r in board.rows):
        raise click.exceptions.Exit(ExitCode.FAILED)


@click.command()
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--hypothesis", required=True, help="One sentence: why it should win.")
@click.option("--compared-to", type=click.IntRange(1, 2**31), required=True,
              help="Candidate that it is to beat.")  # fmt: skip
@click.option("--expect-loss", type=_EXPECTED, required=True, help="Its loss gap against that.")
@click.option("--expect-time", type=_EXPECTED, required=True, help="Its step time against that.")
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--name", default=OUTSIDE, show_default=True, help="Who proposes, as recorded.")
@click.option("--json", "as_json", is_flag=True)
@DIR
def submit(
    run: str, file: Path, hypothesis: str, compared_to: int,
    expect_loss: str, expect_time: str, knobs: tuple[str, ...], name: str, as_json: bool,
    runs_dir: Path,
) -> None:  # fmt: skip
    """Hand a program in to a run: it is recorded with what you expect, evaluated and judged.

    It counts as one of the run's evaluations. What the record knows already is answered from
    there, and counts as nothing.
    """
    source, text, values = source_of(name), read_program(file), parse_knobs(knobs)
    compile_text(text, values, filename=str(file))
    store = Store.open_to_write(find_run(runs_dir, run))
    arguments = {
        "program": text, "hypothesis": hypothesis, "compared_to": compared_to,
        "expected_loss": expect_loss, "expected_time": expect_time, "knobs": values,
    }  # fmt: skip
    try:
        submitted(store, arguments, source, as_json=as_json)
    finally:
        store.close()


def submitted(
    store: Store, arguments: Mapping[str, Any], source: str, *, as_json: bool,
    handler: str = HANDLER,
) -> None:  # fmt: skip
    """Hand in, evaluate, and print what came of it.

    Raises:
        click.exceptions.Exit: 1, it was refused or failed a stage; 130, interrupted.
        VortexError: E706, no budget; E509, the machine fails.
    """
    answer, candidate = hand_in(store, arguments, source)
    if candidate is None:
        refused = {"taken": False, "answer": answer.text}
        click.echo(json.dumps(refused, indent=2) if as_json else answer.text)
        raise click.exceptions.Exit(ExitCode.FAILED)
    _judge(store, candidate, handler, as_json=as_json)


def _judge(store: Store, candidate: int, handler: str, *, as_json: bool) -> None:
    """Evaluate, and print what came of it; Ctrl-C ends it in order, twice at once."""
    view = View()
    try:
        with told() as stopped:
            judge_pending(store, handler=handler, report=view, interrupted=stopped.is_set)
    finally:
        view.finish()
    found = outcome_of(store, candidate)
    failed = found.row.status == "waiting" and not stopped.is_set()
    if not (as_json and failed):  # standard output is one object: then the error's
        data = {"taken": True, **outcome_facts(found)}
        click.echo(json.dumps(data, indent=2) if as_json else outcome_text(found))
    if stopped.is_set():
        click.echo(f"stopped; it is judged with: vortex-search resume {store.name}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    if failed:
        raise VortexError(
            f"candidate {candidate} is recorded, and {fault_of(store, candidate)}", code="E509",
            hint=f"mend it, then: vortex-search resume {store.name}",
            exit_code=ExitCode.ENVIRONMENT,
        )  # fmt: skip
    if found.row.status != str(Status.OK):
        raise click.exceptions.Exit(ExitCode.FAILED)


COMMANDS = (front, submit, mcp)
