"""What a decode step of a candidate launches on a GPU: read off the generated kernels."""

from __future__ import annotations

from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.plan import plan_of
from vortex.triton.arrays import Shapes
from vortex.triton.scoring import scoring
from vortex.triton.summaries import summaries
from vortex.triton.tiles import Unfused


def launch_plan(candidate: Candidate, geometry: Geometry) -> tuple[str, ...]:
    """One line for each launch of a sparse layer, in order; a part without a kernel says why.

    Needs neither Triton nor a device.
    """
    dim, vdim = geometry.dim, geometry.vdim
    rope = (dim - geometry.rope_dim, geometry.rope_dim) if geometry.kind == "mla" else (0, dim)
    strides = (dim, dim if geometry.kind == "mla" else vdim)
    shapes = Shapes(geometry.group, dim, vdim, rope, geometry.layers, strides)
    if plan_of(candidate.select).everything:
        return ("attend to every page",)
    lines = []
    if candidate.fields:
        try:
            summaries(candidate, shapes)
            lines.append("append the token, summarise a page that it completes")
        except Unfused as reason:
            lines.append(f"no kernel to summarise: {reason.message}")
    try:
        made = scoring(candidate, shapes)
        if made.prepared:
            lines.append(f"prepare {len(made.prepared)} values of the queries by torch")
        lines.append("score and select" if made.chooses else "list the reserved pages")
        if made.keeps:
            steps = candidate.policies.reuse_steps
            lines[-1] += f"; in {steps - 1} of {steps} steps, list again what was picked"
    except Unfused as reason:
        lines.append(f"no kernel to score: {reason.message}")
    updates = ["no kernel to update the states"] if candidate.states else []
    return (*lines, "attend to the chosen pages", *updates)
