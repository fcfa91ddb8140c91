"""A short accuracy check: numbers hidden beyond the budget, asked of sparse and full attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evals.engine.accuracy import Exam, examine, scored
from evals.engine.engine import Engine, Sampling, sides_of
from evals.engine.generators import Encode, generate
from evals.engine.shapes import SPARE
from evals.engine.statistics import Estimate, mean_at_k, paired_difference

COUNT, REPLY_TOKENS = 16, 64
TEMPLATE = 512  # tokens that a chat format may add
LOSS, ERRORS = 0.2, 2.0  # a program fails below -LOSS by more than so many standard errors
TELLING = 0.5  # full attention's mean below which 16 problems cannot show such a loss
_BUDGETS, _LEAST = 4, 1024  # prompts have so many budgets, and so many tokens


@dataclass(frozen=True, slots=True)
class Needles:
    """Shares of right answers.

    Attributes:
        difference: sparse less full attention on the same problems.
    """

    full: Estimate
    sparse: Estimate
    difference: Estimate

    @property
    def telling(self) -> bool:
        """Whether full attention answers enough for a loss to show."""
        return self.full.value >= TELLING

    @property
    def worse(self) -> bool:
        """Whether sparse attention surely loses more than :data:`LOSS`."""
        return self.difference.value + ERRORS * (self.difference.error or 0.0) < -LOSS


def prompt_length(budget: int, otherwise: int, longest: int) -> int:
    """Tokens of a prompt that the budget does not cover.

    Args:
        budget: tokens of which a ranking surely picks every page; 0: no such length is sure.
        otherwise: taken where none is.
        longest: what the model reads and writes.

    Returns:
        0 where the budget covers all that the model can read.
    """
    wanted = max(_LEAST, _BUDGETS * budget) if budget else otherwise
    length = min(wanted, longest - TEMPLATE - REPLY_TOKENS - SPARE)
    return length if length > budget else 0


def ask_needles(
    engine: Engine, program: str, length: int, encode: Encode, log: Path, *,
    shown: Callable[[str], str] = str, seed: int = 0,
) -> Needles:  # fmt: skip
    """Ask both modes of an engine for the same hidden numbers, greedily.

    Args:
        program: hash of the candidate.
        length: tokens of a prompt.
        encode: the served model's tokenizer.
        log: samples, kept as they come.
        shown: from a problem's text to what is sent, as a chat template.

    Raises:
        VortexError: E902, the prompts are too short; E904, the engine failed; E905, the log.
    """
    problems = generate("needle", length, COUNT, encode, seed=seed)
    exam = Exam(problems, 1, Sampling(REPLY_TOKENS), program, at_once=COUNT, seed=seed, shown=shown)
    found = scored(examine(sides_of(engine), exam, log), problems)
    full, sparse = (
        {name: [worth for _, worth in samples] for name, samples in found[mode].items()}
        for mode in ("full", "sparse")
    )  # fmt: skip
    means = mean_at_k(full), mean_at_k(sparse), paired_difference(sparse, full, seed=seed)
    assert means[0] and means[1] and means[2]  # there are problems
    return Needles(means[0], means[1], means[2])
