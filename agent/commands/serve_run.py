"""``serve-eval`` of a run: its candidates one after the other, into its record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.commands.serve_eval_options import Options
from agent.engine_stage import Asked, Outcome, chosen_of, evaluate_chosen
from agent.presentation import board_of
from evals.engine.engine import digest
from evals.engine.sglang_engine import INNER
from runs.board import Board, Row
from runs.engine import figure_lines, main_figures
from runs.naming import find_run
from runs.store import Store
from vortex.errors import ExitCode, VortexError, printable
from vortex.geometry import Geometry

if TYPE_CHECKING:
    from evals.engine.report import EngineReport

_STATES = {
    "measured": "measured", "kept": "left out: its results of these settings are there; --again",
    "unservable": "no engine can serve it yet", "failed": "NOT MEASURED",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunPart:
    """What of a run is evaluated, and where files go; no ``ids``: its front."""

    ids: tuple[int, ...]
    again: bool
    out: Path
    as_json: bool


def run_of(named: Path, runs_dir: Path, surely: bool) -> Path | None:
    """The folder of the run that a word means; None where it is an export or a program.

    What lies at the path goes before a run of that name.

    Args:
        surely: only a run has the options that were given.

    Raises:
        VortexError: E606, no run is called so; E850, an export has no candidates to choose from.
    """
    if os.path.isfile(named / "run.db"):
        return named
    if os.path.lexists(named) or len(named.parts) > 1:
        if surely:
            raise VortexError(
                f"{named} is no run: --id and --again choose among a run's candidates",
                code="E850", hint="vortex-search serve-eval RUN --id 12",
            )  # fmt: skip
        return None
    try:
        return find_run(runs_dir, str(named))
    except VortexError:
        if surely:
            raise
        return None


def evaluate_run(
    folder: Path, options: Options, part: RunPart, shape: Geometry | None,
    measure: Callable[[Options, Path, Path], EngineReport],
) -> None:  # fmt: skip
    """Evaluate, record and print.

    Args:
        shape: of the served model, where it is known.
        measure: from options with an export, the folder of answers and that of the reports.

    Raises:
        VortexError: E850, servers; E6xx, the run; E8xx and E9xx, as of an export.
        click.exceptions.Exit: 1, something could not be measured.
    """
    if options.url or options.full_url:
        raise VortexError(
            "a server is taken at its word, so its numbers are no result of a candidate",
            code="E850", hint="export the candidate, and name its folder with --url",
        )  # fmt: skip

    def one(candidate: int, export: Path) -> EngineReport:
        click.echo(f"candidate {candidate} of {folder.name}", err=True)
        mine = dataclasses.replace(options, export=export)
        return measure(mine, part.out, part.out / str(candidate))

    outcomes = []
    with contextlib.closing(Store.open_to_write(folder)) as store:
        asked = Asked(chosen_of(store, part.ids), settings_of(options), shape, part.again)
        for outcome in evaluate_chosen(store, asked, one):
            outcomes.append(outcome)
            click.echo(_state(outcome), err=True)
        board = board_of(store)
    if part.as_json:
        click.echo(json.dumps(_facts(board, outcomes), indent=2))
    else:
        click.echo("\n".join(_lines(board, outcomes)))
    click.echo(f"reports and answers.jsonl are in {part.out}", err=True)
    if any(o.why for o in outcomes):
        raise click.exceptions.Exit(ExitCode.FAILED)


def settings_of(options: Options) -> str:
    """What decides the numbers of any candidate: all options, a file of problems by its content."""
    asked = {k: v for k, v in dataclasses.asdict(options).items() if k != "export"}
    for name in ("weights", "model", "problems"):
        if asked[name] is not None and os.path.lexists(Path(asked[name]).expanduser()):
            asked[name] = str(Path(asked[name]).expanduser().resolve())
    if options.problems is not None:
        with contextlib.suppress(OSError):  # said by what reads it
            asked["problems"] = hashlib.sha256(options.problems.read_bytes()).hexdigest()
    return digest(asked, os.environ.get(INNER, ""))


def _state(outcome: Outcome) -> str:
    why = f": {printable(outcome.why, limit=400)}" if outcome.why else ""
    return f"candidate {outcome.candidate}: {_STATES[outcome.state]}{why}"


def _rows(board: Board, outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Row]]:
    by_id = {r.id: r for r in board.rows}
    return [(o, by_id[o.candidate]) for o in outcomes]


def _facts(board: Board, outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "run": board.run, "engine": board.engine,
        "candidates": [
            {"id": row.id, "name": row.name, "state": o.state, "why": o.why,
             "engine": [dataclasses.asdict(f) for f in row.engine]}
            for o, row in _rows(board, outcomes)
        ],
    }  # fmt: skip


def _lines(board: Board, outcomes: Sequence[Outcome]) -> list[str]:
    """The main numbers of every candidate, old ones too, by where they were measured."""
    lines = []
    for _, row in _rows(board, outcomes):
        star = "*" if row.on_front else " "
        lines.append(f" {star}{row.id:>4} {printable(row.called, limit=60)}")
        text = figure_lines(main_figures(row.engine)) or ["nothing was measured"]
        lines += [f"        {printable(line, limit=400)}" for line in text]
    return lines
