"""What an author's editor sees: names for ``import vortex as vx``. Programs are parsed, not run."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, NoReturn

from vortex.compile import parse
from vortex.errors import VortexError
from vortex.ir import Program
from vortex.knobs import Choice, Integer, KnobValue, Real


class Algorithm:
    """Base of an algorithm: knobs, then ``summarize``, ``score`` and ``select``."""

    @classmethod
    def program(cls) -> Program:
        """The program of a class in a file that you trust and import yourself.

        Raises:
            ProgramError: the class is not in the language.
        """
        source = "import vortex as vx\n\n\n" + textwrap.dedent(inspect.getsource(cls))
        return parse(source, filename=cls.__name__)


def choice(*options: KnobValue, default: KnobValue | None = None) -> Any:
    """A knob with a few values."""
    return Choice(options, options[0] if default is None else default)


def integer(low: int, high: int, *, log: bool = False, default: int | None = None) -> Any:
    """A whole-number knob in a closed range."""
    return Integer(low, high, log, low if default is None else default)


def real(low: float, high: float, *, log: bool = False, default: float | None = None) -> Any:
    """A real knob in a closed range."""
    return Real(low, high, log, low if default is None else default)


def layers(*, first: int = 0, last: int = 0) -> Any:
    """How many first and last layers run full attention."""
    return (first, last)


def reuse(*, layers: int = 1, steps: int = 1) -> Any:
    """How many sparse layers and steps one ranking serves."""
    return (layers, steps)


def shared(reducer: str) -> Any:
    """One page list per layer: scores joined over KV heads by ``mean``, ``max`` or ``sum``."""
    return reducer


def state(*, init: float = 0.0) -> Any:
    """A number that every page keeps from step to step."""
    return init


def __getattr__(name: str) -> Any:
    """Every op of the table exists as a name, so that a program file can be imported."""
    from vortex.ops import OPS

    if name in OPS and OPS[name].function:
        return _never_runs
    raise AttributeError(f"the language has no '{name}'")


def _never_runs(*args: object, **kwargs: object) -> NoReturn:
    raise VortexError(
        "programs are parsed, not run", code="E191", hint="call Algorithm.program() or vortex.parse"
    )


Summary = Scores = State = load = random_matrix = _never_runs
