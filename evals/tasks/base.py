"""What a task is: facts planted in a context, and questions asked after it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evals.models.transformer import Tokenizer
from evals.texts import Split


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that follows the context, and the answer whose log loss is taken."""

    task: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a task may use to make its facts and questions."""

    tokenizer: Tokenizer
    split: Split
    seed: int

    def rng(self, task: str) -> random.Random:
        """A generator of the task's own."""
        return random.Random(f"{task}/{self.split}/{self.seed}")


class Task(Protocol):
    """One kind of question.

    Attributes:
        name: what samples call it.
    """

    name: str

    def facts(self, setting: Setting) -> Sequence[list[int]]:
        """Token runs to plant in the filler."""
        ...

    def questions(
        self, setting: Setting, context: Sequence[int], continuation: Sequence[int]
    ) -> list[Question]:
        """Questions about the finished context; ``continuation`` is what the filler says next."""
        ...
