"""The command that re-runs a recorded run without a key: prompts, replies, evaluations."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agent.commands.inspect_run import opened
from agent.enlisting import enlist
from agent.llm.prefix import prefix
from agent.llm.replay import Change, Replay, distinct
from agent.llm.replay import replay as rerun
from agent.loop import Search
from agent.standing import Standing, standings
from agent.view import View
from agent.workers import HANDLER
from evals.evaluator import environment
from evals.models.fetch import NAMES
from evals.models.fit import obtain
from runs.store import Store
from vortex.errors import ExitCode, printable

_SHOWN, _LINES = 5, 40  # changes, and lines of each


@dataclass(frozen=True, slots=True)
class Judgement:
    """A candidate judged again.

    Attributes:
        worst: the largest difference of a sample that both runs have; samples: how many they have.
    """

    candidate: int
    before: str
    after: str
    worst: float
    samples: int


@click.command("replay")
@click.argument("run", required=False)
@click.option(
    "--evaluator",
    type=click.Choice(["recorded", "live"]),
    default="recorded",
    show_default=True,
    help="live: judge every candidate again on this machine.",
)
@click.option("--json", "as_json", is_flag=True)
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
def replay_command(run: str | None, evaluator: str, as_json: bool, runs_dir: Path) -> None:
    """Re-run the turns of a recorded run: no key, nothing sent; changed prompts as diffs."""
    store = opened(runs_dir, run)
    found = rerun(store, prefix(store.config()))
    judged = live(store) if evaluator == "live" else []
    moved = [j for j in judged if j.before != j.after]
    if as_json:
        click.echo(json.dumps(_facts(found, judged), indent=2))
    else:
        click.echo("\n".join([*_lines(found), *_judgements(judged)]))
    if found.changes or moved:
        raise click.exceptions.Exit(ExitCode.FAILED)


def live(store: Store, *, handler: str = HANDLER) -> list[Judgement]:
    """Judge every candidate of a run again, in a scratch run; throughput apart."""
    config = store.config()
    if config.accuracy_model in NAMES and handler == HANDLER:
        obtain(config.accuracy_model, lambda text: click.echo(text, err=True))
    # Nothing new is proposed; a run of before budgets held may have judged more than it may now.
    made = sum(not c.control for c in store.candidates())
    again = config.model_copy(
        update={"agents": (), "strategy": "search", "throughput": False,
                "evaluations": max(config.evaluations, made)}
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vortex-replay-") as folder:
        scratch = Store.create(Path(folder), again, environment())
        view = View()
        search = Search(scratch, (), view, lambda: False, handler=handler, measures=False)
        enlist(scratch, again)
        for c in store.candidates():
            if c.proposer not in ("control", "seed"):
                scratch.add(
                    text=c.text, knobs=c.knobs, proposer=c.proposer, parents=c.parents, note=c.note
                )
        search.run()
        view.finish()
        old, new = standings(store, config), standings(scratch, again)
        by_program = {_key(s): s for s in new.by_id.values()}
        found = [_judged(s, by_program.get(_key(s))) for s in old.by_id.values()]
        scratch.close()
    return found


def _key(standing: Standing) -> str:
    record = standing.record
    return f"{record.text}\n{record.candidate_hash}"


def _judged(old: Standing, new: Standing | None) -> Judgement:
    before = str(old.status or "waiting")
    if new is None:
        return Judgement(old.record.id, before, "waiting", 0.0, 0)
    mine = {(s.context, s.task, s.metric): s.value for s in old.samples}
    theirs = {(s.context, s.task, s.metric): s.value for s in new.samples}
    shared = mine.keys() & theirs.keys()
    worst = max((abs(mine[k] - theirs[k]) for k in shared), default=0.0)
    return Judgement(old.record.id, before, str(new.status or "waiting"), worst, len(shared))


def _lines(found: Replay) -> list[str]:
    lines = [
        f"{found.turns} turns re-run, {found.requests} requests compared with the record, "
        f"{found.partial} turns without a whole record"
    ]
    shown = distinct(found.changes)
    if not shown:
        return [*lines, "every request and every submission is what was recorded"]
    lines.append(f"{len(found.changes)} changes, {len(shown)} of them distinct:")
    for change, count in shown[:_SHOWN]:
        lines += _change(change, count)
    if len(shown) > _SHOWN:
        lines.append(f"... and {len(shown) - _SHOWN} more (--json has all)")
    return lines


def _change(change: Change, count: int) -> list[str]:
    where = f"turn {change.turn}" + (f", request {change.step}" if change.step >= 0 else "")
    times = f", {count} times" if count > 1 else ""
    diff = [printable(line, limit=200) for line in change.diff.splitlines()]
    more = [f"... {len(diff) - _LINES} more lines"] if len(diff) > _LINES else []
    return ["", f"{where}: {change.what} changed{times}", *diff[:_LINES], *more]


def _judgements(judged: Sequence[Judgement]) -> list[str]:
    if not judged:
        return []
    moved = [j for j in judged if j.before != j.after]
    worst = max(j.worst for j in judged)
    lines = [
        f"{len(judged)} candidates judged again: {len(moved)} verdicts differ, "
        f"the largest difference of a sample is {worst:.3g}"
    ]
    return lines + [f"  candidate {j.candidate}: {j.before}, now {j.after}" for j in moved]


def _facts(found: Replay, judged: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "turns": found.turns, "requests": found.requests, "partial": found.partial,
        "changes": [
            {"turn": c.turn, "step": c.step, "what": c.what, "diff": c.diff} for c in found.changes
        ],
        "judged": [
            {"candidate": j.candidate, "before": j.before, "after": j.after,
             "largest_difference": j.worst, "samples": j.samples} for j in judged
        ],
    }  # fmt: skip


COMMANDS = (replay_command,)
