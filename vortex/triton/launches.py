"""What a decode step of a candidate launches on a GPU: read off the generated kernels."""

from __future__ import annotations

from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.plan import plan_of
from vortex.triton.arrays import Shapes
from vortex.triton.scoring import scoring
from vortex.triton.summaries import summaries
from vortex.triton.tiles import Unfused
from vortex.triton.updates import updates


def launch_plan(candidate: Candidate, geometry: Geometry) -> tuple[str, ...]:
    """One line for each launch of a sparse layer, in order; a part without a kernel says why.

    Needs neither Triton nor a device.
    """
    shapes = Shapes.of(geometry)
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
    return (*lines, "attend to the chosen pages", *_followed(candidate, shapes))


def unservable(candidate: Candidate, geometry: Geometry | None) -> str:
    """Why no engine can serve a program: the first part without a kernel; '' where there is none,
    or where the shapes are not known."""
    if geometry is None or plan_of(candidate.select).everything:
        return ""
    shapes = Shapes.of(geometry)
    try:
        if candidate.fields:
            summaries(candidate, shapes)
        if scoring(candidate, shapes).states:
            updates(candidate, shapes)
    except Unfused as reason:
        return reason.message
    return ""


def _followed(candidate: Candidate, shapes: Shapes) -> list[str]:
    """What is done for states after attention."""
    if not candidate.states:
        return []
    try:
        updates(candidate, shapes)
    except Unfused as reason:
        return [f"no kernel to update the states: {reason.message}"]
    return ["sum the attention of each chosen page", "update the states"]
