"""Evaluation contexts: filler with planted facts, cut to length, and the questions about it."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from evals.models.transformer import Tokenizer
from evals.tasks import TASKS, Question, Setting
from evals.texts import SOURCES, Split, window

VERSION = 1
_CONTINUATION = 64


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """Which context: ``index`` counts within a split; sources alternate."""

    split: Split
    index: int
    tokens: int = 2048

    @property
    def name(self) -> str:
        """What samples call it."""
        return f"{self.split}-{self.index:03d}-{self.tokens}"


@dataclass(frozen=True, slots=True)
class Context:
    """A context ready to be prefilled.

    Attributes:
        name: see ContextSpec.
        tokens: ids, exactly as many as the spec says.
        digest: identifies tokens and questions.
    """

    name: str
    source: str
    tokens: tuple[int, ...]
    questions: tuple[Question, ...]
    digest: str


def build_context(spec: ContextSpec, tokenizer: Tokenizer) -> Context:
    """The context of a spec: the same for every run.

    Raises:
        VortexError: E501, the texts are too short for it.
    """
    source = SOURCES[spec.index % len(SOURCES)]
    setting = Setting(tokenizer, spec.split, spec.index)
    facts = [fact for task in TASKS for fact in task.facts(setting)]
    length = spec.tokens - sum(map(len, facts))
    filler = window(
        source, spec.split, spec.index // len(SOURCES), tokens=length + _CONTINUATION,
        tokenizer=tokenizer,
    )  # fmt: skip
    tokens = plant(filler[:length], facts, setting.rng("places"), tokenizer)
    questions = tuple(q for task in TASKS for q in task.questions(setting, tokens, filler[length:]))
    content = [VERSION, tokens, [[q.task, q.prompt, q.answer] for q in questions]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Context(spec.name, source, tuple(tokens), questions, digest)


def plant(
    filler: list[int], facts: list[list[int]], rng: random.Random, tokenizer: Tokenizer
) -> list[int]:
    """The filler with facts after sentence ends, spread over its whole length in random order."""
    order = rng.sample(facts, len(facts))
    stretch = len(filler) / max(1, len(order))
    result: list[int] = []
    done = 0
    for i, fact in enumerate(order):
        wanted = int((i + rng.uniform(0.1, 0.8)) * stretch)
        at = _sentence_end(filler, wanted, tokenizer)
        result += [*filler[done:at], *fact]
        done = at
    return result + filler[done:]


def _sentence_end(filler: list[int], at: int, tokenizer: Tokenizer) -> int:
    """The place behind the next full stop, within 40 tokens."""
    for i in range(at, min(at + 40, len(filler))):
        if tokenizer.decode([filler[i]]).strip().endswith("."):
            return i + 1
    return at
