"""Plain continuation of the filler: its loss hardly tells rules apart, its divergence does."""

from __future__ import annotations

from collections.abc import Sequence

from evals.tasks.base import Question, Setting

_LENGTH = 32


class Continuation:
    """What the filler says next."""

    name = "continuation"

    def facts(self, setting: Setting) -> Sequence[list[int]]:
        """None."""
        return []

    def questions(
        self, setting: Setting, context: Sequence[int], continuation: Sequence[int]
    ) -> list[Question]:
        """One question whose answer is the continuation; its first token is the prompt."""
        return [Question(self.name, tuple(continuation[:1]), tuple(continuation[1:_LENGTH]))]
