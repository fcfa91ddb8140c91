"""What language models cost and brought, from a run's ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.llm.studio import tally
from agent.llm.turns import PROPOSE
from agent.standing import standings
from runs.ledger import Entry, Ledger, State
from runs.store import Store


@dataclass(frozen=True, slots=True)
class Expense:
    """One agent's, or all together.

    Attributes:
        turns: that asked for a program and were ended by the model; ``programs``: that brought one.
        answered, failed, unknown, flying: requests by what became of them.
        prompt, cached, written, completion: tokens; ``estimated`` of the sum are bounds of ours.
        repeated: share of what was sent (bytes) that an earlier request began with alike: what a
            provider's cache of prompts can serve.
        dollars: None where no price is known.
        unknown_dollars: of them, bounds for requests of unknown outcome.
        seconds: of waiting for replies.
    """

    agent: str
    turns: int
    programs: int
    on_front: int
    answered: int
    failed: int
    unknown: int
    flying: int
    prompt: int
    cached: int
    written: int
    completion: int
    estimated: int
    repeated: float
    dollars: float | None
    unknown_dollars: float
    seconds: float

    @property
    def prompt_per_program(self) -> float | None:
        """Tokens sent for each program that was handed in."""
        return self.prompt / self.programs if self.programs else None


def expenses(store: Store) -> list[Expense]:
    """Every agent's, in the order in which they were first asked; empty without any."""
    ledger = Ledger(store)
    turns = ledger.turns()
    agents = list(dict.fromkeys(t.agent for t in turns))
    front = {s.record.id for s in standings(store, store.config()).front()}
    entries = ledger.entries()
    return [_expense(a, entries, ledger, front) for a in agents]


def _expense(agent: str, entries: Sequence[Entry], ledger: Ledger, front: set[int]) -> Expense:
    turns = [t for t in ledger.turns() if t.agent == agent]
    ids = {t.id for t in turns}
    mine = [e for e in entries if e.turn in ids]
    asked = [t for t in turns if t.purpose == PROPOSE]
    ended = [t for t in asked if t.outcome not in (None, "budget", "failed", "lost")]
    states = Counter(e.state for e in mine)
    paid = [e.count.dollars for e in mine if e.state != State.FLYING]
    known = all(d is not None for d in paid)
    unknown = [e.count.dollars or 0.0 for e in mine if e.state == State.UNKNOWN]
    return Expense(
        agent=agent,
        turns=len(ended),
        programs=sum(t.outcome in ("submitted", "repeated") for t in ended),
        on_front=sum(t.candidate in front for t in ended if t.outcome == "submitted"),
        answered=states[State.ANSWERED], failed=states[State.FAILED],
        unknown=states[State.UNKNOWN], flying=states[State.FLYING],
        prompt=sum(e.count.prompt for e in mine), cached=sum(e.count.cached for e in mine),
        written=sum(e.count.written for e in mine),
        completion=sum(e.count.completion for e in mine),
        estimated=sum(e.count.prompt + e.count.completion for e in mine if e.count.estimated),
        repeated=repeated_share(mine),
        dollars=sum(d for d in paid if d is not None) if known else None,
        unknown_dollars=sum(unknown),
        seconds=sum(e.seconds for e in mine),
    )  # fmt: skip


def repeated_share(entries: Sequence[Entry]) -> float:
    """Share of the bytes sent that an earlier request of the agent began with, by whole texts."""
    seen: set[tuple[str, ...]] = set()
    total = again = 0
    for entry in entries:
        system, tools = entry.content["texts"]
        parts = [tools, system, *entry.content["messages"]]  # the order in which they are cached
        for n in range(1, len(parts) + 1):
            size, start = len(parts[n - 1].encode()), tuple(parts[:n])
            total += size
            again += size * (start in seen)
            seen.add(start)
    return again / total if total else 0.0


def summary(store: Store) -> list[str]:
    """What is said at the end of a run with language models; nothing without."""
    found = expenses(store)
    if not found:
        return []
    now = standings(store, store.config())
    count = tally(Ledger(store))
    others = Counter(s.record.proposer for s in now.front())
    names = {e.agent for e in found}
    theirs = sum(n for p, n in others.items() if p in names)
    rest = ", ".join(f"{n} of {p}" for p, n in others.items() if p not in names)
    share = f" ({count.valid / count.ended:.0%} valid)" if count.ended else ""
    lines = [
        f"language models: {count.ended} turns, {count.valid} programs{share}; "
        f"on the front: {theirs} of theirs{', ' + rest if rest else ''}"
    ]
    lines += [f"{e.agent}: {cost_line(e)}" for e in found]
    return lines


def cost_line(e: Expense) -> str:
    """Tokens and dollars in a line."""
    money = "cost unknown" if e.dollars is None else f"${e.dollars:.4f}"
    bound = f", of which up to ${e.unknown_dollars:.4f} for requests of unknown outcome"
    return (
        f"{money}{bound if e.unknown_dollars else ''}; {e.prompt:,} tokens sent "
        f"({e.cached:,} from a cache), {e.completion:,} received"
    )


def as_json(found: Sequence[Expense]) -> str:
    """All figures, with their units in the names."""
    rows = [
        {
            "agent": e.agent, "turns": e.turns, "programs": e.programs, "on_front": e.on_front,
            "requests": {"answered": e.answered, "failed": e.failed, "unknown": e.unknown,
                         "in_flight": e.flying},
            "tokens": {"prompt": e.prompt, "cached": e.cached, "written": e.written,
                       "completion": e.completion, "estimated": e.estimated},
            "prompt_tokens_per_program": e.prompt_per_program,
            "repeated_share_of_bytes": e.repeated,
            "dollars": e.dollars, "dollars_of_unknown_outcome": e.unknown_dollars,
            "seconds": e.seconds,
        }
        for e in found
    ]  # fmt: skip
    return json.dumps(rows, indent=2)
