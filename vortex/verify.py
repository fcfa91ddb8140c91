"""Executable rules of the IR, checked between passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vortex.errors import VortexError
from vortex.ir import Candidate, KnobRef, Node, Program, walk
from vortex.ops import OPS

_SUMMARY_SOURCES = frozenset({"k", "v", "const", "knob"})


class BrokenRule(VortexError):
    """The IR breaks a rule of its own: our bug, never the author's."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="E190", hint="this is a bug in vortex-search: report it")


def verify_program(program: Program) -> None:
    """Rules of a parsed program.

    Raises:
        BrokenRule: a pass or the front end built a graph that it must not build.
    """
    _graphs(program.fields.values(), program.scores.values(), program.select)
    _updates(program.states, program.updates)
    for node in walk(program.roots()):
        for _, value in node.attrs:
            if isinstance(value, KnobRef) and value.knob not in program.knobs:
                message = f"{node.op} refers to knob '{value.knob}', which is not declared"
                raise BrokenRule(message).at(node.span)


def verify_candidate(candidate: Candidate) -> None:
    """Rules of a bound program: as for programs, and no knob is left.

    Raises:
        BrokenRule: see ``verify_program``.
    """
    _graphs(candidate.fields.values(), candidate.scores.values(), candidate.select)
    _updates(candidate.states, candidate.updates)
    roots = (
        *candidate.fields.values(), *candidate.scores.values(), *candidate.updates.values(),
        candidate.select,
    )  # fmt: skip
    for node in walk(roots):
        if node.op == "knob" or any(isinstance(v, KnobRef) for _, v in node.attrs):
            raise BrokenRule(f"{node.op} still refers to a knob after binding").at(node.span)


def _graphs(fields: Iterable[Node], scores: Iterable[Node], select: Node) -> None:
    for node in walk(fields):
        entry = OPS[node.op]
        if node.op not in _SUMMARY_SOURCES and entry.kind in ("source", "selector"):
            raise BrokenRule(f"summarize() reads {node.op}").at(node.span)
        _axes(node)
    for score in scores:
        if score.names != ("page",):
            raise BrokenRule(f"a score has axes {score.names}").at(score.span)
    for node in walk(scores):
        if node.op in ("k", "v", "mass", "context") or OPS[node.op].kind == "selector":
            raise BrokenRule(f"score() reads {node.op}").at(node.span)
        _axes(node)
    if OPS[select.op].kind != "selector":
        raise BrokenRule(f"select() returns {select.op}").at(select.span)
    for node in walk([select]):
        _axes(node)


def _updates(states: Mapping[str, object], updates: Mapping[str, Node]) -> None:
    if states.keys() != updates.keys():
        raise BrokenRule("every state needs one update")
    for node in walk(updates.values()):
        if node.op in ("k", "v", "q", "context") or OPS[node.op].kind == "selector":
            raise BrokenRule(f"update() reads {node.op}").at(node.span)
        _axes(node)
    if any(set(n.names) - {"page"} for n in updates.values()):
        raise BrokenRule("a state is one number per page")


def _axes(node: Node) -> None:
    entry = OPS[node.op]
    if not entry.takes(len(node.inputs)):
        raise BrokenRule(f"{node.op} has {len(node.inputs)} inputs").at(node.span)
    if node.op != "field" and entry.axes(node.inputs, dict(node.attrs)) != node.axes:
        message = f"{node.op} carries axes {node.names} that its rule does not give"
        raise BrokenRule(message).at(node.span)
