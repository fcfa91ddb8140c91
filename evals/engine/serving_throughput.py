"""Speed in an engine: decode rate, times to and between tokens, goodput; full and sparse in turn.

Nothing is reported for a point whose outputs were not what was asked for.
"""

from __future__ import annotations

import random
import statistics as plain
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from evals.engine.engine import Completion, Mode, Request, Sampling, Sides, run, seconds
from evals.engine.statistics import Estimate, mean, quantile, ratio, share

_UNSTEADY = 0.1  # error of a ratio, as a share of it, above which readers are told
_WARM_TOKENS = 4
_CACHE_SLACK = 0.02  # share of prompt tokens that caches may serve more to one run than another
_LEAST_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class Point:
    """A shape of load: so many sequences at once, each with so many tokens of prompt."""

    batch: int
    context: int

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.batch} x {self.context:,}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a point is measured.

    Attributes:
        few, many: new tokens of the two runs whose difference is decoding alone.
        pairs: of runs; even, so that each mode goes first as often as the other.
        requests: of the whole-request run, in batches; ``rate`` sends them by a Poisson process
            (requests/s) instead of always keeping ``batch`` in flight.
        first_limit, gap_limit: seconds; a request is good when its first token and the 95th
            percentile of its gaps are within them.
        vocab: prompts are drawn from token numbers 3 to this.
    """

    vocab: int
    few: int = 8
    many: int = 136
    pairs: int = 4
    requests: int = 2
    rate: float | None = None
    first_limit: float = 10.0
    gap_limit: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one mode did at a point; None where nothing could be said.

    Attributes:
        decode: tokens/s of the whole batch, over pairs.
        alone: seconds to the first token of a lone request, its prompt in no cache.
        first, first_p95, gap, gap_p95: seconds under load: median and 95th percentile.
        goodput: good requests/s; ``good``: their share.
    """

    decode: Estimate | None = None
    alone: Estimate | None = None
    first: Estimate | None = None
    first_p95: Estimate | None = None
    gap: Estimate | None = None
    gap_p95: Estimate | None = None
    goodput: Estimate | None = None
    good: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """What one mode's numbers are made of, by pair: decode tokens/s, seconds to a lone request's
    first token, and the median gap of each run under load."""

    decode: tuple[float, ...]
    alone: tuple[float, ...]
    gaps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PointResult:
    """A point, measured.

    Attributes:
        problem: what the outputs were not as they should be in; nothing is reported then.
        in_turn: whether the modes were interleaved, not measured one after the other.
    """

    point: Point
    modes: dict[Mode, Measured] = field(default_factory=dict)
    raw: dict[Mode, Raw] = field(default_factory=dict)
    problem: str = ""
    in_turn: bool = True

    @property
    def ratios(self) -> dict[str, Estimate]:
        """Sparse over full by name of what is compared, paired in the order of measurement."""
        if set(self.raw) != {"full", "sparse"}:
            return {}
        sparse, full = self.raw["sparse"], self.raw["full"]
        pairs = {
            "decode_speedup": (sparse.decode, full.decode),
            "first_token_ratio": (sparse.alone, full.alone),
            "gap_ratio": (sparse.gaps, full.gaps),
        }
        made = {
            name: ratio(a, b)
            for name, (a, b) in pairs.items()
            if len(a) == len(b) and all(x > 0 for x in (*a, *b))
        }
        return {name: found for name, found in made.items() if found is not None}

    @property
    def unsteady(self) -> str:
        """Why the decode rates say little; empty where pairs agree."""
        found = self.ratios.get("decode_speedup")
        if found is None or found.error is None or found.error <= _UNSTEADY * found.value:
            return ""
        return (
            f"{self.point.name}: pairs of decode rates differ (their ratio is {found.value:.2f} ± "
            f"{found.error:.2f}): the host, or what else runs there, has a part in them."
        )

    def beside(self, other: PointResult) -> PointResult:
        """This with what another engine did at the same point, one after the other."""
        both = " ".join(p for p in (self.problem, other.problem) if p)
        if both:
            return PointResult(self.point, problem=both, in_turn=False)
        return PointResult(
            self.point, self.modes | other.modes, self.raw | other.raw, in_turn=False
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far greedy tokens of sparse decoding with all pages are those of full attention.

    Attributes:
        prompts, equal: requests, and those with the same tokens throughout.
        prefix: mean share of tokens before the first that differs; ``itself``: the same of full
            attention against itself, which is not 1 where batches change rounding.
    """

    prompts: int
    equal: int
    prefix: float
    itself: float

    @property
    def problem(self) -> str:
        """What is wrong, or ''. Near ties fall either way in bf16, so half is asked for."""
        if self.prefix >= _LEAST_AGREEMENT * self.itself:
            return ""
        return (
            f"with every page selected, sparse decoding keeps to full attention's tokens for "
            f"{self.prefix:.0%} of a reply; full attention keeps to its own for {self.itself:.0%}"
        )


class _Wrong(Exception):
    """Outputs that are not what was asked for."""


def drawn(count: int, length: int, vocab: int, seed: str) -> list[tuple[int, ...]]:
    """Distinct random prompts, so that no cache serves what memory should."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(3, vocab) for _ in range(length)) for _ in range(count)]


def measure_point(
    sides: Sides, point: Point, plan: Plan, say: Callable[[str], None] = lambda _: None
) -> PointResult:
    """Everything about one point.

    Raises:
        VortexError: E904, an engine failed.
    """
    try:
        say(f"{point.name}: decode")
        rates = _decode(sides, point, plan)
        say(f"{point.name}: first token")
        alone = _alone(sides, point, plan)
        say(f"{point.name}: whole requests")
        loads = _loads(sides, point, plan)
    except _Wrong as wrong:
        return PointResult(point, problem=str(wrong))
    modes = {m: _summed(rates[m], alone[m], loads[m], plan) for m in sides}
    raw = {m: Raw(tuple(rates[m]), tuple(alone[m]), tuple(_medians(loads[m]))) for m in sides}
    return PointResult(point, modes, raw)


def _turns(sides: Sides, pairs: int) -> Iterator[tuple[int, Mode]]:
    """A B, B A, A B, ...: a drift of the machine meets both modes alike."""
    order = list(sides)
    for at in range(pairs):
        yield from ((at, mode) for mode in (order if at % 2 == 0 else order[::-1]))


def _decode(sides: Sides, point: Point, plan: Plan) -> dict[Mode, list[float]]:
    """Tokens/s of each pair: what the longer of two runs took longer."""
    prompts = drawn(point.batch, point.context, plan.vocab, f"decode/{plan.seed}/{point.name}")

    def timed(mode: Mode, tokens: int) -> tuple[float, int | None]:
        sampling = Sampling(tokens, ignore_end=True)
        found = run(sides, mode, [Request(p, sampling) for p in prompts], stream=False)
        _check(found, tokens, point)
        cached = [c.cached_tokens for c in found]
        return seconds(found), None if None in cached else sum(x or 0 for x in cached)

    for mode in sides:  # pays for compiles, and puts the prompts into the cache
        timed(mode, _WARM_TOKENS)
    rates: dict[Mode, list[float]] = {m: [] for m in sides}
    for _, mode in _turns(sides, plan.pairs):
        (short, had), (long, has) = timed(mode, plan.few), timed(mode, plan.many)
        total = point.batch * point.context
        if had is not None and has is not None and abs(has - had) > _CACHE_SLACK * total:
            raise _Wrong(
                f"caches served {had:,} and {has:,} of {total:,} prompt tokens to the two runs: "
                "their difference is not decoding alone"
            )
        if long <= short:
            raise _Wrong(f"{plan.many} tokens took no longer than {plan.few}: {mode} attention")
        rates[mode].append(point.batch * (plan.many - plan.few) / (long - short))
    return rates


def _alone(sides: Sides, point: Point, plan: Plan) -> dict[Mode, list[float]]:
    """Seconds to the first token of lone requests, each of a prompt of its own."""
    found: dict[Mode, list[float]] = {m: [] for m in sides}
    for at, mode in _turns(sides, plan.pairs + 1):
        seed = f"alone/{plan.seed}/{point.name}/{mode}/{at}"
        prompt = drawn(1, point.context, plan.vocab, seed)[0]
        got = run(sides, mode, [Request(prompt, Sampling(1, ignore_end=True))])
        _check(got, 1, point)
        if at:  # the first pair warms up
            found[mode].append(got[0].first)
    return found


def _loads(sides: Sides, point: Point, plan: Plan) -> dict[Mode, list[list[Completion]]]:
    """Whole requests under load, in two pairs of runs."""
    count = max(1, plan.requests) * point.batch
    found: dict[Mode, list[list[Completion]]] = {m: [] for m in sides}
    for at, mode in _turns(sides, 2):
        seed = f"load/{plan.seed}/{point.name}/{mode}/{at}"
        rng, moment = random.Random(f"arrivals/{plan.seed}/{point.name}/{at}"), 0.0
        requests = []
        for prompt in drawn(count, point.context, plan.vocab, seed):
            moment += rng.expovariate(plan.rate) if plan.rate else 0.0
            requests.append(Request(prompt, Sampling(plan.many, ignore_end=True), moment))
        got = run(sides, mode, requests, at_once=None if plan.rate else point.batch)
        _check(got, plan.many, point)
        found[mode].append(got)
    return found


def _check(found: Sequence[Completion], tokens: int, point: Point) -> None:
    """That every reply has the tokens that were asked for, of the prompt that was sent."""
    for c in found:
        if c.tokens != tokens or c.finish != "length":
            raise _Wrong(f"{tokens} tokens were asked for, {c.tokens} came ('{c.finish[:20]}')")
        # A server may put a token of its own before a prompt.
        if c.prompt_tokens is not None and not 0 <= c.prompt_tokens - point.context <= 4:
            raise _Wrong(f"{point.context} tokens of prompt were sent, {c.prompt_tokens} read")
        if c.ids is not None and len(c.ids) != tokens:
            raise _Wrong(f"{tokens} tokens were counted, {len(c.ids)} are there")


def _medians(loads: Sequence[Sequence[Completion]]) -> list[float]:
    """The median gap of each run."""
    gaps = [[g for c in load for g in c.gaps] for load in loads]
    return [plain.median(g) for g in gaps if g]


def _summed(
    rates: Sequence[float], alone: Sequence[float], loads: Sequence[Sequence[Completion]],
    plan: Plan,
) -> Measured:  # fmt: skip
    everyone = [c for load in loads for c in load]
    firsts, gaps = [[c.first] for c in everyone], [c.gaps for c in everyone]
    good = [[is_good(c, plan) for c in load] for load in loads]
    return Measured(
        decode=mean(rates), alone=mean(alone),
        first=quantile(firsts, 0.5, seed=plan.seed), first_p95=quantile(firsts, 0.95, seed=1),
        gap=quantile(gaps, 0.5, seed=2), gap_p95=quantile(gaps, 0.95, seed=3),
        goodput=mean([sum(g) / seconds(c) for g, c in zip(good, loads, strict=True)]),
        good=share([float(x) for g in good for x in g]),
    )  # fmt: skip


def is_good(completion: Completion, plan: Plan) -> bool:
    """Whether a request met the limits."""
    worst = quantile([completion.gaps], 0.95, seed=0)
    return completion.first <= plan.first_limit and (worst is None or worst.value <= plan.gap_limit)


def agreement(sides: Sides, prompts: Sequence[tuple[int, ...]], tokens: int) -> Agreement:
    """Greedy tokens of both modes for prompts that the budget covers.

    Raises:
        VortexError: E904.
    """

    def replies(mode: Mode) -> list[Completion]:
        requests = [Request(p, Sampling(tokens, ignore_end=True)) for p in prompts]
        return run(sides, mode, requests, stream=False)

    full, again, sparse = replies("full"), replies("full"), replies("sparse")
    shares = [_shared(a, b) for a, b in zip(full, sparse, strict=True)]
    own = [_shared(a, b) for a, b in zip(full, again, strict=True)]
    return Agreement(
        len(prompts), sum(s == 1.0 for s in shares), plain.fmean(shares), plain.fmean(own)
    )


def _shared(one: Completion, two: Completion) -> float:
    """Share of a reply before it differs: of tokens, or of characters where those are not told."""
    a, b = (one.text, two.text) if one.ids is None or two.ids is None else (one.ids, two.ids)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if same is None:
        same = min(len(a), len(b))
    return same / max(len(a), len(b), 1)
