"""Runs a graph on named arrays: the loop that the reference and the CPU backend share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from vortex.errors import VortexError
from vortex.ir import Node, walk
from vortex.named import Named, Run
from vortex.ops import OPS


def run_graph(roots: Iterable[Node], sources: Mapping[str, Named], run: Run) -> dict[str, Named]:
    """Values of the roots by node key.

    Args:
        sources: values of source nodes; a field is looked up as ``field:NAME``, a state as
            ``state:NAME``.

    Raises:
        VortexError: E203 or E206, the arrays do not fit an operation; it has its place.
    """
    roots = list(roots)
    values: dict[str, Named] = {}
    for node in walk(roots):
        entry = OPS[node.op]
        if node.op == "const":
            value = node.attr("value")
            assert isinstance(value, int | float)
            values[node.key] = Named(torch.full((), float(value)), ())
        elif node.op in ("field", "state"):
            values[node.key] = sources[f"{node.op}:{node.attr('name')}"]
        elif entry.run is None:
            values[node.key] = sources[node.op]
        else:
            inputs = tuple(values[n.key] for n in node.inputs)
            try:
                values[node.key] = entry.run(run, inputs, dict(node.attrs))
            except VortexError as error:
                raise error.at(node.span) from None
    return {root.key: values[root.key] for root in roots}
