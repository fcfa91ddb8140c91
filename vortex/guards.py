"""Bounds on program text, checked before and while it is parsed."""

from __future__ import annotations

import ast

from vortex.errors import Diagnostic, Span

MAX_BYTES = 16_384
MAX_NESTING = 40


def too_large(source: str) -> list[Diagnostic]:
    """Complaints about size and nesting, found without parsing."""
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return [Diagnostic("E106", f"{size:,} bytes of source, more than {MAX_BYTES:,}", None,
                           "a program is one class of a few lines")]  # fmt: skip
    depth = 0
    line, col = 1, 0
    for char in source:
        line, col = (line + 1, 0) if char == "\n" else (line, col + 1)
        depth += (char in "([{") - (char in ")]}")
        if depth > MAX_NESTING:
            return [Diagnostic("E108", f"brackets nested deeper than {MAX_NESTING}",
                               Span(line, col, line, col + 1), "name the parts")]  # fmt: skip
    return []


def syntax_problem(error: Exception) -> Diagnostic:
    """What Python's own parser says, as a diagnostic."""
    if isinstance(error, SyntaxError) and error.lineno:
        line, col = error.lineno, max(error.offset or 1, 1)
        return Diagnostic("E100", f"not Python syntax: {error.msg}", Span(line, col, line, col + 1))
    return Diagnostic("E100", f"not Python syntax: {type(error).__name__}", None, "simplify it")


def nesting(tree: ast.AST) -> int:
    """Depth of a syntax tree, by an explicit stack."""
    deepest, stack = 0, [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return deepest
