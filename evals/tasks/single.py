"""One needle with a five-digit number (the classic single-needle test)."""

from __future__ import annotations

from collections.abc import Sequence

from evals.tasks.base import Question, Setting


class Single:
    """The needle says: the secret access number is DIGITS."""

    name = "single"

    def _number(self, setting: Setting) -> str:
        return str(setting.rng(self.name).randint(10_000, 99_999))

    def facts(self, setting: Setting) -> Sequence[list[int]]:
        """One sentence."""
        number = self._number(setting)
        return [setting.tokenizer.encode(f" The secret access number is {number}.")]

    def questions(
        self, setting: Setting, context: Sequence[int], continuation: Sequence[int]
    ) -> list[Question]:
        """The sentence again, up to its number."""
        encode = setting.tokenizer.encode
        return [
            Question(
                self.name,
                tuple(encode("\n\nThe secret access number is")),
                tuple(encode(f" {self._number(setting)}")),
            )
        ]
