"""Who proposes next: language models as fast as they may, the others where evaluators are idle."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agent.bandit import draw, shares_now
from agent.llm.studio import Studio
from agent.proposers.base import Elite, Proposer, SearchContext
from agent.standing import Standings
from runs.ledger import Ledger
from runs.store import Store
from vortex.geometry import geometry
from vortex.ir import Candidate
from vortex.plan import raised


@dataclass(frozen=True, slots=True)
class Sources:
    """All that can propose in a run; ``studio`` None: no language model does."""

    store: Store
    proposers: Sequence[Proposer]
    studio: Studio | None = None

    def names(self) -> tuple[str, ...]:
        """Of those that can propose now, as their candidates are recorded."""
        agents = self.studio.well() if self.studio else []
        return (*(p.name for p in self.proposers), *agents)

    def shares(self, now: Standings) -> dict[str, float]:
        """The bandit's share of each."""
        paid = Ledger(self.store).dollars_by_agent() if self.studio else {}
        return shares_now(now, self.names(), paid)

    def ask(self, now: Standings, left: int) -> int:
        """Begin turns of language models while threads are free and their share allows.

        Args:
            left: evaluations that nobody has a claim to yet.

        Returns:
            How many were begun.
        """
        studio, begun = self.studio, 0
        while studio is not None and left > 0 and self._may_ask(now, studio):
            well = set(studio.well())
            wanted = {n: s for n, s in self.shares(now).items() if n in well}
            if not wanted:
                break
            rng = random.Random(f"{now.config.seed}/turns/{len(studio.ledger.turns())}")
            if not studio.begin(draw(wanted, rng)):
                break
            left, begun = left - 1, begun + 1
        return begun

    def _may_ask(self, now: Standings, studio: Studio) -> bool:
        """They may be ahead of their share by the turns that run at once, not more."""
        if not self.proposers:
            return True
        share = self._share_of_models(now)
        theirs = self._made(now, set(studio.agents)) + studio.open_turns()
        others = self._made(now, {p.name for p in self.proposers})
        return theirs < share * (theirs + others) + now.config.parallel_turns

    def _share_of_models(self, now: Standings) -> float:
        shares = self.shares(now)
        return sum(shares.get(n, 0.0) for n in (self.studio.well() if self.studio else ()))

    def _made(self, now: Standings, names: set[str]) -> int:
        return sum(s.record.proposer in names for s in now.by_id.values())

    def fresh(self, now: Standings, left: int) -> int | None:
        """A new candidate from one of the others; None where they have none, or had their share.

        Args:
            left: evaluations that nobody has a claim to yet.
        """
        if left <= 0 or (self.studio and self.studio.capped) or self._had_their_share(now):
            return None
        config = now.config
        rng = random.Random(f"{config.seed}/{len(now.by_id)}")
        context = search_context(now, seed=rng.randrange(1 << 30))
        wanted = {
            n: s for n, s in self.shares(now).items() if n in {p.name for p in self.proposers}
        }
        first = draw(wanted, rng) if wanted else ""
        for proposer in sorted(self.proposers, key=lambda p: p.name != first):
            for proposal in proposer.propose(context, 1):
                candidate, new = self.store.add(
                    text=proposal.text, knobs=dict(proposal.knobs), proposer=proposal.proposer,
                    parents=proposal.parents, note=proposal.note,
                )  # fmt: skip
                if new:
                    return candidate
        return None

    def _had_their_share(self, now: Standings) -> bool:
        """Idle evaluators are theirs to fill, but the models' share of the budget is kept free."""
        if self.studio is None or not self.studio.well():
            return False
        names = {p.name for p in self.proposers}
        known = self._made(now, {"seed"})
        most = (1 - self._share_of_models(now)) * (now.config.evaluations - known)
        return self._made(now, names) >= most


def search_context(now: Standings, *, seed: int) -> SearchContext:
    """What proposers see."""
    members = {s.record.id for s in now.front()}
    elites = tuple(
        Elite(
            candidate_id=s.record.id, text=s.record.text, knobs=dict(s.record.knobs),
            loss=s.entry().loss, step_seconds=s.seconds, on_front=s.record.id in members,
            structure_hash=s.record.structure_hash or "", proposer=s.record.proposer,
        )
        for s in now.judged()
    )  # fmt: skip
    tried = frozenset(
        s.record.candidate_hash for s in now.by_id.values() if s.record.candidate_hash
    )
    config, layers = now.config, geometry(now.config.model).layers

    def fits(candidate: Candidate) -> bool:
        """Whether its budget scales to the contexts at hand."""
        if config.context_tokens >= config.context:
            return True
        return not raised(candidate, config.context_tokens, config.context, layers=layers)

    return SearchContext(elites=elites, tried=tried, seed=seed, fits=fits)
