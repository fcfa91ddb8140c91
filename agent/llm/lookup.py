"""One entry of the language, looked up by name."""

from __future__ import annotations

import difflib
import re

from agent.llm.quoting import one_line
from vortex.handbook import declarations, entry
from vortex.ops import OPS, Op

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def looked_up(name: str) -> tuple[bool, str]:
    """Whether there is such an entry, and what it says; near names where there is none."""
    bare = name.strip().split("(")[0]
    words = _WORD.findall(bare)
    wanted = words[-1] if words else bare
    op = OPS.get(wanted)
    if op is not None:
        return True, _described(op)
    rows = [line for line in declarations() if re.search(rf"\b{re.escape(wanted)}\b", line)]
    if rows and words:
        return True, "\n".join(rows)
    called = [o.name for o in OPS.values() if wanted in o.aliases]
    near = called or difflib.get_close_matches(wanted[:64], OPS, n=3)
    hint = f"; perhaps {', '.join(near)}" if near else ""
    names = ", ".join(o.name for o in OPS.values() if not o.reserved)
    return False, f"there is no '{one_line(name, 60)}'{hint}. Operations: {names}"


def _described(op: Op) -> str:
    lines = [entry(op), f"formula: {op.formula}"]
    if op.arity or op.variadic:
        lines.append(f"operands: {'two or more' if op.variadic else op.arity}; "
                     f"{op.flops:g} operations per element of the largest")  # fmt: skip
    for param in op.params:
        default = "" if param.default is None else f", default {param.default}"
        optional = ", may be left out" if param.optional else ""
        lines.append(f"argument {param.name}: {param.kind.replace('_', ' ')}{default}{optional}")
    spelled = [f"x.{op.name}(...)"] * op.method + [f"vx.{op.name}"] * op.function
    if op.kind not in ("source",) and spelled:
        lines.append(f"written {' or '.join(spelled)}")
    if op.along_page:
        lines.append("mixes pages with others")
    if op.reserved:
        lines.append("reserved for controls: a candidate may not use it")
    return "\n".join(lines).replace("`", "")
