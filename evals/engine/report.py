"""What an evaluation in an engine found: every number with error, n, origin, device, versions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from evals.engine.accuracy import Answer, scored
from evals.engine.engine import MODES, OWN, Mode, Sampling
from evals.engine.problems import Problem
from evals.engine.serving_throughput import Agreement, Plan, PointResult
from evals.engine.statistics import (
    Estimate,
    majority_at_k,
    mean,
    mean_at_k,
    paired_difference,
    pass_at_k,
)  # fmt: skip
from evals.result import Metric, Record
from vortex.errors import printable

SCHEMA_VERSION = 1
# Name of a figure: what it is of one mode, unit, digits.
_SPEEDS: Mapping[str, tuple[str, str]] = {
    "decode": ("decode_tokens_per_second", "tokens/s"),
    "alone": ("first_token_alone", "s"),
    "first": ("first_token_p50", "s"),
    "first_p95": ("first_token_p95", "s"),
    "gap": ("inter_token_p50", "s"),
    "gap_p95": ("inter_token_p95", "s"),
    "goodput": ("goodput", "requests/s"),
    "good": ("good_requests", "share"),
}


class Figure(Record):
    """One number.

    Attributes:
        mode: ``full``, ``sparse``, or what compares them.
        where: the point or group that it is of.
        low, high: a 95% interval, where there is one.
        samples: measurements behind the independent units that ``metric.n`` counts.
    """

    metric: Metric
    mode: str
    where: str
    low: float | None = None
    high: float | None = None
    samples: int


class EngineReport(Record):
    """All that was found about one program in one engine.

    Attributes:
        engines: facts of the engine of each mode.
        notes: what a reader must know; ``failures``: points that gave no number, and why.
        agreement: what greedy tokens of both modes have in common where the budget covers all.
        raw: rates of each pair, by point and mode.
    """

    schema_version: int = SCHEMA_VERSION
    program: str
    candidate_hash: str
    engines: dict[str, dict[str, str]]
    how: dict[str, str]
    figures: tuple[Figure, ...]
    agreement: dict[str, float] | None
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    raw: dict[str, dict[str, dict[str, tuple[float, ...]]]]
    answers: int


class Origin(Record):
    """Where numbers are from: device and model."""

    device: str
    model: str


def speed_figures(results: Sequence[PointResult], plan: Plan, origin: Origin) -> list[Figure]:
    """Every number of the points that were measured."""
    found = []
    for result in results:
        name = result.point.name
        work = f"{name} tokens, {plan.many - plan.few} decoded, random prompts"
        for mode, measured in result.modes.items():
            for attribute, (title, unit) in _SPEEDS.items():
                value = getattr(measured, attribute)
                found += _figures(title, unit, mode, name, work, value, origin)
        for title, value in result.ratios.items():
            found += _figures(title, "1", "sparse / full", name, work, value, origin)
    return found


def answer_figures(
    answers: Sequence[Answer], problems: Sequence[Problem], sampling: Sampling, k: int,
    origin: Origin, seed: int,
) -> list[Figure]:  # fmt: skip
    """Means, pass@k, majorities and paired differences of every group, and of all together."""
    by_mode = scored(answers, problems)
    groups = sorted({p.group for p in problems})
    names = {g: {p.id for p in problems if p.group == g} for g in groups}
    if len(groups) > 1:
        names["all"] = {p.id for p in problems}
    work = f"temperature {sampling.temperature:g}, at most {sampling.tokens} tokens"
    found = []
    for group, ids in names.items():
        where = group or "problems"
        votes = {
            m: {p: s for p, s in by_mode[m].items() if p in ids} for m in MODES if m in by_mode
        }
        scores: dict[Mode, dict[str, list[float]]] = {
            m: {p: [x for _, x in samples] for p, samples in v.items()} for m, v in votes.items()
        }
        for mode, voted in votes.items():
            for title, value in _answers(scores[mode], voted, k):
                found += _figures(title, "share", mode, where, work, value, origin)
            for title, unit, value in _lengths([a for a in answers if a.mode == mode], ids):
                found += _figures(title, unit, mode, where, work, value, origin)
        if len(scores) == 2:
            gap = paired_difference(scores["sparse"], scores["full"], seed=seed)
            title = f"mean@{k}_difference"
            found += _figures(title, "share", "sparse - full", where, work, gap, origin)
    return found


def _answers(
    scores: Mapping[str, Sequence[float]],
    votes: Mapping[str, Sequence[tuple[str | None, float]]],
    k: int,
) -> Iterator[tuple[str, Estimate | None]]:
    yield f"mean@{k}", mean_at_k(scores)
    if k > 1:
        yield f"pass@{k}", pass_at_k(scores, k)
        yield f"majority@{k}", majority_at_k(votes)


def _lengths(
    answers: Sequence[Answer], ids: set[str]
) -> Iterator[tuple[str, str, Estimate | None]]:
    """How long replies are, and the share that ran into the limit."""
    cut: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    for a in answers:
        if a.name in ids:
            cut.setdefault(a.name, []).append(float(a.finish == "length"))
            tokens.setdefault(a.name, []).append(float(a.tokens))
    yield "cut_off", "share", mean_at_k(cut)
    yield "reply_tokens", "tokens", mean([math.fsum(x) / len(x) for x in tokens.values()])


def _figures(
    name: str, unit: str, mode: str, where: str, workload: str, value: Estimate | None,
    origin: Origin,
) -> list[Figure]:  # fmt: skip
    if value is None:
        return []
    metric = Metric(
        name=name, value=value.value, stderr=value.error, n=value.n, unit=unit, origin="measured",
        device=origin.device, model=origin.model, workload=workload,
    )  # fmt: skip
    return [Figure(metric=metric, mode=mode, where=where, low=value.low, high=value.high,
                   samples=value.samples)]  # fmt: skip


def raw_rates(results: Sequence[PointResult]) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Of each point and mode, what the figures are made of."""
    return {
        r.point.name: {
            m: {"decode_tokens_per_second": x.decode, "first_token_alone": x.alone,
                "gap_medians": x.gaps}
            for m, x in r.raw.items()
        }
        for r in results
    }  # fmt: skip


def agreement_facts(found: Agreement | None) -> dict[str, float] | None:
    """The agreement as plain numbers."""
    if found is None:
        return None
    return {"requests": found.prompts, "equal": found.equal, "prefix": found.prefix,
            "full_against_itself": found.itself}  # fmt: skip


# -- Markdown ----------------------------------------------------


def render_markdown(report: EngineReport) -> str:
    """The report for a reader: what was not done first, then the tables."""
    own = all(f.get("engine", "").endswith(OWN) for f in report.engines.values())
    where = "by our own executor, without an engine" if own else "in an engine"
    lines = [f"# {_cell(report.program)} {where}", ""]
    lines += [f"Candidate `{report.candidate_hash}`.", ""]
    lines += [f"- {_cell(n, 400)}" for n in report.notes]
    lines += [f"- NOT MEASURED: {_cell(f, 400)}" for f in report.failures]
    if report.agreement:
        a = report.agreement
        lines.append(
            f"- With every page selected, {a['equal']:.0f} of {a['requests']:.0f} greedy replies "
            f"are full attention's throughout; tokens before the first other one: "
            f"{a['prefix']:.1%} of a reply (full attention against itself: "
            f"{a['full_against_itself']:.1%})."
        )
    lines += ["", "± is one standard error over n independent units (problems, pairs, requests); "
              "brackets are a 95% interval. All numbers are measured.", ""]  # fmt: skip
    lines += _table(report)
    for mode, facts in report.engines.items():
        said = ", ".join(f"{'' if k == 'engine' else f'{k} '}{_cell(v)}" for k, v in facts.items())
        lines.append(f"{'Executor' if own else 'Engine'} of {mode}: {said}.")
        lines.append("")
    lines.append("How: " + ", ".join(f"{k} {_cell(v)}" for k, v in report.how.items()) + ".")
    return "\n".join(lines).rstrip() + "\n"


def _table(report: EngineReport) -> list[str]:
    if not report.figures:
        return ["Nothing was measured.", ""]
    lines = ["| where | what | mode | value | n | samples | unit |",
             "|---|---|---|---:|---:|---:|---|"]  # fmt: skip
    for f in report.figures:
        m = f.metric
        value = shown(m.value) + (f" ± {shown(m.stderr)}" if m.stderr is not None else "")
        if f.low is not None and f.high is not None:
            value += f" [{shown(f.low)}, {shown(f.high)}]"
        cells = (_cell(f.where), m.name, f.mode, value, str(m.n), str(f.samples), m.unit)
        lines.append("| " + " | ".join(cells) + " |")
    device = report.figures[0].metric.device
    return [*lines, "", f"Device: {_cell(device)}. Model: {_cell(report.figures[0].metric.model)}.",
            ""]  # fmt: skip


def shown(value: float) -> str:
    """Four significant digits, without an exponent where none is needed."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cell(text: str, limit: int = 120) -> str:
    return printable(str(text), limit=limit).replace("|", "\\|").replace("<", "&lt;")
