"""Shrinks a program to the parts that matter: leaves terms out as long as a measure stays up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vortex.compile import bind, parse
from vortex.errors import VortexError
from vortex.ir import Node, Program, walk
from vortex.knobs import KnobValue
from vortex.ops import OPS, AxisError
from vortex.passes import rewrite
from vortex.printer import print_program

Measure = Callable[[Sequence[str]], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One part that was left out, and the measure without it."""

    left_out: str
    value: float
    text: str


def minimise(
    text: str, knobs: Mapping[str, KnobValue], measure: Measure, *, tolerance: float
) -> tuple[float, list[Step]]:
    """Leave out one part after another, always the one that is missed least.

    Args:
        measure: of each text (larger is better); None where it cannot be measured.
        tolerance: how far below the whole program's measure the result may fall.

    Returns:
        The whole program's measure, and the steps; the last one has the shortest text.

    Raises:
        VortexError: E612, the program itself cannot be measured.
    """
    (first,) = measure([text])
    if first is None:
        raise VortexError(
            "the program cannot be measured", code="E612", hint="vortex-search evaluate says why"
        )
    steps: list[Step] = []
    while True:
        tried = list(smaller(text, knobs))
        values = measure([t for _, t in tried])
        good = [
            Step(name, value, shorter)
            for (name, shorter), value in zip(tried, values, strict=True)
            if value is not None and value >= first - tolerance
        ]
        if not good:
            return first, steps
        best = max(good, key=lambda s: (s.value, -len(s.text)))
        steps.append(best)
        text = best.text


def smaller(text: str, knobs: Mapping[str, KnobValue]) -> Iterator[tuple[str, str]]:
    """(what is left out, text) of every program with one part less; each compiles."""
    program = parse(text)
    seen = {text}
    for name, changed in _changes(program):
        try:
            shorter = print_program(_tidied(changed))
            known = parse(shorter).knobs
            bind(parse(shorter), {k: v for k, v in knobs.items() if k in known})
        except (AxisError, VortexError):
            continue
        if shorter not in seen and len(shorter) < len(text):
            seen.add(shorter)
            yield name, shorter


def _changes(program: Program) -> Iterator[tuple[str, Program]]:
    """One operation replaced by one of its inputs, wherever the axes allow it."""
    roots = (*program.scores.values(), *program.updates.values(), program.select)
    for node in walk(roots):
        for kept in node.inputs:
            same = kept.axes == node.axes and OPS[kept.op].kind != "scalar"
            if same and (OPS[kept.op].kind == "selector") == (OPS[node.op].kind == "selector"):
                yield _name(node, kept), _replaced(program, node, kept)
    for name in ("dense_first", "dense_last", "reuse_layers", "reuse_steps", "shared"):
        plain = type(program.policies)()
        if getattr(program.policies, name) != getattr(plain, name):
            policies = replace(program.policies, **{name: getattr(plain, name)})
            yield name, replace(program, policies=policies)


def _name(node: Node, kept: Node) -> str:
    others = [n.op for n in node.inputs if n is not kept]
    return f"{node.op}({', '.join(others)})" if others else node.op


def _replaced(program: Program, old: Node, new: Node) -> Program:
    roots = [*program.scores.values(), *program.updates.values(), program.select]
    done = iter(rewrite(roots, lambda node: new if node == old else node))
    scores = {name: next(done) for name in program.scores}
    updates = {name: next(done) for name in program.updates}
    return replace(program, scores=scores, updates=updates, select=next(done))


def _tidied(program: Program) -> Program:
    """Without the outputs, fields, states and knobs that nothing reads any more."""
    ranked = {n.key for n in walk([program.select])}
    scores = {n: s for n, s in program.scores.items() if s.key in ranked}
    if len(scores) == 1:
        scores = {"score": next(iter(scores.values()))}
    live = [*scores.values(), program.select]
    states = {str(n.attr("name")) for n in walk(live) if n.op == "state"}
    updates = dict(program.updates) if states else {}
    roots = [*live, *updates.values()]
    read = {str(n.attr("name")) for n in walk(roots) if n.op == "field"}
    fields = {n: f for n, f in program.fields.items() if n in read}
    tidy = replace(
        program, scores=scores, fields=fields, updates=updates,
        states=program.states if updates else {},
    )  # fmt: skip
    names = tidy.knobs_read()
    return replace(tidy, knobs={n: k for n, k in program.knobs.items() if n in names})
