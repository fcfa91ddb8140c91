"""Leaves parts out of what wins, so that a program is reduced to what matters."""

from __future__ import annotations

import random

from agent.minimise import smaller
from agent.proposers.base import Elite, Proposal, SearchContext
from vortex.compile import bind, parse
from vortex.errors import VortexError
from vortex.ir import walk
from vortex.ops import AxisError
from vortex.plan import plan_of

_KNOWN = ("seed", "control", "tune")  # who makes no structure of their own


class Ablate:
    """One part less of a member of the front that evolution or a language model made.

    Knobs stay as they are, and something must still be ranked. Of each parent the smallest untried
    program comes first; what then holds its place on the front is a parent in its turn.
    """

    name = "ablate"

    def propose(self, context: SearchContext, n: int) -> list[Proposal]:
        """See Proposer."""
        rng = random.Random(f"ablate/{context.seed}")
        parents = _parents(context)
        rng.shuffle(parents)
        taken = set(context.tried)
        queues: list[list[tuple[str, Proposal]]] = []
        for parent in parents:
            if len(queues) < max(1, n):
                queue = _reduced(parent, taken)
                taken |= {digest for digest, _ in queue}
                queues += [queue] if queue else []
        found: list[Proposal] = []
        while queues and len(found) < n:  # in turn, so that no parent takes all places
            queue = queues.pop(0)
            found.append(queue.pop(0)[1])
            queues += [queue] if queue else []
        return found


def _parents(context: SearchContext) -> list[Elite]:
    """Members of the front whose structure was made here; its tuned forms count too."""
    made = {e.structure_hash for e in context.elites if e.proposer not in _KNOWN}
    known = {e.structure_hash for e in context.elites if e.proposer in ("seed", "control")}
    wanted = made - known
    return [e for e in context.elites if e.on_front and e.structure_hash in wanted]


def _reduced(parent: Elite, taken: set[str]) -> list[tuple[str, Proposal]]:
    """(candidate hash, proposal) of every untried program with one part less, smallest first."""
    found: dict[str, tuple[int, Proposal]] = {}
    for left_out, text in smaller(parent.text, parent.knobs):
        try:
            program = parse(text)
            kept = {k: v for k, v in parent.knobs.items() if k in program.knobs}
            candidate = bind(program, kept)
        except (AxisError, VortexError):
            continue
        # What ranks nothing any more is the control of first and newest pages.
        blank = not plan_of(candidate.select).rankings
        if blank or candidate.candidate_hash in taken or candidate.candidate_hash in found:
            continue
        size = sum(1 for _ in walk(program.roots()))
        note = f"without {left_out}"
        proposal = Proposal(text, dict(candidate.knobs), Ablate.name, (parent.candidate_id,), note)
        found[candidate.candidate_hash] = size, proposal
    ordered = sorted(found.items(), key=lambda x: (x[1][0], x[0]))
    return [(digest, proposal) for digest, (_, proposal) in ordered]
