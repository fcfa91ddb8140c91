"""The whole pipeline, from program text to what the executors run, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping

from vortex.errors import Diagnostic, ProgramError, VortexError
from vortex.frontend import parse
from vortex.ir import Attr, Candidate, KnobRef, Node, Program, walk
from vortex.knobs import KnobValue, checked
from vortex.passes import bind_knobs, candidate_hash, fuse, rewrite, structure_hash
from vortex.verify import verify_candidate, verify_program

__all__ = ["bind", "compile_text", "executable", "parse"]


def compile_text(
    source: str,
    knobs: Mapping[str, object] | None = None,
    *,
    filename: str = "program",
    reserved: bool = False,
) -> Candidate:
    """text -> frontend -> Program -> verify -> bind -> verify -> Candidate.

    Raises:
        ProgramError: the text is not a program.
        VortexError: E201 to E203, a knob does not exist, is out of range, or does not fit.
    """
    program = parse(source, filename=filename, reserved=reserved)
    verify_program(program)
    candidate = bind(program, knobs or {})
    verify_candidate(candidate)
    return candidate


def defaults(program: Program) -> dict[str, KnobValue]:
    """Every knob at its default."""
    return {name: knob.default for name, knob in program.knobs.items()}


def bind(program: Program, knobs: Mapping[str, object]) -> Candidate:
    """Replace knobs by values; those not named take their defaults.

    Raises:
        VortexError: E201 (no such knob), E202 (out of range), E203 (a split does not divide).
    """
    for name in knobs:
        if name not in program.knobs:
            raise VortexError(
                f"program {program.name} has no knob '{name}'",
                code="E201",
                hint=f"its knobs are {', '.join(program.knobs)}",
            )
    values = {
        name: checked(name, knob, knobs.get(name, knob.default))
        for name, knob in program.knobs.items()
    }

    def plain(value: Attr) -> KnobValue:
        return values[value.knob] if isinstance(value, KnobRef) else value

    rule = bind_knobs(values)
    field_names, score_names = list(program.fields), list(program.scores)
    outputs = rewrite(program.roots(), rule)
    fields = dict(zip(field_names, outputs, strict=False))
    scores = dict(zip(score_names, outputs[len(field_names) :], strict=False))
    select = outputs[-1]
    page_size, dtype = int(values["page_size"]), str(plain(program.dtype))
    dense = (int(plain(program.dense_first)), int(plain(program.dense_last)))
    _check_splits([*fields.values(), *scores.values()], page_size)
    if dtype not in ("bf16", "fp8", "int8"):
        raise VortexError(
            f"fields cannot be stored as '{dtype}'", code="E202", hint="use bf16, fp8 or int8"
        )
    return Candidate(
        program=program,
        knobs=values,
        page_size=page_size,
        fields=fields,
        dtype=dtype,
        scores=scores,
        select=select,
        dense_first=dense[0],
        dense_last=dense[1],
        structure_hash=structure_hash(program),
        candidate_hash=candidate_hash(fields, dtype, select, page_size, dense),
    )


def _check_splits(roots: list[Node], page_size: int) -> None:
    """Token splits must divide the page; other axes depend on the geometry."""
    for node in walk(roots):
        for axis in node.axes:
            if axis.extent.base in ("token", "one"):
                axis.extent.resolve({"token": page_size}, {})


def executable(candidate: Candidate, *, fused: bool = True) -> tuple[dict[str, Node], Node]:
    """The score outputs by name and the selector tree, with selectors' inputs rewritten alike.

    Args:
        fused: apply the fusion of the CPU backend; the reference runs the graph as written.
    """
    names = list(candidate.scores)
    roots = [*candidate.scores.values(), candidate.select]
    done = rewrite(roots, fuse) if fused else tuple(roots)
    return dict(zip(names, done, strict=False)), done[-1]


def located(error: VortexError, source: str, filename: str) -> ProgramError:
    """A binding error as a program error, so that workers report one shape."""
    diagnostic = Diagnostic(error.code, error.message, None, error.hint)
    return ProgramError([diagnostic], source=source, filename=filename)
