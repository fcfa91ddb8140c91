"""One evaluation from beginning to end: engines started, points measured, problems asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.engine import report as reporting
from evals.engine.accuracy import Answer, Exam, examine
from evals.engine.engine import Engine, Mode, Sampling, Sides, sides_of
from evals.engine.problems import Problem
from evals.engine.report import EngineReport, Origin
from evals.engine.serving_throughput import (
    Agreement,
    Plan,
    Point,
    PointResult,
    agreement,
    drawn,
    measure_point,
)
from vortex.errors import VortexError

_AGREEING, _AGREEING_TOKENS = 16, 24
Say = Callable[[str], None]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Wanted:
    """What is to be found out.

    Attributes:
        points, plan: loads to time.
        problems: from an engine to what it is asked (its tokenizer decides lengths).
        samples: of each problem and mode; ``at_once``: requests in flight.
        covered: tokens up to which the program selects every page; 0: no such length is sure.
        budget: tokens up to which a ranking picks every page; 0: no such length is sure.
        chat: whether problems are asked in the model's chat format.
        shown: from an engine to what makes a prompt of a problem, as a chat template.
    """

    program: str
    candidate_hash: str
    points: Sequence[Point]
    plan: Plan
    problems: Callable[[Engine], Sequence[Problem]]
    sampling: Sampling
    samples: int = 1
    at_once: int = 16
    covered: int = 0
    budget: int = 0
    chat: bool = False
    seed: int = 0
    shown: Callable[[Engine], Callable[[str], str]] = lambda _: str
    model: str = ""


@dataclass
class _Found:
    """What rounds brought so far."""

    results: dict[Point, PointResult] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    problems: Sequence[Problem] = ()
    agreed: Agreement | None = None
    engines: dict[Mode, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate_in(
    rounds: Sequence[Callable[[], Sequence[Engine]]], wanted: Wanted, log: Path, say: Say
) -> EngineReport:
    """Evaluate a program.

    Args:
        rounds: each starts the engines that run at the same time: one round with both modes is
            interleaved; two rounds, one a mode, come one after the other.
        log: samples, kept as they come; a killed evaluation goes on with it.

    Raises:
        VortexError: E903, an engine does not start; E904, one failed; E905, the log; E906, nothing
            is to be done.
    """
    found = _Found()
    for start in rounds:
        engines = list(start())
        try:
            _round(sides_of(*engines), wanted, log, found, say)
        finally:
            for engine in engines:
                engine.close()
    if not found.results and not found.answers:
        raise VortexError(
            "there is nothing to evaluate", code="E906",
            hint="--throughput 16x32768, or --weights with --problems or --ruler",
        )  # fmt: skip
    return _report(found, wanted)


def _round(sides: Sides, wanted: Wanted, log: Path, found: _Found, say: Say) -> None:
    for mode, engine in sides.items():
        found.engines[mode] = dict(engine.facts)
    random = any(e.facts.get("weights") == "random" for e in sides.values())
    both = set(sides) == {"full", "sparse"}
    if wanted.points and both and not random and wanted.covered > 2 * _AGREEING_TOKENS:
        say("greedy tokens of both modes where the budget covers all")
        found.agreed = agreement(sides, _covered_prompts(wanted), _AGREEING_TOKENS)
    for point in wanted.points:
        if found.agreed and found.agreed.problem:
            result = PointResult(point, problem=found.agreed.problem)
        else:
            result = measure_point(sides, point, wanted.plan, say)
        before = found.results.get(point)
        found.results[point] = before.beside(result) if before else result
    if random:
        found.notes += ["No accuracy: weights are random, so that there is timing only."]
        return
    engine = next(iter(sides.values()))
    found.problems = wanted.problems(engine)
    if found.problems:
        exam = Exam(
            found.problems, wanted.samples, wanted.sampling, wanted.candidate_hash,
            wanted.at_once, wanted.seed, wanted.shown(engine),
        )  # fmt: skip
        found.answers += examine(sides, exam, log, lambda n, of: say(f"answers: {n} of {of}"))


def _covered_prompts(wanted: Wanted) -> list[tuple[int, ...]]:
    """Prompts of many lengths that stay within the budget with their replies."""
    longest = wanted.covered - _AGREEING_TOKENS
    lengths = [max(8, longest * (i + 1) // _AGREEING) for i in range(_AGREEING)]
    vocab = wanted.plan.vocab
    return [drawn(1, n, vocab, f"agree/{wanted.seed}/{i}")[0] for i, n in enumerate(lengths)]


def _report(found: _Found, wanted: Wanted) -> EngineReport:
    facts = next(iter(found.engines.values()))
    origin = Origin(
        device=facts.get("device", "unknown"), model=wanted.model or facts.get("model", "unknown")
    )
    results = list(found.results.values())
    figures = reporting.speed_figures(results, wanted.plan, origin)
    figures += reporting.answer_figures(
        found.answers, found.problems, wanted.sampling, wanted.samples, origin, wanted.seed
    )
    plan, s = wanted.plan, wanted.sampling
    how = {
        "seed": str(wanted.seed), "samples": str(wanted.samples),
        "chat format": "yes" if wanted.chat else "no",
        "temperature": f"{s.temperature:g}", "top_p": f"{s.top_p:g}", "tokens": str(s.tokens),
    }  # fmt: skip
    loads = {
        "pairs": str(plan.pairs),
        "requests": f"{plan.requests} per place in the batch",
        "load": f"Poisson, {plan.rate:g} requests/s" if plan.rate else "the batch always in flight",
        "good": f"first token within {plan.first_limit:g} s and 95% of gaps within "
        f"{plan.gap_limit:g} s",
    }  # fmt: skip
    return EngineReport(
        program=wanted.program, candidate_hash=wanted.candidate_hash,
        engines={str(m): f for m, f in found.engines.items()},
        how=how | (loads if wanted.points else {}), figures=tuple(figures),
        agreement=reporting.agreement_facts(found.agreed), notes=tuple(_notes(found, wanted)),
        failures=tuple(f"{r.point.name}: {r.problem}" for r in results if r.problem),
        raw=reporting.raw_rates(results), answers=len(found.answers),
    )  # fmt: skip


def _notes(found: _Found, wanted: Wanted) -> list[str]:
    """What the numbers are not."""
    notes = list(dict.fromkeys(found.notes))
    modes = set(found.engines)
    if len(modes) == 1:
        notes.append(f"Only {next(iter(modes))} attention was run: nothing is compared.")
    elif any(not r.in_turn for r in found.results.values()):
        notes.append("Full and sparse attention ran in engines one after the other: pairs are by "
                     "order, and a drift of the machine is in their ratios.")  # fmt: skip
    notes += [r.unsteady for r in found.results.values() if r.unsteady]
    if len(modes) == 2 and found.results and found.agreed is None:
        notes.append("Tokens of both modes were not compared: " + _why_not(found, wanted))
    if any(f.get("engine", "").startswith("server at") for f in found.engines.values()):
        notes.append("A server is taken at its word: that it serves this program was not checked.")
    if found.answers and "sparse" in modes and wanted.budget:
        notes.append(f"The budget picks every page of up to {wanted.budget:,} tokens: on shorter "
                     "prompts the program leaves nothing out.")  # fmt: skip
    if found.answers and wanted.sampling.temperature > 0:
        notes.append("Seeds are the same in both modes where the engine honours them (SGLang only "
                     "with deterministic inference); pairs are by problem.")  # fmt: skip
    return notes


def _why_not(found: _Found, wanted: Wanted) -> str:
    if any(f.get("weights") == "random" for f in found.engines.values()):
        return "random weights make nearly every choice a tie. Token counts and ends were checked."
    if wanted.covered <= 2 * _AGREEING_TOKENS:
        return "there is no length of which the program surely selects every page."
    return "the modes did not run together."
