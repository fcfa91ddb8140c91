"""Typed tuning parameters of a program: what values each may take, and its neighbours."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from vortex.errors import VortexError

KnobValue = int | float | str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values; the first is the default unless another is named."""

    options: tuple[KnobValue, ...]
    default: KnobValue

    def check(self, value: object) -> KnobValue | None:
        """The value as a member of the options, or None."""
        for option in self.options:
            if type(option) is type(value) and option == value:
                return option
        return None

    def sample(self, rng: random.Random) -> KnobValue:
        """A uniform draw."""
        return rng.choice(self.options)

    def neighbours(self, value: KnobValue) -> tuple[KnobValue, ...]:
        """The options beside the value in the order they were written."""
        at = self.options.index(value)
        return tuple(self.options[i] for i in (at - 1, at + 1) if 0 <= i < len(self.options))

    def describe(self) -> str:
        """As the language writes it."""
        return f"vx.choice({', '.join(repr(o) for o in self.options)})"


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a closed range, searched on a log scale if asked."""

    low: int
    high: int
    log: bool
    default: int

    def check(self, value: object) -> KnobValue | None:
        """The value if it is a whole number in range, or None."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and self.low <= value <= self.high else None  # type: ignore[operator,return-value]

    def sample(self, rng: random.Random) -> KnobValue:
        """A draw, uniform on the knob's scale."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(max(round(drawn), self.low), self.high)
        return rng.randint(self.low, self.high)

    def neighbours(self, value: KnobValue) -> tuple[KnobValue, ...]:
        """Half and double on a log scale, one step either side otherwise, within range."""
        at = int(value)
        pair = (at // 2, at * 2) if self.log else (at - 1, at + 1)
        return tuple(v for v in pair if self.low <= v <= self.high and v != at)

    def describe(self) -> str:
        """As the language writes it."""
        log = ", log=True" if self.log else ""
        return f"vx.integer({self.low}, {self.high}{log}, default={self.default})"


@dataclass(frozen=True, slots=True)
class Real:
    """A real number in a closed range, searched on a log scale if asked."""

    low: float
    high: float
    log: bool
    default: float

    def check(self, value: object) -> KnobValue | None:
        """The value as a float if it is in range, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and self.low <= value <= self.high else None  # type: ignore[operator,arg-type]

    def sample(self, rng: random.Random) -> KnobValue:
        """A draw, uniform on the knob's scale."""
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)

    def neighbours(self, value: KnobValue) -> tuple[KnobValue, ...]:
        """A tenth of the range either side (a tenth of its logarithm on a log scale)."""
        at = float(value)
        if self.log:
            step = (self.high / self.low) ** 0.1
            pair = (at / step, at * step)
        else:
            step = (self.high - self.low) / 10
            pair = (at - step, at + step)
        return tuple(v for v in pair if self.low <= v <= self.high)

    def describe(self) -> str:
        """As the language writes it."""
        log = ", log=True" if self.log else ""
        return f"vx.real({self.low}, {self.high}{log}, default={self.default})"


Knob = Choice | Integer | Real


def knob_problem(knob: Knob) -> str | None:
    """Why a declaration makes no sense, or None."""
    if isinstance(knob, Choice):
        if not knob.options:
            return "choice() needs at least one option"
        if len(set(knob.options)) != len(knob.options):
            return "choice() lists an option twice"
    else:
        if not (math.isfinite(knob.low) and math.isfinite(knob.high)):
            return "bounds must be finite"
        if knob.low > knob.high:
            return f"lower bound {knob.low} is above upper bound {knob.high}"
        if knob.log and knob.low <= 0:
            return "log=True needs a lower bound above 0"
    if knob.check(knob.default) is None:
        return f"default {knob.default!r} is outside {knob.describe()}"
    return None


def checked(name: str, knob: Knob, value: object) -> KnobValue:
    """The value, validated.

    Raises:
        VortexError: E202, if it is out of range or of the wrong type.
    """
    good = knob.check(value)
    if good is None:
        raise VortexError(
            f"knob '{name}' cannot be {value!r}",
            code="E202",
            hint=f"it is declared as {name} = {knob.describe()}",
        )
    return good
