"""What a turn is for: a new idea, a better parent, two joined, or a failure explained."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.llm.hypotheses import Judged
from agent.standing import Standing, Standings
from vortex.compile import parse
from vortex.errors import VortexError
from vortex.ir import walk
from vortex.ops import AxisError


class Mode(StrEnum):
    """The task of a turn."""

    NEW = "new"
    IMPROVE = "improve"
    COMBINE = "combine"
    EXPLAIN = "explain"  # a failure, and repair it


# Shares of the turns; what does not apply falls to IMPROVE, without a front all are NEW.
_SHARES = {Mode.NEW: 0.25, Mode.IMPROVE: 0.4, Mode.COMBINE: 0.2, Mode.EXPLAIN: 0.15}
_FROM_FRONT = 0.75
_NEAR_LOSS, _NEAR_TIME = 0.05, 1.05
_RANKS = ("top_k(", "top_p(", "threshold(", "refine(")
_RECENT = 6


@dataclass(frozen=True, slots=True)
class Brief:
    """One turn's task.

    Attributes:
        parent: the candidate to improve, to join with another, or whose failure to explain.
        others: inspirations; the second parent when two are joined.
        number: of the turn, as the caller counts.
    """

    mode: Mode
    parent: int | None
    others: tuple[int, ...]
    number: int = 0


def plan(now: Standings, judged: Sequence[Judged], rng: random.Random, *, number: int = 0) -> Brief:
    """The next turn's task; the same state and generator give the same one."""
    front = now.front()
    failed = [
        j.candidate
        for j in judged
        if j.verdict in ("failed", "refuted") and j.candidate in now.by_id
        and not _children(now, j.candidate)
    ][-_RECENT:]  # fmt: skip
    drawn = rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]
    if not front:
        return Brief(Mode.NEW, None, (), number)
    if drawn == Mode.NEW:
        return Brief(Mode.NEW, None, _far(now, rng.choice(front), 3), number)
    if drawn == Mode.EXPLAIN and failed:
        culprit = now.by_id[rng.choice(failed)]
        compared = next(j.compared_to for j in judged if j.candidate == culprit.record.id)
        known = compared is not None and compared in now.by_id
        others = (compared,) if compared is not None and known else _far(now, culprit, 1)
        return Brief(Mode.EXPLAIN, culprit.record.id, others, number)
    parent = _parent(now, front, rng)
    if drawn == Mode.COMBINE and len(front) > 1:
        return Brief(Mode.COMBINE, parent.record.id, _far(now, parent, 1), number)
    return Brief(Mode.IMPROVE, parent.record.id, _far(now, parent, rng.choice((2, 3))), number)


def _parent(now: Standings, front: Sequence[Standing], rng: random.Random) -> Standing:
    """A member of the front, or now and then of what lies close behind it."""
    rung = min(s.rung for s in front)
    ids = {s.record.id for s in front}
    near = [
        s
        for s in now.at_rung(rung)
        if s.record.id not in ids and any(_is_near(s, member) for member in front)
    ]
    pool = front if not near or rng.random() < _FROM_FRONT else near
    # Turns that run at once, and those after each other, should not all take the same one.
    weights = [1 / (1 + _children(now, s.record.id)) for s in pool]
    return rng.choices(pool, weights=weights)[0]


def _children(now: Standings, candidate: int) -> int:
    """Candidates that were made from one."""
    return sum(candidate in s.record.parents for s in now.by_id.values())


def _is_near(s: Standing, member: Standing) -> bool:
    close = s.entry().loss <= member.entry().loss + _NEAR_LOSS
    return close and s.seconds <= member.seconds * _NEAR_TIME


def _far(now: Standings, parent: Standing, count: int) -> tuple[int, ...]:
    """Judged candidates of the front's rung, far from the parent and from each other."""
    front = now.front()
    rung = min((s.rung for s in front), default=1)
    ids = {s.record.id for s in front} | {parent.record.id}
    seeds = [s for s in now.at_rung(rung) if s.record.proposer == "seed"]
    pool = {s.record.id: s for s in (*front, *seeds) if s.record.id != parent.record.id}
    traits = {i: _traits(s) for i, s in pool.items()} | {parent.record.id: _traits(parent)}
    # A program that ranks nothing is far from all others, and teaches nothing twice.
    ranking = {i: s for i, s in pool.items() if any(t.startswith(_RANKS) for t in traits[i])}
    pool = ranking if len(ranking) >= count else pool
    spans = _spans([*pool.values(), parent])
    places = {s.record.id: _place(s, spans) for s in (*pool.values(), parent)}

    def apart(a: int, b: int) -> float:
        structure = _unlike(traits[a], traits[b])
        trade = sum(abs(x - y) for x, y in zip(places[a], places[b], strict=True))
        return structure + trade

    chosen: list[int] = []
    while len(chosen) < count and len(chosen) < len(pool):
        left = [i for i in pool if i not in chosen]
        bases = [parent.record.id, *chosen]
        # Members of the front first: an inspiration should be worth imitating.
        best = max(left, key=lambda i: (min(apart(i, b) for b in bases) + 0.25 * (i in ids), -i))
        chosen.append(best)
    return tuple(chosen)


def _spans(members: Iterable[Standing]) -> tuple[float, float, float, float]:
    """Least and range of loss and of log seconds."""
    losses = [s.entry().loss for s in members if s.losses]
    times = [math.log(s.seconds) for s in members if 0 < s.seconds < math.inf]
    low, first = min(losses, default=0.0), min(times, default=0.0)
    return (
        low, (max(losses, default=0.0) - low) or 1.0,
        first, (max(times, default=0.0) - first) or 1.0,
    )  # fmt: skip


def _place(s: Standing, spans: tuple[float, float, float, float]) -> tuple[float, float]:
    """Loss and log seconds, each within 0 to 1; the middle where it is unknown."""
    low, room, first, width = spans
    loss = (s.entry().loss - low) / room if s.losses else 0.5
    known = 0 < s.seconds < math.inf
    return loss, (math.log(s.seconds) - first) / width if known else 0.5


def _traits(s: Standing) -> frozenset[str]:
    """Operations with what they read, policies and types: what two structures may share."""
    try:
        program = parse(s.record.text, reserved=True)
    except (AxisError, VortexError):
        return frozenset()
    found = {
        f"{node.op}({','.join(sorted(n.op for n in node.inputs))})"
        for node in walk(program.roots())
    }
    return frozenset(found | {str(program.policies), str(program.dtype)})


def _unlike(a: frozenset[str], b: frozenset[str]) -> float:
    """1 - the share of traits in common."""
    return 1.0 - len(a & b) / len(a | b) if a | b else 0.0
