"""Copying: spans of the context are begun, and the model is to go on as the context did."""

from __future__ import annotations

from collections.abc import Sequence

from evals.tasks.base import Question, Setting

_COUNT, _BEGIN, _GO_ON = 5, 9, 24


class Copying:
    """Spans at random places, spread over the whole context."""

    name = "copy"

    def facts(self, setting: Setting) -> Sequence[list[int]]:
        """None: the filler itself is copied."""
        return []

    def questions(
        self, setting: Setting, context: Sequence[int], continuation: Sequence[int]
    ) -> list[Question]:
        """A line break, the first tokens of the span; the answer is the rest of it."""
        rng = setting.rng(self.name)
        stretch = (len(context) - _BEGIN - _GO_ON) // _COUNT
        lead = setting.tokenizer.encode("\n\n")
        found = []
        for i in range(_COUNT):
            at = i * stretch + rng.randrange(max(1, stretch - _BEGIN - _GO_ON))
            span = context[at : at + _BEGIN + _GO_ON]
            found.append(Question(self.name, (*lead, *span[:_BEGIN]), tuple(span[_BEGIN:])))
        return found
