"""Evolution on programs: typed mutation and crossover that yields only programs that compile."""

from __future__ import annotations

import random
from collections.abc import Sequence

from agent.proposers.base import Elite, Proposal, SearchContext
from agent.proposers.draft import Draft, NoChange, draft_of, finished
from agent.proposers.mutations import WEIGHTED, crossover
from search_spaces.grammar import program
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ops import AxisError

_TRIES = 60
_FROM_FRONT, _CROSSOVER, _MORE, _INVENTED = 0.65, 0.15, 0.35, 0.06


class Evolve:
    """Mutates one parent, joins two, or now and then draws a program that is related to none."""

    name = "evolve"

    def propose(self, context: SearchContext, n: int) -> list[Proposal]:
        """See Proposer."""
        rng = random.Random(f"evolve/{context.seed}")
        taken = set(context.tried)
        found: list[Proposal] = []
        for _ in range(_TRIES * n):
            if len(found) == n or not context.elites:
                break
            drawn = rng.random() < _INVENTED
            made = self._invented(rng) if drawn else self._attempt(context.elites, rng)
            if made is None or made[1] in taken:
                continue
            if context.fits(compile_text(made[0].text, made[0].knobs)):
                taken.add(made[1])
                found.append(made[0])
        return found

    def _invented(self, rng: random.Random) -> tuple[Proposal, str] | None:
        """A program drawn from the grammar, related to none."""
        text = program(rng.randrange(2**31))
        try:
            candidate = compile_text(text)
        except (AxisError, VortexError):
            return None
        values = dict(candidate.knobs)
        return Proposal(text, values, self.name, (), "drawn from the grammar"), (
            candidate.candidate_hash
        )

    def _attempt(self, elites: Sequence[Elite], rng: random.Random) -> tuple[Proposal, str] | None:
        """A proposal and its hash, or None if the changes do not fit."""
        parent = _parent(elites, rng)
        parents = [parent]
        notes = []
        try:
            draft = draft_of(parent.text, parent.knobs)
            if rng.random() < _CROSSOVER:
                other = _parent(elites, rng)
                parents.append(other)
                notes.append(crossover(draft, draft_of(other.text, other.knobs), rng))
            while not notes or rng.random() < _MORE:
                notes.append(_mutate(draft, rng))
            name = f"E{rng.randrange(16**6):06x}"
            text, values, digest = finished(draft, name, "; ".join(notes) + ".")
        except (NoChange, AxisError, VortexError):
            return None
        ids = tuple(dict.fromkeys(p.candidate_id for p in parents))
        return Proposal(text, values, self.name, ids, "; ".join(notes)), digest


def _mutate(draft: Draft, rng: random.Random) -> str:
    mutations = [m for m, _ in WEIGHTED]
    return rng.choices(mutations, weights=[w for _, w in WEIGHTED])[0](draft, rng)


def _parent(elites: Sequence[Elite], rng: random.Random) -> Elite:
    """From the front, or the winner of a small tournament on a random trade-off."""
    members = [e for e in elites if e.on_front]
    if members and rng.random() < _FROM_FRONT:
        return rng.choice(members)
    few = rng.sample(list(elites), min(3, len(elites)))
    fastest = min(e.step_seconds for e in elites)
    weight = rng.random()
    return min(few, key=lambda e: e.loss + weight * e.step_seconds / fastest)
