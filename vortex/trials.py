"""Tries every value of every choice, so that what fits by its default only is found at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from vortex.compile import placed
from vortex.errors import Diagnostic, ProgramError
from vortex.ir import Program
from vortex.knobs import Choice, KnobValue


def alternatives(
    program: Program, values: Mapping[str, KnobValue]
) -> Iterator[tuple[str, dict[str, KnobValue]]]:
    """(knob, values) for each other option of each choice, all other knobs as given.

    Not their product: as many as the text has options, whatever a program declares.
    """
    for name, knob in program.knobs.items():
        if isinstance(knob, Choice):
            for option in knob.options:
                if option != values[name]:
                    yield name, {**values, name: option}


def try_choices(
    program: Program,
    values: Mapping[str, KnobValue],
    attempt: Callable[[Mapping[str, KnobValue]], object],
) -> None:
    """Attempt the program with every alternative.

    Args:
        attempt: binds, prices or runs the program with these values.

    Raises:
        ProgramError: one diagnostic for each alternative that fails; each names its value.
    """
    found: list[Diagnostic] = []
    for name, tried in alternatives(program, values):
        try:
            with placed(program):
                attempt(tried)
        except ProgramError as error:
            found += [
                Diagnostic(d.code, f"{d.message}, with {name} = {tried[name]!r}", d.span, d.hint)
                for d in error.diagnostics
            ]
    if found:
        raise ProgramError(found, source=program.source, filename=program.filename)
