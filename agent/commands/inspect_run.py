"""Commands that look at runs and take things out of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import click

from agent.commands.program_file import some_contexts
from agent.exporting import write_export
from agent.interrupts import told
from agent.llm.hypotheses import judge
from agent.llm.turns import submission_of
from agent.presentation import board_of
from agent.sealing import Sealing, members, seal
from agent.standing import Standing, standings
from agent.view import View
from runs.board import Board, cell_of, columns, crashes, shown
from runs.engine import figure_lines
from runs.export import BEST_RULE, best_of
from runs.leaderboard import render_csv, render_json, render_markdown
from runs.ledger import Ledger
from runs.naming import by_age, find_run, list_runs
from runs.records import MOST_WORKERS
from runs.report import write_report
from runs.store import Store
from runs.terminal import render_terminal
from vortex.errors import ExitCode, VortexError, printable

_DIGITS = 18  # of a number that a database can hold
DIR = click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))


def opened(runs_dir: Path, run: str | None) -> Store:
    """A run to read; the latest with a judged candidate when none is named."""
    return Store.open_to_read(looked_at(runs_dir, run))


def looked_at(runs_dir: Path, run: str | None) -> Path:
    """The folder of a run that has something to look at; said where it is not the latest.

    Raises:
        VortexError: E606, none fits; E601, E602, the latest cannot be read.
    """
    newest = find_run(runs_dir, run)
    if run not in (None, "latest"):
        return newest
    older = [] if _judged(newest) else [f for f in by_age(runs_dir) if f != newest]
    found = newest
    for folder in older:
        with contextlib.suppress(VortexError):  # what cannot be read is passed over
            if _judged(folder):
                found = folder
                break
    if found != newest:
        why = f"{newest.name} is newer and has no judged candidate"
        click.echo(f"run {found.name}; {why}", err=True)
    return found


def _judged(folder: Path) -> bool:
    with contextlib.closing(Store.open_to_read(folder)) as store:
        return store.evaluated() > 0


def standing_of(store: Store, candidate: int) -> Standing:
    """A candidate of a run.

    Raises:
        VortexError: E610, there is none with this number.
    """
    found = standings(store, store.config()).by_id
    if candidate not in found:
        raise VortexError(
            f"run {store.name} has no candidate {candidate}", code="E610",
            hint=f"it has 1 to {max(found)}" if found else "it has none yet",
        )  # fmt: skip
    return found[candidate]


@click.command("runs")
@DIR
def runs_command(runs_dir: Path) -> None:
    """List the runs, oldest first."""
    names = list_runs(runs_dir)
    if not names:
        click.echo(f"there is no run in {runs_dir} that can be read", err=True)
    for name in names:
        try:
            store = Store.open_to_read(runs_dir / name)
            config = store.config()
            click.echo(f"{name}  {config.model}  {store.evaluated()}/{config.evaluations} judged")
        except VortexError as error:
            click.echo(f"{name}  error[{error.code}]: {error.message}")


@click.command()
@click.argument("run", required=False)
@click.option("--json", "form", flag_value="json")
@click.option("--markdown", "form", flag_value="markdown")
@click.option("--csv", "form", flag_value="csv")
@click.option(
    "--top", type=click.IntRange(1), help="Candidates to show.  [default: 20; all as JSON or CSV]"
)
@click.option("--wide", is_flag=True, help="All columns, wider than the terminal.")
@DIR
def leaderboard(
    run: str | None, form: str | None, top: int | None, wide: bool, runs_dir: Path
) -> None:
    """Show the best of a run, beside its controls.

    On a terminal the columns that fit are shown; elsewhere, or with --wide, all of them.
    """
    board = board_of(opened(runs_dir, run))
    if top is not None:
        shown_ids = {r.id for r in [r for r in board.rows if not r.control][:top]}
        rows = tuple(r for r in board.rows if r.control or r.id in shown_ids)
        board = dataclasses.replace(board, rows=rows)
    if form == "json":
        click.echo(render_json(board))
    elif form == "csv":
        click.echo(render_csv(board), nl=False)
    elif form == "markdown":
        click.echo(render_markdown(board, top=top or 20), nl=False)
    else:
        terminal = sys.stdout.isatty()
        color = terminal and "NO_COLOR" not in os.environ
        width = shutil.get_terminal_size().columns if terminal and not wide else None
        click.echo(render_terminal(board, color=color, width=width, top=top or 20), nl=False)


@click.command()
@click.argument("words", nargs=-1, metavar="[RUN] CANDIDATE")
@click.option("--run", help="The same as RUN; the latest run when none is named.")
@click.option("--json", "as_json", is_flag=True)
@DIR
def show(words: tuple[str, ...], run: str | None, as_json: bool, runs_dir: Path) -> None:
    """Show a candidate, by its number: program, lineage, metrics."""
    named, candidate = _run_and_candidate(words, run)
    store = opened(runs_dir, named)
    standing_of(store, candidate)
    board = board_of(store)
    row = next(r for r in board.rows if r.id == candidate)
    if as_json:
        data = json.loads(render_json(board))
        click.echo(json.dumps(next(r for r in data["rows"] if r["id"] == candidate), indent=2))
        return
    click.echo(f"candidate {row.id} {printable(row.called)} of {board.run}: {row.status}")
    click.echo(f"from {row.proposer}, parents {', '.join(map(str, row.parents)) or 'none'}: "
               f"{printable(row.note, limit=300)}")  # fmt: skip
    for line in _claim(store, candidate):
        click.echo(line)
    click.echo(", ".join(f"{k} = {v}" for k, v in row.knobs.items()))
    for title, attribute, form, origin in columns(board):
        click.echo(f"  {title:15} {shown(cell_of(row, attribute), form):>18}  {origin}")
    for line in (*figure_lines(row.engine), *row.engine_notes):
        click.echo(f"  {printable(line, limit=400)}")
    if row.message:
        click.echo("\n".join(printable(line) for line in row.message.splitlines()))
    click.echo()
    click.echo("\n".join(printable(line, limit=400) for line in row.program.splitlines()))


def _run_and_candidate(words: tuple[str, ...], run: str | None) -> tuple[str | None, int]:
    """What ``show`` is asked for.

    Raises:
        click.UsageError: it is not a number, or a run and a number.
    """
    number = words[-1] if words else ""
    runs = [*words[:-1], *([run] if run is not None else [])]
    wrong = ""
    if not words:
        wrong = "no candidate is named"
    elif not number.isdecimal() or len(number) > _DIGITS:
        wrong = f"'{printable(number, limit=60)}' is no candidate's number"
    elif len(runs) > 1:
        wrong = "more than one run is named"
    if wrong:
        raise click.UsageError(f"{wrong}: vortex-search show 12, or vortex-search show RUN 12")
    return (runs[0] if runs else None), int(number)


def _claim(store: Store, candidate: int) -> list[str]:
    """What was claimed of a candidate before it was judged, and what became of that."""
    claims = Ledger(store).claims()
    if candidate not in claims:
        return []
    now = standings(store, store.config())
    (judged,) = judge(now, {candidate: submission_of(claims[candidate])})
    against = "no candidate" if judged.compared_to is None else str(judged.compared_to)
    return [
        f"claimed against {against}: loss {judged.expected_loss}, time {judged.expected_time}",
        f"  {judged.verdict}: {printable(judged.detail, limit=300)}",
    ]


@click.command("seal")
@click.argument("run", required=False)
@click.option("--contexts", default=12, show_default=True, callback=some_contexts)
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS))
@DIR
def seal_command(run: str | None, contexts: int, workers: int | None, runs_dir: Path) -> None:
    """Re-measure front, seeds and controls on contexts that the search never saw."""
    store = Store.open_to_write(looked_at(runs_dir, run))
    view = View()
    try:
        chosen = members(store)
        with told() as stopped:
            if any(not s.record.control for s in chosen):  # controls alone say nothing
                sealing = Sealing(contexts, workers or store.config().workers)
                seal(store, sealing, chosen, view, stopped.is_set)
            view.finish()
            board = board_of(store)
            click.echo("\n".join(_sealed_lines(board)))
    finally:
        view.finish()
        store.close()
    if stopped.is_set():
        click.echo(f"stopped; go on with: vortex-search seal {store.name}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    ready = any(r.on_front and r.sealed_gap.value is not None for r in board.rows)
    for line in _after_sealing(board, ready=ready):
        click.echo(line, err=True)
    if not ready:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _after_sealing(board: Board, *, ready: bool) -> list[str]:
    """The next command, or why there is none and what to do about it."""
    if ready:
        return [f"next: vortex-search export {board.run} --best -o winner"]
    counts = ", ".join(f"{n} {status}" for status, n in board.statuses.items())
    why = "nothing on the front was sealed" if counts else "no candidate was judged"
    return [
        *(printable(line, limit=400) for line in crashes(board)),
        f"{why}{f' ({counts})' if counts else ''}: there is nothing to export yet",
        f"see why: vortex-search leaderboard {board.run}; "
        f"go on with: vortex-search resume {board.run}",
    ]


def _sealed_lines(board: Board) -> list[str]:
    """Both gaps of every sealed candidate; * is on the front."""
    rows = [r for r in board.rows if not r.control and r.sealed_gap.value is not None]
    if not rows:
        return ["no candidate has a gap on sealed contexts"]
    names = {r.id: printable(r.called, limit=40) for r in rows}
    wide = max(map(len, names.values()))
    found = [f"   {'id':>4} {'name':{wide}} {'loss gap':>15} {'sealed gap':>15}  (measured)"]
    for r in rows:
        star, gaps = "*" if r.on_front else " ", (r.loss_gap, r.sealed_gap)
        cells = " ".join(f"{shown(gap, '.3f'):>15}" for gap in gaps)
        found.append(f"  {star}{r.id:>4} {names[r.id]:{wide}} {cells}")
    return found


@click.command("export")
@click.argument("run", required=False)
@click.option("--best", is_flag=True, help=f"{BEST_RULE[0].upper()}{BEST_RULE[1:]}.")
@click.option("--id", "candidate", type=int, help="This candidate.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--force", is_flag=True, help="Replace what the folder holds.")
@DIR
def export_command(
    run: str | None, best: bool, candidate: int | None, out: Path, force: bool, runs_dir: Path
) -> None:
    """Write a candidate as a folder that anyone can read and run."""
    if best == (candidate is not None):
        raise VortexError("name one of --best and --id", code="E611", hint="--best, or --id 12")
    store = opened(runs_dir, run)
    board = board_of(store)
    if candidate is not None:
        standing_of(store, candidate)
    row, why = best_of(board) if best else (next(r for r in board.rows if r.id == candidate), "")
    if row.control:
        raise VortexError(f"candidate {row.id} is a control: it is not for use", code="E610",
                          hint="vortex-search front lists the candidates")  # fmt: skip
    lacks = write_export(row, board, out, force=force)
    if why:
        click.echo(f"chose candidate {row.id} {printable(row.called)}: {why}", err=True)
    click.echo(f"candidate {row.id} {printable(row.called)} of {board.run} is in {out}", err=True)
    if lacks:
        click.echo(f"note: no engine can serve it yet: {lacks}; --id takes another", err=True)


@click.command()
@click.argument("run", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="[default: RUN/report.html]")
@DIR
def report(run: str | None, out: Path | None, runs_dir: Path) -> None:
    """Write one HTML file about a run."""
    store = opened(runs_dir, run)
    path = out or store.folder / "report.html"
    write_report(board_of(store), path)
    click.echo(str(path))


COMMANDS = (
    runs_command, leaderboard, show, seal_command, export_command, report,
)  # fmt: skip
