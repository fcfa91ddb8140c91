"""The command that compares: two candidates of a run, or the runs of two kinds of search."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from agent.commands.inspect_run import DIR, opened, standing_of
from agent.presentation import sealed_losses
from agent.standing import Standings, standings
from agent.trails import shared_contexts, trail_of
from runs.archive import paired
from runs.board import finite
from runs.contest import RESAMPLES, Bout, Contest, Measure, Trail, contest
from runs.ledger import Ledger
from runs.quality import RANKED_TASKS
from runs.store import Store
from vortex.errors import VortexError, printable

_SURE = 0.05


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--run", help="Of two candidates: their run; the latest when none is named.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Of two runs: of the resampling.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True)
@DIR
def compare(a: str, b: str, run: str | None, seed: int, as_json: bool, runs_dir: Path) -> None:
    """Compare two candidates (numbers), paired by context, or two runs (names).

    Runs are compared at equal evaluations, and at equal cost where both have one. Several runs of
    one kind of search are A1,A2,A3: then the spread between repetitions is shown too.
    """
    if a.isdecimal() and b.isdecimal():
        _candidates(opened(runs_dir, run), int(a), int(b), as_json=as_json)
        return
    if run is not None:
        raise VortexError(
            "--run is for candidates, and these are no numbers", code="E303",
            hint="compare 4 9 --run RUN, or compare RUN RUN",
        )  # fmt: skip
    try:
        _runs(a, b, runs_dir, seed=seed, as_json=as_json)
    except VortexError as error:
        if error.code == "E606" and a.isdecimal() != b.isdecimal():
            error.hint = "two numbers are candidates, two names are runs; here is one of each"
        raise


def _candidates(store: Store, a: int, b: int, *, as_json: bool) -> None:
    now = standings(store, store.config())
    left, right = standing_of(store, a), standing_of(store, b)
    sealed = sealed_losses(store, now)
    pairs = {"loss gap": (left.losses, right.losses)}
    if now.scale is not None:
        for task in RANKED_TASKS:
            gaps = tuple(now.scale.gaps(s.samples, task) for s in (left, right))
            pairs[f"{task} gap"] = (gaps[0], gaps[1])
    if a in sealed and b in sealed:
        pairs["sealed gap"] = (sealed[a], sealed[b])
    results = {name: paired(x, y) for name, (x, y) in pairs.items()}
    if as_json:
        data: dict[str, object] = {
            n: {"difference": d.value, "stderr": d.error, "n": d.n}
            for n, d in results.items() if d.n > 1
        }  # fmt: skip
        data["predicted_step_seconds"] = [left.seconds, right.seconds]
        click.echo(json.dumps(finite(data), indent=2))
        return
    click.echo(f"{a} {printable(left.record.name)} minus {b} {printable(right.record.name)} "
               "(measured, paired by context; negative: the first loses less)")  # fmt: skip
    for name, d in results.items():
        text = f"{d.value:+.3f} ± {d.error:.3f}  ({d.z:+.1f} s.e., n = {d.n})" if d.n > 1 else "–"
        click.echo(f"  {name:12} {text}")
    click.echo(f"  step         {_step(left.seconds)} against {_step(right.seconds)}, "
               f"predicted for {now.config.price_for}")  # fmt: skip


def _step(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if math.isfinite(seconds) else "–"


def _runs(a: str, b: str, runs_dir: Path, *, seed: int, as_json: bool) -> None:
    read: dict[str, Standings] = {}
    costs: dict[str, Mapping[int, float] | None] = {}
    sides: list[list[str]] = []
    for listed in (a, b):
        side = []
        for name in filter(None, listed.split(",")):
            store = opened(runs_dir, name)
            if store.name in read:
                raise VortexError(
                    f"run {store.name} is named twice", code="E705",
                    hint="a run has nothing to tell about a comparison with itself",
                )  # fmt: skip
            read[store.name] = standings(store, store.config())
            costs[store.name] = costs_of(store)
            side.append(store.name)
        if not side:
            raise VortexError("a side names no run", code="E705", hint="compare RUN RUN")
        sides.append(side)
    contexts = shared_contexts(read)
    left, right = ([trail_of(n, read[n], costs[n]) for n in side] for side in sides)
    found = contest(left, right, contexts, seed=seed)
    if as_json:
        click.echo(json.dumps(finite(_facts(found, left, right, read)), indent=2))
    else:
        click.echo("\n".join(_lines(found, left, right, read)))


def costs_of(store: Store) -> Mapping[int, float] | None:
    """Dollars by candidate of a run; None: no cost is recorded, or not for all of it.

    What turns cost that brought no candidate falls to the next one that was brought.
    """
    ledger = Ledger(store)
    paid, unpriced = ledger.dollars_by_turn(), ledger.spent().unpriced
    if unpriced or not any(paid.values()):
        return None
    found: dict[int, float] = {}
    waiting = 0.0
    for turn in ledger.turns():
        waiting += paid.get(turn.id, 0.0)
        if turn.candidate is not None and turn.candidate not in found:
            found[turn.candidate], waiting = waiting, 0.0
    return found


def _facts(
    found: Contest, a: Sequence[Trail], b: Sequence[Trail], read: Mapping[str, Standings]
) -> dict[str, object]:
    return {
        "a": [_run_facts(t, found, read[t.run]) for t in a],
        "b": [_run_facts(t, found, read[t.run]) for t in b],
        "contexts": len(found.contexts),
        "error_is": _error_is(found),
        "equal_evaluations": [_bout_facts(x) for x in found.evaluations],
        "equal_cost": None if found.cost is None else _bout_facts(found.cost),
        "why_no_cost": found.why_no_cost,
        "notes": _notes(found, a, b, read),
    }


def _run_facts(trail: Trail, found: Contest, now: Standings) -> dict[str, object]:
    return {
        "run": trail.run, "evaluated": len(trail.attempts),
        "placed": trail.placed(found.contexts), "seed": now.config.seed,
        "dollars": trail.cost if trail.priced else None,
    }  # fmt: skip


def _bout_facts(bout: Bout) -> dict[str, object]:
    return {
        "limit": bout.limit,
        "measures": [
            {**dataclasses.asdict(m), "difference": m.difference, "verdict": verdict(m, better)}
            for m, better in _signed(bout)
        ],
    }


def _signed(bout: Bout) -> list[tuple[Measure, int]]:
    """Measures with 1 where more is better, -1 where less is."""
    return [(m, 1 if i == 0 else -1) for i, m in enumerate(bout.measures)]


def verdict(measure: Measure, better: int) -> str:
    """``first``, ``second``, ``unclear``, or ``unknown`` where a side found nothing so fast.

    A side is better if the interval over contexts leaves out 0 and, where there are several runs,
    the permutation test has p of at most 0.05.
    """
    if math.isnan(measure.difference) or math.isnan(measure.low):
        return "unknown"
    by_luck = measure.chance is not None and measure.chance > _SURE
    if measure.low <= 0 <= measure.high or by_luck:
        return "unclear"
    return "first" if measure.difference * better > 0 else "second"


def _error_is(found: Contest) -> str:
    spread = any(m.spread is not None for x in found.evaluations for m in x.measures)
    text = (
        f"± is one standard error over the {len(found.contexts)} evaluation contexts ({RESAMPLES:,}"
        " resamples, the same for both sides)"
    )
    if spread:
        return f"{text}; 'between runs' is the standard error over repetitions of a search"
    return (
        f"{text}; it says nothing of how another repetition of either search would come out: for "
        "that, name several runs a side, as A1,A2,A3 B1,B2,B3"
    )


def _notes(
    found: Contest, a: Sequence[Trail], b: Sequence[Trail], read: Mapping[str, Standings]
) -> list[str]:
    notes = [
        f"only candidates that saw all {len(found.contexts)} contexts have a place; those that "
        "racing or a failure stopped earlier count as evaluated and bring nothing"
    ]
    sides = [len(a), len(b)]
    deals = math.comb(sum(sides), sides[0]) / (2 if sides[0] == sides[1] else 1)
    if min(sides) > 1 and 1 / deals > _SURE:
        notes.append(f"{sides[0]} runs against {sides[1]} cannot reach p = {_SURE}: the least "
                     f"possible is {1 / deals:.2g}")  # fmt: skip
    last = next(iter(read.values())).config.rungs[-1]
    if len(found.contexts) < last:
        notes.append(f"a run has no candidate that saw all {last} contexts: compared on fewer")
    seeds = {
        frozenset(s.record.candidate_hash or "" for s in read[t.run].by_id.values()
                  if s.record.proposer == "seed")
        for t in (*a, *b)
    }  # fmt: skip
    if len(seeds) > 1:
        notes.append("the runs began with different seeds, which count as evaluated")
    return notes


def _lines(
    found: Contest, a: Sequence[Trail], b: Sequence[Trail], read: Mapping[str, Standings]
) -> list[str]:
    lines = []
    for side, trails in (("first", a), ("second", b)):
        for t in trails:
            cost = f", ${t.cost:.2f}" if t.priced else ""
            lines.append(f"{side:7} {t.run}: {len(t.attempts)} evaluated, "
                         f"{t.placed(found.contexts)} placed{cost}")  # fmt: skip
    last = found.evaluations[-1]
    lines += ["", f"after {last.limit:.0f} evaluations each:", *_table(last)]
    earlier = found.evaluations[:-1]
    if earlier:
        lines += ["", "dominated share after fewer:"]
        lines += [f"  {x.limit:>5.0f} evaluations {_row(x.measures[0])}" for x in earlier]
    if found.cost is None:
        lines += ["", f"not compared at equal cost: {found.why_no_cost}"]
    else:
        lines += ["", f"after ${found.cost.limit:.2f} each:", *_table(found.cost)]
    said = [_error_is(found), *_notes(found, a, b, read)]
    said.append("dominated share: of the square of loss gap and step time (over full attention's), "
                "0 = nothing better than random pages or than full attention")  # fmt: skip
    return [*lines, "", *(f"- {text}" for text in said)]


def _table(bout: Bout) -> list[str]:
    words = {"first": "the first is better", "second": "the second is better",
             "unclear": "no difference shown", "unknown": ""}  # fmt: skip
    return [
        f"  {m.name:32} {_row(m)}  {words[verdict(m, better)]}".rstrip()
        for m, better in _signed(bout)
    ]


def _row(m: Measure) -> str:
    pair = f"{_number(m.a)} against {_number(m.b)}"
    if math.isnan(m.difference):
        return pair
    text = f"{pair}: {m.difference:+.3f} ± {m.error:.3f}"
    if not math.isnan(m.low):
        text += f" [{m.low:+.3f}, {m.high:+.3f}]"
    if m.spread is not None:
        text += f", between runs ± {m.spread:.3f} (p = {m.chance:.2g})"
    return text


def _number(value: float) -> str:
    return "    –" if math.isnan(value) else f"{value:.3f}"


COMMANDS = (compare,)
