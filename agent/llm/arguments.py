"""The arguments of a tool call, read with distrust: every wrong one is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.llm.quoting import one_line
from agent.llm.submission import EXPECTED, Expected
from agent.providers.records import ToolCall
from vortex.knobs import KnobValue

_MOST_KNOBS = 64


class BadArguments(Exception):
    """What is wrong with a call, as the model is told."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A JSON object; its methods raise :class:`BadArguments`."""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, call: ToolCall) -> Arguments:
        """The arguments of a call."""
        if not isinstance(call.arguments, Mapping):
            raise BadArguments(
                f"the arguments are no JSON object; they begin {one_line(str(call.raw)[:200], 80)}"
            )
        return cls(call.arguments)

    def only(self, *names: str) -> None:
        """Refuse arguments of other names."""
        extra = [one_line(str(n), 40) for n in self.values if n not in names]
        if extra:
            raise BadArguments(
                f"no argument {', '.join(extra[:5])}; arguments are {', '.join(names)}"
            )

    def absent(self, name: str) -> bool:
        """Whether it is missing or null."""
        return self.values.get(name) is None

    def text(self, name: str, *, most: int | None = None) -> str:
        """A string that must be there."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise BadArguments(f"'{name}' must be a string, got {_kind(value)}")
        if most is not None and len(value) > most:
            raise BadArguments(f"'{name}' has {len(value):,} characters, more than {most:,}")
        return value

    def whole(self, name: str) -> int:
        """A whole number that must be there; 12.0 is one too."""
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**53:
            raise BadArguments(f"'{name}' must be a whole number, got {_kind(value)}")
        return value

    def expected(self, name: str) -> Expected:
        """One of a few words; ``unstated`` where it is absent."""
        value = self.values.get(name)
        if value is None:
            return "unstated"
        for word in EXPECTED:
            if value == word:
                return word
        shown = one_line(value, 40) if isinstance(value, str) else _kind(value)
        raise BadArguments(f"'{name}' must be one of {', '.join(EXPECTED)}, got {shown}")

    def knobs(self) -> dict[str, KnobValue]:
        """Values of knobs; a whole float is a whole number, as JSON has but one kind."""
        given = self.values.get("knobs")
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise BadArguments(f"'knobs' must be an object of numbers, got {_kind(given)}")
        if len(given) > _MOST_KNOBS:
            raise BadArguments(f"'knobs' has {len(given)} entries, more than {_MOST_KNOBS}")
        found: dict[str, KnobValue] = {}
        for name, value in given.items():
            good = isinstance(value, int | float | str) and not isinstance(value, bool)
            if not isinstance(name, str) or not good:
                raise BadArguments(f"knob '{one_line(str(name), 40)}' cannot be {_kind(value)}")
            if isinstance(value, int | float) and not _usable(value):
                raise BadArguments(f"knob '{one_line(name, 40)}' is no usable number")
            if isinstance(value, str) and len(value) > 100:
                raise BadArguments(f"knob '{one_line(name, 40)}' is too long a string")
            whole = isinstance(value, float) and value.is_integer()
            found[name] = int(value) if whole else value
        return found


def _usable(value: float) -> bool:
    return abs(value) < 2**53 if isinstance(value, int) else math.isfinite(value)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
