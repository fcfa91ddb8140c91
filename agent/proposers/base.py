"""What a proposer sees and gives: one interface for evolution, tuning and language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vortex.ir import Candidate
from vortex.knobs import KnobValue


@dataclass(frozen=True, slots=True)
class Proposal:
    """A program with its knobs, where it comes from, and what was changed in one sentence."""

    text: str
    knobs: Mapping[str, KnobValue]
    proposer: str
    parents: tuple[int, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Elite:
    """A judged candidate: loss and predicted step seconds are better when lower.

    Attributes:
        proposer: who made it.
    """

    candidate_id: int
    text: str
    knobs: Mapping[str, KnobValue]
    loss: float
    step_seconds: float
    on_front: bool
    structure_hash: str
    proposer: str = ""


@dataclass(frozen=True, slots=True)
class SearchContext:
    """The state of a search.

    Attributes:
        elites: what was judged; ``tried``: candidate hashes that are taken.
        fits: whether a candidate can be judged on the run's contexts.
    """

    elites: tuple[Elite, ...]
    tried: frozenset[str]
    seed: int
    fits: Callable[[Candidate], bool] = lambda candidate: True


class Proposer(Protocol):
    """A source of candidates. The same context gives the same proposals."""

    name: str

    def propose(self, context: SearchContext, n: int) -> list[Proposal]:
        """Up to ``n`` proposals, each a program that compiles and was not tried."""
        ...
