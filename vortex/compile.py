"""The whole pipeline, from program text to what the executors run, top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vortex.constants import check_divisors
from vortex.errors import Diagnostic, ProgramError, VortexError
from vortex.frontend import parse
from vortex.ir import Attr, BoundPolicies, Candidate, KnobRef, MatrixRef, Node, Program, walk
from vortex.knobs import KnobValue, checked
from vortex.matrices import load_all
from vortex.passes import (
    bind_knobs,
    candidate_hash,
    fuse,
    load_matrices,
    rewrite,
    structure_hash,
)
from vortex.plan import Scaling, floor_pages, plan_of
from vortex.storage import BITS
from vortex.verify import verify_candidate, verify_program

__all__ = ["bind", "compile_text", "executable", "parse"]


def compile_text(
    source: str,
    knobs: Mapping[str, object] | None = None,
    *,
    filename: str = "program",
    reserved: bool = False,
    files: Path | None = None,
) -> Candidate:
    """text -> frontend -> Program -> verify -> bind -> verify -> Candidate.

    Raises:
        ProgramError: the text is not a program, or it cannot be bound (see ``bind``).
        VortexError: E201, there is no such knob.
    """
    program = parse(source, filename=filename, reserved=reserved)
    with placed(program):
        verify_program(program)
        candidate = bind(program, knobs or {}, files=files)
        verify_candidate(candidate)
    return candidate


def defaults(program: Program) -> dict[str, KnobValue]:
    """Every knob at its default."""
    return {name: knob.default for name, knob in program.knobs.items()}


def bind(program: Program, knobs: Mapping[str, object], *, files: Path | None = None) -> Candidate:
    """Replace knobs by values, and load stored numbers; knobs not named take their defaults.

    Args:
        files: folder that stored matrices are looked up in; None: none may be named.

    Raises:
        VortexError: E201, there is no such knob.
        ProgramError: E202 (out of range), E203 (a split does not divide), E205 (a budget below the
            reserved pages), E206 (a stored matrix is absent or unfit), E208 (a division by 0), each
            with its place.
    """
    for name in knobs:
        if name not in program.knobs:
            raise VortexError(
                f"program {program.name} has no knob '{name}'",
                code="E201",
                hint=f"its knobs are {', '.join(program.knobs)}",
            )
    with placed(program):
        return _bound(program, knobs, files)


def _bound(program: Program, knobs: Mapping[str, object], files: Path | None) -> Candidate:
    values = {name: _value(program, name, knobs) for name in program.knobs}

    def plain(value: Attr) -> KnobValue:
        if isinstance(value, KnobRef):
            return values[value.knob]
        assert not isinstance(value, MatrixRef)
        return value

    bound = rewrite(program.roots(), bind_knobs(values))
    loaded, matrices = load_all(bound, files)
    bound = rewrite(bound, load_matrices(loaded))
    parts = iter(bound)
    fields = {name: next(parts) for name in program.fields}
    scores = {name: next(parts) for name in program.scores}
    updates = {name: next(parts) for name in program.updates}
    select = next(parts)
    page_size, dtype = int(values["page_size"]), str(plain(program.dtype))
    if dtype not in BITS:
        place = program.dtype.knob if isinstance(program.dtype, KnobRef) else ""
        raise VortexError(
            f"fields cannot be stored as '{dtype}'", code="E202", hint=f"use {', '.join(BITS)}"
        ).at(program.places.get(place))
    _check_splits(list(bound), page_size)
    _check_budgets(select, page_size)
    check_divisors(bound)
    p = program.policies
    ends = (int(plain(p.dense_first)), int(plain(p.dense_last)))
    reuse = (int(plain(p.reuse_layers)), int(plain(p.reuse_steps)))
    candidate = Candidate(
        program=program,
        knobs=values,
        page_size=page_size,
        fields=fields,
        dtype=dtype,
        scores=scores,
        select=select,
        policies=BoundPolicies(*ends, *reuse, p.shared),
        states={name: float(plain(value)) for name, value in program.states.items()},
        updates=updates,
        matrices=matrices,
        structure_hash=structure_hash(program),
        candidate_hash="",
    )
    return replace(candidate, candidate_hash=candidate_hash(candidate))


def _value(program: Program, name: str, given: Mapping[str, object]) -> KnobValue:
    knob = program.knobs[name]
    try:
        return checked(name, knob, given.get(name, knob.default))
    except VortexError as error:
        raise error.at(program.places.get(name)) from None


def _check_budgets(select: Node, page_size: int) -> None:
    """A budget that is a plain number must hold the reserved pages and one more."""
    plan = plan_of(select)
    least = floor_pages(plan, Scaling(page_size, 1.0))
    for ranking in plan.rankings.values():
        if ranking.budget.op != "const":
            continue
        tokens = ranking.budget.attr("value")
        assert isinstance(tokens, int | float)
        if tokens < least * page_size:
            raise VortexError(
                f"a budget of {tokens:g} tokens is below the {least - 1} reserved pages of "
                f"{page_size} tokens and one more",
                code="E205",
                hint=f"give at least {least * page_size} tokens, or reserve fewer pages",
            ).at(ranking.budget.span)


def _check_splits(roots: list[Node], page_size: int) -> None:
    """Token splits must divide the page; other axes depend on the geometry."""
    for node in walk(roots):
        for axis in node.axes:
            if axis.extent.base in ("token", "one"):
                try:
                    axis.extent.resolve({"token": page_size}, {})
                except VortexError as error:
                    raise error.at(node.span) from None


def executable(candidate: Candidate, *, fused: bool = True) -> tuple[dict[str, Node], Node]:
    """The score outputs by name and the selector tree, with selectors' inputs rewritten alike.

    Args:
        fused: apply the fusion of the CPU backend; the reference runs the graph as written.
    """
    names = list(candidate.scores)
    roots = [*candidate.scores.values(), candidate.select]
    done = rewrite(roots, fuse) if fused else tuple(roots)
    return dict(zip(names, done, strict=False)), done[-1]


@contextmanager
def placed(program: Program) -> Iterator[None]:
    """Gives errors of the families E19 and E20, which are about a program, its file and text.

    Raises:
        ProgramError: such an error was raised within.
    """
    try:
        yield
    except ProgramError:
        raise
    except VortexError as error:
        if not error.code.startswith(("E19", "E20")):
            raise
        raise located(error, program) from None


def located(error: VortexError, program: Program) -> ProgramError:
    """An error about a program as one that shows its place in the text."""
    diagnostic = Diagnostic(error.code, error.message, error.span, error.hint)
    return ProgramError([diagnostic], source=program.source, filename=program.filename)
