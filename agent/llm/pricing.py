"""A program compiled for a turn, what is said of it, and what it costs beside others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.llm.figures import estimated, milliseconds, size
from agent.llm.portrait import name_of
from agent.llm.quoting import one_line
from agent.llm.target import Target, parts_of
from agent.standing import Standing, Standings
from runs.quality import estimate
from vortex.compile import bind, compile_text
from vortex.cost import Price
from vortex.errors import Diagnostic, ProgramError, VortexError
from vortex.ir import Candidate, Program, extents, walk
from vortex.knobs import Choice, KnobValue
from vortex.ops import AxisError
from vortex.trials import try_choices

_MOST_OPTIONS = 32  # each is bound and priced in turn
_WIDEST = 4096  # entries of an axis: planning kernels for wider ones would hold up the search
_FRONT = 8


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program bound to its knobs and priced; ``given``: the knobs that were named."""

    text: str
    given: Mapping[str, KnobValue]
    candidate: Candidate
    cost: Price


def compiled(text: str, knobs: Mapping[str, KnobValue], target: Target) -> Compiled:
    """Compile, price, and try every option of every choice.

    Raises:
        ProgramError: it is not in the language, or cannot be bound or priced, with places.
        VortexError: E201, there is no such knob.
    """
    try:
        candidate = compile_text(text, knobs)
        cost = target.price(candidate)
        _bounded(candidate.program)
        _narrow(candidate, target)

        def attempt(values: Mapping[str, KnobValue]) -> None:
            other = bind(candidate.program, values)
            target.price(other)
            _narrow(other, target)

        try_choices(candidate.program, candidate.knobs, attempt)
    except (ArithmeticError, ValueError, RecursionError, MemoryError) as error:
        # A model's text must not end a run, whatever numbers it holds.
        problem = Diagnostic("E111", f"numbers out of range: {type(error).__name__}", None,
                             "use numbers of a sensible size")  # fmt: skip
        raise ProgramError([problem], source=text) from None
    return Compiled(text, dict(knobs), candidate, cost)


def _bounded(program: Program) -> None:
    options = sum(len(k.options) for k in program.knobs.values() if isinstance(k, Choice))
    if options > _MOST_OPTIONS:
        hint = f"at most {_MOST_OPTIONS}; vx.integer and vx.real take ranges"
        problem = Diagnostic("E113", f"choices with {options} options in all", None, hint)
        raise ProgramError([problem], source=program.source)


def _narrow(candidate: Candidate, target: Target) -> None:
    sizes = {**target.geometry.sizes(), "token": candidate.page_size, "page": 1}
    for node in walk([*candidate.fields.values(), *candidate.scores.values()]):
        widest = max(extents(node, sizes), default=1)
        if widest > _WIDEST:
            problem = Diagnostic("E111", f"an axis of {widest:,} entries", node.span,
                                 f"at most {_WIDEST:,}")  # fmt: skip
            raise ProgramError([problem], source=candidate.program.source)


def facts_of(made: Compiled, target: Target) -> str:
    """What a program is: hashes, knobs, fields, bytes, launches."""
    from vortex.triton.launches import launch_plan

    candidate, cost = made.candidate, made.cost
    launches = "; ".join(launch_plan(candidate, target.geometry))
    if "no kernel" in launches:
        launches += " (what has no kernel is done by torch there, slower than priced; here it runs)"
    fields = ", ".join(f"{n} [{', '.join(f.names)}]" for n, f in candidate.fields.items())
    stored = f", stored as {candidate.dtype}" if candidate.fields else ""
    values = ", ".join(f"{k} = {v}" for k, v in candidate.knobs.items())
    return "\n".join(
        [
            f"ok: {one_line(candidate.program.name, 60)} is a program, with every option of its "
            "choices",
            f"structure {candidate.structure_hash}, candidate {candidate.candidate_hash}",
            f"knobs: {one_line(values, 600)}",
            f"fields: {one_line(fields, 600) or 'none'}{stored}; {cost.page_bytes:,} bytes a page, "
            "layer and KV head",
            f"attends {cost.attended_tokens:,} tokens on {cost.sparse_layers} sparse layers of "
            f"{target.geometry.layers}",
            f"reads a step: index {size(cost.sparse.index_bytes)}, pages "
            f"{size(cost.sparse.attended_bytes)}",
            f"launches of a sparse layer on a GPU: {launches}",
            f"predicted step {milliseconds(cost.sparse.seconds)}, {cost.speedup_step:.3g} times as "
            "fast as full attention",
        ]
    )


def priced_against(made: Compiled, target: Target, now: Standings, parent: int | None) -> str:
    """Predicted cost, and the predicted cost of the parent and of the front beside it."""
    cost, step = made.cost, made.cost.sparse
    parts = parts_of(made.candidate, target)
    lines = [
        f"All predicted, for {cost.geometry} on {cost.device}, {cost.workload}:",
        f"step {milliseconds(step.seconds)}, {cost.speedup_step:.3g} times as fast as full "
        f"attention ({milliseconds(cost.full.seconds)}); attention alone "
        f"{cost.speedup_attention:.3g} times",
        f"time: score and select {milliseconds(parts.route)}, attend {milliseconds(parts.attend)}, "
        f"dense layers {milliseconds(parts.dense)}, upkeep {milliseconds(parts.upkeep)}, weights "
        f"{milliseconds(parts.weights)}",
        f"reads: index {size(step.index_bytes)}, pages {size(step.attended_bytes)}, dense layers "
        f"{size(step.dense_bytes)}; {step.launches} launches; fields {cost.page_bytes:,} B a page, "
        f"{cost.index_bytes_per_token:.3g} B a token; attends {cost.attended_tokens:,} tokens",
    ]
    if cost.request_bytes:
        lines.append(f"states and kept picks: {size(cost.request_bytes)} a request")
    if cost.speedup_step <= 1.0:
        lines.append("warning: predicted no faster than full attention, so it would not be run")
    if not cost.fits:
        lines.append(f"warning: {size(cost.memory)} of weights, KV and fields do not fit")
    known = now.by_id.get(parent) if parent is not None else None
    if known is not None:
        lines.append(f"the parent, {_beside(known, target, step.seconds)}")
    front = [s for s in now.front() if s is not known]
    if front:
        lines.append("the front:")
        lines += [f"- {_beside(s, target, step.seconds)}" for s in _thinned(front)]
    return "\n".join(lines)


def _thinned(members: list[Standing]) -> list[Standing]:
    if len(members) <= _FRONT:
        return members
    step = (len(members) - 1) / (_FRONT - 1)
    return [members[round(i * step)] for i in range(_FRONT)]


def _beside(standing: Standing, target: Target, seconds: float) -> str:
    """A candidate's predicted step, this program's share of it, and its measured loss."""
    loss = f"loss gap {estimated(estimate(standing.losses))}" if standing.losses else "no loss yet"
    theirs = _predicted(standing, target)
    if theirs is None:
        return f"candidate {name_of(standing)}: no predicted step; {loss}"
    return (
        f"candidate {name_of(standing)}: step {milliseconds(theirs)}, yours is "
        f"x{seconds / theirs:.3f} of it; {loss}"
    )


def _predicted(standing: Standing, target: Target) -> float | None:
    """Priced anew: what is compared must come from one model of cost."""
    record = standing.record
    try:
        candidate = compile_text(record.text, record.knobs, reserved=record.control)
        return target.price(candidate).sparse.seconds
    except (AxisError, VortexError):
        return None
