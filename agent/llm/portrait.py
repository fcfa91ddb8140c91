"""One candidate in words and numbers: a row for tables, a portrait for the parent, a hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.llm.figures import estimated, measured, milliseconds, size
from agent.llm.hypotheses import Judged
from agent.llm.quoting import knobs_line, label, one_line, quoted
from agent.llm.target import Target, parts_of
from agent.standing import Standing, Standings
from evals.result import Sample, Status
from runs.quality import by_context, estimate
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ops import AxisError

_TASKS = ("needle", "copy", "single", "continuation")
_WORST = 3


def speed(now: Standings, standing: Standing) -> str:
    """Step time and speed-up, and how they were obtained."""
    if not math.isfinite(standing.seconds):
        return "step time unknown"
    timed = standing.metric("gpu_speedup") if now.config.on_gpu else None
    faster = f", x{now.full_seconds / standing.seconds:.3g} full" if _finite(now) else ""
    origin = timed.origin if timed else "predicted"
    return f"step {milliseconds(standing.seconds)} ({origin}{faster})"


def _finite(now: Standings) -> bool:
    return math.isfinite(now.full_seconds) and now.full_seconds > 0


def name_of(standing: Standing) -> str:
    """Number and name, the name as data."""
    return f"{standing.record.id} {quoted(standing.record.name or 'unnamed', 48)}"


def row(now: Standings, standing: Standing) -> str:
    """One line: name, loss, time, bytes, knobs."""
    record = standing.record
    loss = f"loss gap {estimated(estimate(standing.losses))}" if standing.losses else "no loss yet"
    return (
        f"- candidate {name_of(standing)} ({label(record.proposer)}): {loss}; "
        f"{speed(now, standing)}{_bytes(standing)}; {knobs_line(record.knobs, 100)}"
    )


def _bytes(standing: Standing) -> str:
    index, kept = (standing.metric(n) for n in ("index_bytes_per_token", "attended_tokens"))
    said = f"; index {index.value:.3g} B/token" if index else ""
    return said + (f", attends {kept.value:,.0f} tokens" if kept else "")


def portrait(now: Standings, standing: Standing, target: Target | None) -> list[str]:
    """Lines about a candidate: where it stands, where it loses, what it reads, where time goes.

    Args:
        target: prices the parts of a step; None leaves them out.
    """
    record = standing.record
    parents = ", ".join(map(str, record.parents)) or "none"
    lines = [
        f"candidate {name_of(standing)} by {label(record.proposer)}, parents {parents}; "
        f"status {standing.status or 'waiting'}; rungs done {standing.rung} of "
        f"{len(now.config.rungs)}",
        f"knobs: {knobs_line(record.knobs)}",
    ]
    if record.note:
        lines.append(f"its author's note: {quoted(record.note, 240)}")
    if standing.status not in (None, Status.OK):
        lines.append(f"why it ended: {reason(standing)}")
    if standing.losses:
        lines.append(f"loss gap {estimated(estimate(standing.losses))}; {speed(now, standing)}")
        lines += _worst(standing)
    lines += _tasks(now, standing.samples)
    lines += _fidelity(standing)
    return lines + (_time(standing, target) if target else [])


def reason(standing: Standing) -> str:
    """Status and message of the stage that ended it, as data."""
    bad = next((s for s in standing.stages if s.status != Status.OK), None)
    if bad is None:
        return "it has not ended"
    message = f" {quoted(bad.message, 260)}" if bad.message else ""
    return f"{bad.status} at {bad.stage}{message}"


def _worst(standing: Standing) -> list[str]:
    """The contexts where it loses most."""
    ordered = sorted(standing.losses.items(), key=lambda x: (-x[1], x[0]))[:_WORST]
    worst = ", ".join(f"{one_line(name, 24)} {value:.2g}" for name, value in ordered)
    return [f"worst contexts by loss gap: {worst}"]


def _tasks(now: Standings, samples: Sequence[Sample]) -> list[str]:
    """Each task: its gap where the controls give a scale, what was answered rightly, the KL."""
    lines = []
    for task in _TASKS:
        parts = []
        if now.scale is not None and task in now.scale.room:
            gap = estimate(now.scale.gaps(samples, task))
            parts += [f"gap {estimated(gap)}"] if gap else []
        for metric in ("exact", "top1", "kl"):
            found = estimate(by_context(samples, task, metric))
            parts += [f"{metric} {measured(found.value, found.error)}"] if found else []
        if parts:
            lines.append(f"task {task}: {', '.join(parts)}")
    return lines


def _fidelity(standing: Standing) -> list[str]:
    """Attention mass on recorded queries."""
    names = ("recovered", "mass", "best", "chance", "error")
    found = [(n, m) for n in names if (m := standing.metric(n)) is not None]
    said = ", ".join(f"{n} {measured(m.value, m.stderr)}" for n, m in found)
    return [f"attention mass (measured): {said}"] if found else []


def _time(standing: Standing, target: Target) -> list[str]:
    """Bytes read and seconds by part, predicted."""
    record = standing.record
    try:
        candidate = compile_text(record.text, record.knobs, reserved=record.control)
        cost, parts = target.price(candidate), parts_of(candidate, target)
    except (AxisError, VortexError):
        return []
    step = cost.sparse
    return [
        f"reads a step (predicted): index {size(step.index_bytes)}, pages attended "
        f"{size(step.attended_bytes)}, dense layers {size(step.dense_bytes)}, weights "
        f"{size(step.weight_bytes)}; {step.launches} launches; fields {cost.page_bytes} B a page",
        f"time (predicted): score and select {milliseconds(parts.route)}, attend "
        f"{milliseconds(parts.attend)}, dense layers {milliseconds(parts.dense)}, upkeep "
        f"{milliseconds(parts.upkeep)}, weights {milliseconds(parts.weights)}; together "
        f"{milliseconds(step.seconds)}, {cost.speedup_step:.3g} times as fast as full attention",
    ]


def hypothesis_line(judged: Judged) -> str:
    """A hypothesis with its verdict."""
    against = f" against {judged.compared_to}" if judged.compared_to is not None else ""
    # Why a candidate failed is told in words that its text may have chosen.
    failed = judged.verdict == "failed"
    detail = quoted(judged.detail, 220) if failed else one_line(judged.detail, 260)
    return (
        f"- candidate {judged.candidate}{against}: {quoted(judged.hypothesis, 160)}: "
        f"{judged.verdict} ({detail})"
    )
