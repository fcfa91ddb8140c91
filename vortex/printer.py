"""IR back to readable text in the language; parsing it gives the same algorithm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from vortex.ir import Attr, KnobRef, MatrixRef, Node, Program, walk
from vortex.knobs import Choice, Knob
from vortex.ops import OPS

_RANK = ("top_k", "top_p", "threshold")
_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "ge": ">=", "lt": "<", "le": "<=",
    "eq": "==", "ne": "!=", "union": "|",
}  # fmt: skip


def print_program(program: Program) -> str:
    """The program as text: one import, one class, its knobs and methods."""
    lines = ["import vortex as vx", "", "", f"class {program.name}(vx.Algorithm):"]
    doc = " ".join(program.doc.replace("\\", "/").replace('"', "'").split()) or "No description."
    lines += [f'    """{doc}"""', ""]
    lines += [f"    {name} = {_knob(knob)}" for name, knob in program.knobs.items()]
    lines += _policies(program)
    lines += [f"    {n} = vx.state(init={_layer_count(v)})" for n, v in program.states.items()]
    if program.fields:
        dtype = "" if program.dtype == "bf16" else f", dtype={_attr(program.dtype)}"
        lines += _method("summarize", "k, v", program.fields, "Summary", dtype)
    ranks = bool(program.scores) and any(n.op in _RANK for n in walk([program.select]))
    if ranks:
        lines += _method("score", "q, page", program.scores, "Scores", "")
    argument = "" if not ranks else ", score" if len(program.scores) == 1 else ", scores"
    lines += ["", f"    def select(self{argument}):"]
    lines.append(f"        return {_selector(program.select, program.scores)}")
    if program.updates:
        lines += _method("update", "page, mass", program.updates, "State", "")
    return "\n".join(lines) + "\n"


def _policies(program: Program) -> list[str]:
    p = program.policies
    lines = []
    for name, function, parts, least in (
        ("dense_layers", "layers", {"first": p.dense_first, "last": p.dense_last}, 0),
        ("reuse", "reuse", {"layers": p.reuse_layers, "steps": p.reuse_steps}, 1),
    ):
        given = ", ".join(f"{n}={_layer_count(v)}" for n, v in parts.items() if v != least)
        if given:
            lines.append(f"    {name} = vx.{function}({given})")
    if p.shared:
        lines.append(f'    per_head = vx.shared("{p.shared}")')
    return lines


def _layer_count(value: Attr) -> str:
    return value.knob if isinstance(value, KnobRef) else repr(value)


def _knob(knob: Knob) -> str:
    if isinstance(knob, Choice) and len(knob.options) == 1:
        return repr(knob.options[0])
    if isinstance(knob, Choice):
        options = ", ".join(repr(o) for o in knob.options)
        default = "" if knob.default == knob.options[0] else f", default={knob.default!r}"
        return f"vx.choice({options}{default})"
    return knob.describe()


def _method(
    name: str, arguments: str, outputs: Mapping[str, Node], record: str, extra: str
) -> list[str]:
    names = _shared(outputs.values())
    lines = ["", f"    def {name}(self, {arguments}):"]
    for node in walk(outputs.values()):
        if node.key in names:
            lines.append(f"        {names[node.key]} = {_expression(node, names, top=True)}")
    if record == "Scores" and list(outputs) == ["score"]:
        lines.append(f"        return {_expression(outputs['score'], names)}")
    else:
        values = ", ".join(f"{n}={_expression(v, names)}" for n, v in outputs.items())
        lines.append(f"        return vx.{record}({values}{extra})")
    return lines


def _shared(roots: Iterable[Node]) -> dict[str, str]:
    """Names for operations that are used more than once."""
    roots = list(roots)
    uses = Counter(n.key for node in walk(roots) for n in node.inputs)
    uses.update(n.key for n in roots)
    names: dict[str, str] = {}
    for node in walk(roots):
        if uses[node.key] > 1 and OPS[node.op].kind not in ("source", "scalar"):
            names[node.key] = f"x{len(names)}"
    return names


def _attr(value: Attr) -> str:
    if isinstance(value, KnobRef):
        return f"self.{value.knob}"
    if isinstance(value, MatrixRef):
        if not value.file:
            return f"vx.random_matrix(seed={value.seed})"
        layer = ", layer=True" if value.layer else ""
        return f'vx.load("{value.file}", "{value.tensor}"{layer})'
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return repr(int(value))
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _expression(node: Node, names: Mapping[str, str], *, top: bool = False) -> str:
    """One expression; operations that have a name are called by it (unless ``top``)."""
    if node.key in names and not top:
        return names[node.key]
    entry = OPS[node.op]
    inputs = [_expression(n, names) for n in node.inputs]
    attrs = dict(node.attrs)
    if node.op in ("const", "knob"):
        text = _attr(attrs["value"])
        return f"({text})" if text.startswith("-") else text
    if node.op in ("field", "state"):
        return f"page.{attrs['name']}"
    if entry.kind == "source":
        return f"vx.{node.op}" if entry.function else node.op
    if node.op in _SIGNS:
        return f"({inputs[0]} {_SIGNS[node.op]} {inputs[1]})"
    if node.op == "neg":
        return f"(-{inputs[0]})"
    if node.op == "part":
        return f"{inputs[0]}.{attrs['part']}"
    first = [p for p in entry.params if p.kind in ("axis", "number")]
    rest = [_attr(attrs[p.name]) for p in first]
    rest += [f"{p.name}={_attr(attrs[p.name])}" for p in entry.params
             if p not in first and p.name in attrs and attrs[p.name] != p.default]  # fmt: skip
    if entry.method:
        return f"{inputs[0]}.{node.op}({', '.join([*inputs[1:], *rest])})"
    return f"vx.{node.op}({', '.join([*inputs, *rest])})"


def _selector(node: Node, scores: Mapping[str, Node]) -> str:
    if node.op == "union":
        return " | ".join(_selector(n, scores) for n in node.inputs)
    if node.op == "refine":
        return f"vx.refine({', '.join(_selector(n, scores) for n in node.inputs)})"
    parts = []
    if node.op in _RANK:
        names = [name for name, score in scores.items() if score == node.inputs[0]]
        parts.append("score" if len(scores) == 1 else f"scores.{names[0]}")
    for param in OPS[node.op].params:
        if param.kind == "budget":
            parts.append(f"{param.name}={_budget(node.inputs[-1])}")
            continue
        value = node.attr(param.name)
        if value != param.default:
            count = param.name == "pages"
            parts.append(_attr(value) if count else f"{param.name}={_attr(value)}")
    return f"vx.{node.op}({', '.join(parts)})"


def _budget(node: Node) -> str:
    text = _expression(node, {})
    return text[1:-1] if text.startswith("(") and node.op in _SIGNS else text
