"""Shares the evaluations among proposers by what each brought to the front.

Two levels: the kinds of proposer by what they bring per evaluation, and the language models, where
there are several, by what they bring per cent spent.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from agent.standing import Standings
from evals.result import Status
from runs.board import ProposerRow

LLM = "llm"
_KINDS = ("evolve", "tune", "ablate")  # the others that ask for a share are language models
_MOST_FLOORS = 0.6  # of all evaluations, where there are many proposers
_AGENT_FLOOR = 0.1
_FREE = 0.25  # the least that a try counts as, of the mean: time and places are not free


def shares(stats: Mapping[str, tuple[int, int]], *, floor: float = 0.15) -> dict[str, float]:
    """Share of each proposer: its posterior mean of reaching the front, with a floor for all.

    Args:
        stats: (evaluated, on the front) by proposer; the prior is one of two, Laplace's rule.
    """
    rates = {name: (hits + 1) / (tried + 2) for name, (tried, hits) in stats.items()}
    return _shared(rates, floor)


def agent_shares(
    stats: Mapping[str, tuple[int, int, float]], *, floor: float = _AGENT_FLOOR
) -> dict[str, float]:
    """Share of each language model: its posterior mean of reaching the front over the posterior
    mean of what a try costs it, with a floor for all.

    A new one is presumed to cost what a try costs on average. One that costs little or nothing
    counts as a quarter of that: places are not free either. If all are free, only the rate counts.

    Args:
        stats: (evaluated, on the front, dollars) by model. Dollars for what never became a
            candidate count too, so one that spends and brings nothing falls behind.
    """
    spent = sum(dollars for _, _, dollars in stats.values())
    tries = sum(tried for tried, _, _ in stats.values())
    mean = spent / max(1, tries)
    if mean <= 0:
        return shares({n: (t, h) for n, (t, h, _) in stats.items()}, floor=floor)
    rates = {
        name: (hits + 1) / (tried + 2) / max((dollars + mean) / (tried + 1), _FREE * mean)
        for name, (tried, hits, dollars) in stats.items()
    }
    return _shared(rates, floor)


def all_shares(
    kinds: Mapping[str, tuple[int, int]],
    agents: Mapping[str, tuple[int, int, float]],
    *,
    least: float = 0.0,
) -> dict[str, float]:
    """Share of every proposer by name; the models divide the share of their kind.

    Args:
        kinds: (evaluated, on the front) of those that are no language model.
        agents: see :func:`agent_shares`; empty in a run without a language model.
        least: what the models have together at the least.
    """
    if not agents:
        return shares(kinds)
    together = (sum(a[0] for a in agents.values()), sum(a[1] for a in agents.values()))
    first = shares({**kinds, LLM: together})
    bandits = first.pop(LLM)
    theirs = max(bandits, least) if kinds else 1.0
    left = (1 - theirs) / (1 - bandits) if kinds else 0.0
    others = {n: s * left for n, s in first.items()}
    return {**others, **{n: theirs * s for n, s in agent_shares(agents).items()}}


def draw(wanted: Mapping[str, float], rng: random.Random) -> str:
    """A name drawn by its share."""
    return rng.choices(list(wanted), weights=list(wanted.values()))[0]


def brought(now: Standings, proposer: str) -> tuple[int, int]:
    """(evaluated, on the front) of a proposer."""
    mine = [s for s in now.by_id.values() if s.record.proposer == proposer and s.stages]
    members = {s.record.id for s in now.front()}
    return len(mine), sum(s.record.id in members for s in mine)


def shares_now(
    now: Standings, active: Sequence[str], dollars: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The share that each active proposer has of the next evaluation.

    Args:
        active: names as in the records; those that are no kind of ours are language models.
        dollars: what each has cost so far; nothing where it is not listed.
    """
    paid = dollars or {}
    kinds = {n: brought(now, n) for n in active if n in _KINDS}
    agents = {n: (*brought(now, n), paid.get(n, 0.0)) for n in active if n not in _KINDS}
    return all_shares(kinds, agents, least=1 - now.config.fill) if kinds or agents else {}


def proposer_rows(
    now: Standings, active: Sequence[str], dollars: Mapping[str, float] | None = None
) -> tuple[ProposerRow, ...]:
    """What each source of candidates brought: the active ones with their share, then all others
    that proposed something (known algorithms, a user), controls apart."""
    wanted = shares_now(now, active, dollars)
    members = {s.record.id for s in now.front()}
    proposed = [s for s in now.by_id.values() if not s.record.control]
    others = sorted({s.record.proposer for s in proposed} - set(active))
    rows = []
    for name in (*active, *others):
        mine = [s for s in proposed if s.record.proposer == name]
        judged = [s for s in mine if s.status not in (None, Status.DUPLICATE)]
        rows.append(
            ProposerRow(
                proposer=name,
                evaluated=len(judged),
                valid=sum(s.status != Status.REJECTED for s in judged),
                on_front=sum(s.record.id in members for s in mine),
                share=wanted.get(name),
                dollars=None if dollars is None else dollars.get(name),
            )
        )
    return tuple(rows)


def _shared(rates: Mapping[str, float], floor: float) -> dict[str, float]:
    """Shares proportional to rates, above a floor that leaves something to divide."""
    least = min(floor, _MOST_FLOORS / max(1, len(rates)))
    total, free = sum(rates.values()), 1 - least * len(rates)
    return {name: least + free * rate / total for name, rate in rates.items()}
