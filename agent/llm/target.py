"""What candidates are priced on, and what costs what there: all predicted, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

from agent.llm.figures import milliseconds, size
from runs.records import RunConfig
from vortex.compile import compile_text, placed
from vortex.cost import Price, attention, full_attention, price, route_seconds, routing
from vortex.devices import Device
from vortex.devices import device as device_named
from vortex.geometry import Geometry, geometry
from vortex.ir import Candidate
from vortex.kernel_cost import attend_seconds
from vortex.workload import Workload

_PAGES, _TYPES = (16, 64), ("bf16", "int8", "int4")
_BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
_PROBE = """import vortex as vx

class Probe(vx.Algorithm):
    page_size = {page}
    {policy}
    def summarize(self, k, v):
        return vx.Summary({fields}dtype="{dtype}")
    def score(self, q, page):
        return ({score}).max("head")
    def select(self, score):
        return vx.top_k(score, tokens={budget}) | vx.sinks(1) | vx.recent(2)
"""
_UNSCORED = """import vortex as vx

class Probe(vx.Algorithm):
    page_size = 16
    def select(self):
        return vx.sinks(1) | vx.recent(tokens={budget})
"""
_CENTROID = ('mean=k.mean("token"), ', 'vx.dot(q, page.mean, "dim")')
_NUMBER = ('size=k.norm("dim").max("token"), ', 'q.abs().sum("dim") * page.size')
_ENVELOPE = (
    'lo=k.min("token"), hi=k.max("token"), ',
    'vx.maximum(q * page.lo, q * page.hi).sum("dim")',
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a run prices on."""

    geometry: Geometry
    workload: Workload
    device: Device

    def price(self, candidate: Candidate) -> Price:
        """What a candidate costs here.

        Raises:
            ProgramError: E203 or E207, it does not fit the geometry.
        """
        with placed(candidate.program):
            return price(candidate, self.geometry, self.workload, self.device)


@dataclass(frozen=True, slots=True)
class Parts:
    """Predicted seconds of one decode step, by part; they add up to the step.

    Attributes:
        route: scoring and choosing, all sparse layers.
        attend: attention to the kept tokens, all sparse layers.
        dense: layers of full attention.
        upkeep: summarising completed pages.
        weights: all that is not attention.
    """

    route: float
    attend: float
    dense: float
    upkeep: float
    weights: float


def target_of(config: RunConfig) -> Target:
    """What a run prices on.

    Raises:
        VortexError: E302, E401, E402 or E404, the configuration names what is not here.
    """
    workload = Workload(batch=config.batch, context=config.context, kv_dtype=config.kv_dtype)
    return Target(geometry(config.model), workload, device_named(config.price_for))


def parts_of(candidate: Candidate, target: Target) -> Parts:
    """Where the time of a step goes."""
    cost = target.price(candidate)
    shapes, workload, hardware = target.geometry, target.workload, target.device
    sparse = cost.sparse_layers
    whole = attend_seconds(hardware, full_attention(shapes, workload))
    kept = attention(shapes, workload, cost.attended_tokens, whole=False)
    route = routing(candidate, shapes, workload)
    return Parts(
        route=sparse * route_seconds(shapes, workload, hardware, route) if sparse else 0.0,
        attend=sparse * attend_seconds(hardware, kept) if sparse else 0.0,
        dense=(shapes.layers - sparse) * whole,
        upkeep=cost.sparse.upkeep_bytes / hardware.bandwidth,
        weights=cost.sparse.seconds - cost.sparse.attention_seconds,
    )


def facts(target: Target) -> str:
    """Cost facts of a target, as lines; all predicted from shapes and a device's figures."""
    shapes, workload = target.geometry, target.workload
    full = _probed(target, _UNSCORED.format(budget=1024)).full
    weights = full.seconds - full.attention_seconds
    key, both = shapes.key_bytes(workload.kv_dtype), shapes.kv_bytes(workload.kv_dtype)
    value = "the value is part of it" if shapes.kind == "mla" else f"key {key}, value {both - key}"
    held = shapes.layers * shapes.kv_heads * both
    return "\n".join(
        [
            f"Target {shapes.name} ({shapes.kind}): {shapes.layers} layers, {shapes.kv_heads} KV "
            f"heads, each shared by {shapes.group} query heads; dim {shapes.dim} of k and q, "
            f"{shapes.vdim} of v.",
            f"Workload: {workload}. Device: {target.device.name}.",
            f"K and V: {both} bytes a token, layer and KV head ({value}); {size(held)} a token.",
            f"Full attention: step {milliseconds(full.seconds)}, of which attention "
            f"{milliseconds(full.attention_seconds)} for {size(full.dense_bytes)} of K and V, and "
            f"the rest (weights, {size(full.weight_bytes)}) {milliseconds(weights)}, "
            f"{weights / full.seconds:.0%} of the step, which no program changes.",
            f"Bound: were attention free, a step would be {full.seconds / weights:.2f} times as "
            "fast. No program reaches this.",
            *_index_facts(target),
            *_budget_facts(target),
        ]
    )


def _index_facts(target: Target) -> list[str]:
    """What fields cost, by what they hold, their type and the page size."""
    width = target.geometry.dim
    rows = [("one number", _NUMBER, 16, "bf16", ""), ("one number", _NUMBER, 64, "bf16", "")]
    for page in _PAGES:
        for name, part in (("one vector", _CENTROID), ("two vectors", _ENVELOPE)):
            rows += [(f"{name} of width {width}", part, page, t, "") for t in _TYPES]
    for said, policy in (
        ("ranked every 4th sparse layer", "reuse = vx.reuse(layers=4)"),
        ("ranked every 4th step", "reuse = vx.reuse(steps=4)"),
        ("one list for all KV heads", 'per_head = vx.shared("max")'),
        ("one dense layer", "dense_layers = vx.layers(first=1)"),
    ):
        if "dense_layers" in policy and target.geometry.layers < 2:
            continue  # none would be left to be sparse
        rows.append((f"one vector, {said}", _CENTROID, 16, "bf16", policy))
    tokens = min(2048, target.workload.context)
    lines = [
        f"Fields are read for every page at every step. At a budget of {tokens:,} tokens: bytes of "
        "fields a page, bytes of fields read a step, step, speed-up over full attention:"
    ]
    for name, part, page, dtype, policy in rows:
        cost = _scored(target, part, page, dtype, max(tokens, 4 * page), policy)
        lines.append(
            f"- {name}, {dtype}, pages of {page}: {cost.page_bytes} B, "
            f"{size(cost.sparse.index_bytes)}, {milliseconds(cost.sparse.seconds)}, "
            f"{cost.speedup_step:.2f}"
        )
    return lines


def _budget_facts(target: Target) -> list[str]:
    """What attending to so many tokens costs, with and without an index."""
    lines = [_ranking_fact(target),
             "top_p and threshold are priced at their max_tokens, whatever they keep.",
             "Budgets: tokens attended, K and V read a step; step and speed-up with no index, and "
             "with one bf16 vector a page of 16:"]  # fmt: skip
    for budget in (b for b in _BUDGETS if b < target.workload.context):
        bare = _probed(target, _UNSCORED.format(budget=budget))
        scored = _scored(target, _CENTROID, 16, "bf16", budget, "")
        lines.append(
            f"- {budget:,}: {size(bare.sparse.attended_bytes)}; "
            f"{milliseconds(bare.sparse.seconds)}, {bare.speedup_step:.2f}; "
            f"{milliseconds(scored.sparse.seconds)}, {scored.speedup_step:.2f}"
        )
    return lines if len(lines) > 1 else []


def _ranking_fact(target: Target) -> str:
    """What ranking costs before any field is wide."""
    tokens = min(2048, target.workload.context)
    bare = _probed(target, _UNSCORED.format(budget=tokens)).sparse.seconds
    least = _scored(target, _NUMBER, 16, "bf16", tokens, "").sparse.seconds
    return (
        f"Ranking every layer and step costs {milliseconds(least - bare)} with the narrowest "
        "field, for launches and selection: reuse saves it, a narrower type does not."
    )


def _scored(
    target: Target, part: tuple[str, str], page: int, dtype: str, budget: int, policy: str
) -> Price:
    text = _PROBE.format(page=page, policy=policy, fields=part[0], dtype=dtype, score=part[1],
                         budget=budget)  # fmt: skip
    return _probed(target, text)


def _probed(target: Target, text: str) -> Price:
    return target.price(compile_text(text))
