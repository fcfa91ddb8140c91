"""Eight needles in a haystack, asked for one by one (RULER's multi-key retrieval, shortened)."""

from __future__ import annotations

from collections.abc import Sequence

from evals.tasks.base import Question, Setting
from evals.tasks.words import adjectives, answers, nouns

_COUNT = 8


class Needle:
    """Each needle says: the special magic word for ADJECTIVE NOUN is WORD."""

    name = "needle"

    def _drawn(self, setting: Setting) -> list[tuple[str, str]]:
        rng = setting.rng(self.name)
        firsts = rng.sample(adjectives(setting.split), _COUNT)
        seconds = rng.sample(nouns(setting.split), _COUNT)
        words = rng.sample(answers(setting.split), _COUNT)
        keys = (f"{a} {n}" for a, n in zip(firsts, seconds, strict=True))
        return list(zip(keys, words, strict=True))

    def facts(self, setting: Setting) -> Sequence[list[int]]:
        """One sentence for each key."""
        return [
            setting.tokenizer.encode(f" The special magic word for {key} is {word}.")
            for key, word in self._drawn(setting)
        ]

    def questions(
        self, setting: Setting, context: Sequence[int], continuation: Sequence[int]
    ) -> list[Question]:
        """The sentence again, up to its word."""
        encode = setting.tokenizer.encode
        return [
            Question(
                self.name,
                tuple(encode(f"\n\nThe special magic word for {key} is")),
                tuple(encode(f" {word}")),
            )
            for key, word in self._drawn(setting)
        ]
