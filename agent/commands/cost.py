"""The command that says what a run's language models cost."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.inspect_run import opened
from agent.llm.expenses import Expense, as_json, cost_line, expenses
from vortex.errors import printable


@click.command()
@click.argument("run", required=False)
@click.option("--json", "as_data", is_flag=True)
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
def cost(run: str | None, as_data: bool, runs_dir: Path) -> None:
    """Show what a run's language models cost and brought."""
    store = opened(runs_dir, run)
    found = expenses(store)
    if as_data:
        click.echo(as_json(found))
        return
    if not found:
        click.echo(f"run {store.name} asked no language model")
    for expense in found:
        click.echo("\n".join(_lines(expense)))


def _lines(e: Expense) -> list[str]:
    valid = f" ({e.programs / e.turns:.0%} of its turns)" if e.turns else ""
    per = e.prompt_per_program
    lines = [
        printable(e.agent),
        f"  {cost_line(e)}",
        f"  {e.programs} programs{valid}, {e.on_front} on the front",
        f"  {e.answered} requests answered, {e.failed} failed, {e.unknown} of unknown outcome, "
        f"{e.flying} in flight; {e.seconds:,.0f} s of waiting",
        f"  {e.repeated:.0%} of the bytes sent repeat the beginning of an earlier request: what a "
        "cache of prompts can serve",
    ]
    if per is not None:
        lines.append(f"  {per:,.0f} tokens sent per program")
    if e.estimated:
        lines.append(f"  {e.estimated:,} tokens are bounds of ours: not counted by the provider")
    return lines


COMMANDS = (cost,)
