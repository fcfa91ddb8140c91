"""What a decode step of a candidate costs: bytes, operations and launches, and predicted seconds.

With B sequences of S tokens, page size p, kept tokens t, H KV heads, c bytes of KV per token and
head, w bytes of fields per page and head, L layers of which D are dense, W(B) bytes of weights::

    attention = sum over layers
        sparse layer   route:  score of B H (S // p) w bytes, and select, in one launch
                       attend: B H t c bytes, 2 (dim + vdim) operations per token and query head
        dense layer    attend, with t = S
    step      = attention + max(W(B) / bandwidth, 2 B active weights / rate)

``vortex.kernel_cost`` has the seconds of score, select and attend. Where lists serve several layers
or steps, each pays its share of a route. Score graphs run on the vector units as the kernels do
them: more than three query heads are padded to 16 at least, products of pages and heads of exact
fields are left to the matrix units, numbers of narrow fields cost ``DECODE`` operations more, for
each head of the tile that they meet. Where nothing is scored the list is a launch and one pass
(assumed); states are two launches and their bytes.
Left out, alike for sparse and full attention: activations, norms, sampling, the floors of the
linear layers' kernels, communication. The upkeep of fields rides on the kernel that appends to
the cache: bytes, but no launch. Everything here is predicted, never measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from vortex.devices import Device
from vortex.errors import VortexError
from vortex.geometry import Geometry
from vortex.graph_cost import graph_flops, score_width, vector_operations
from vortex.ir import Candidate, extents, walk
from vortex.kernel_cost import (
    Attend,
    Score,
    attend_seconds,
    queries_of,
    score_seconds,
    select_seconds,
)
from vortex.plan import attended_tokens, dense_layers, plan_of
from vortex.storage import field_bytes
from vortex.workload import Workload


@dataclass(frozen=True, slots=True)
class StepCost:
    """One decode step of the whole batch, over all layers.

    Attributes:
        index_bytes: page fields read to score (for the oracle, every key).
        attended_bytes: KV of the kept tokens on sparse layers.
        dense_bytes: KV on layers that run full attention.
        upkeep_bytes: pages that the step completes, read again, and their fields written.
        weight_bytes: weights, the expected distinct experts among them.
        score_flops: operations of the score graphs, on the vector units.
        attention_flops: operations of attention, on the matrix units.
        launches: kernels of attention and routing.
        attention_seconds: routing and attention.
        seconds: the whole step.
    """

    index_bytes: int
    attended_bytes: int
    dense_bytes: int
    upkeep_bytes: float
    weight_bytes: float
    score_flops: float
    attention_flops: float
    launches: int
    attention_seconds: float
    seconds: float

    @property
    def attention_bytes(self) -> float:
        """All bytes but the weights."""
        return self.index_bytes + self.attended_bytes + self.dense_bytes + self.upkeep_bytes


@dataclass(frozen=True, slots=True)
class Price:
    """What a candidate costs on a geometry, workload and device, beside full attention.

    Attributes:
        attended_tokens: kept per step, sequence and KV head on a sparse layer, at most.
        sparse_layers: layers that route.
        index_bytes_per_token: fields stored per token of context, over sparse layers and KV heads.
        index_share: the same as a share of the KV cache.
        request_bytes: what one request keeps of its own when its last token is generated, over
            the layers that rank: states, and the picks of rankings that serve several steps.
        page_bytes: bytes of the fields that one page of one KV head keeps.
        pages_completed: pages that a step of the batch completes, on average, in each layer and
            KV head.
        memory: bytes of weights, KV, fields and what requests keep when the last token is
            generated.
        fits: whether that is within 90% of the device's memory.
    """

    geometry: str
    workload: Workload
    device: str
    sparse: StepCost
    full: StepCost
    attended_tokens: int
    sparse_layers: int
    index_bytes_per_token: float
    index_share: float
    request_bytes: int
    page_bytes: int
    pages_completed: float
    memory: float
    fits: bool
    origin: Literal["predicted"] = "predicted"

    @property
    def speedup_step(self) -> float:
        """Seconds of a whole step under full attention over those of the candidate."""
        return self.full.seconds / self.sparse.seconds

    @property
    def speedup_attention(self) -> float:
        """Seconds of attention under full attention over those of the candidate's."""
        return self.full.attention_seconds / self.sparse.attention_seconds

    @property
    def tokens_per_second(self) -> float:
        """Predicted decode throughput of the batch."""
        return self.workload.batch / self.sparse.seconds


@dataclass(frozen=True, slots=True)
class Routing:
    """What scoring reads and computes, per sequence and KV head of one layer.

    Attributes:
        index_bytes: bytes read.
        flops: operations of the score graphs, as written.
        matrix_flops: operations on the matrix units (the oracle's own attention).
        launches: routing's, averaged where one ranking serves several layers or steps.
        page_bytes: bytes of the fields that one page keeps.
        served: layers and steps that a ranking serves.
        pages: complete pages.
        operations: on the vector units, of one scoring.
        block: pages that a program scores.
        ranks, scores: whether anything is ranked, and by a score of the program's.
        state_bytes: read and written at every step.
    """

    index_bytes: int
    flops: float
    matrix_flops: float
    launches: float
    page_bytes: int
    served: int
    pages: int
    operations: float
    block: int
    ranks: bool
    scores: bool
    state_bytes: int

    @property
    def scored_bytes(self) -> float:
        """Bytes that one scoring reads."""
        return (self.index_bytes - self.state_bytes) * self.served


def fields_read(candidate: Candidate) -> tuple[str, ...]:
    """Names of the fields that the selection's scores use; others are neither kept nor read."""
    roots = [candidate.select, *candidate.updates.values()]
    used = {str(n.attr("name")) for n in walk(roots) if n.op == "field"}
    return tuple(name for name in candidate.fields if name in used)


def page_bytes(candidate: Candidate, geometry: Geometry) -> int:
    """Bytes of the fields that one page of one KV head keeps, scales included."""
    sizes = {**geometry.sizes(), "token": candidate.page_size}
    return sum(
        field_bytes(
            math.prod(extents(candidate.fields[name], sizes)),
            candidate.dtype,
        )
        for name in fields_read(candidate)
    )


def routing(candidate: Candidate, geometry: Geometry, workload: Workload) -> Routing:
    """What it takes to choose pages at one step of one sequence and KV head.

    ``random`` needs no index; ``oracle`` computes attention over every key first.
    """
    plan = plan_of(candidate.select)
    pages = workload.context // candidate.page_size
    kept = page_bytes(candidate, geometry)
    sizes = {**geometry.sizes(), "token": candidate.page_size, "page": pages}
    sources = {ranking.source for ranking in plan.rankings.values()}
    roots = [*plan.scores, *candidate.updates.values()]
    index, matrix = pages * kept, 0.0
    if "oracle" in sources:
        index += workload.context * geometry.key_bytes(workload.kv_dtype)
        matrix = 2.0 * workload.context * geometry.dim * geometry.group
    # One ranking serves several layers and steps; states are read and written at every step.
    served = candidate.policies.reuse_layers * candidate.policies.reuse_steps
    state = 8 * pages * len(candidate.states)
    stored = float(pages * _numbers(candidate, sizes))
    flops = graph_flops(roots, sizes)
    return Routing(
        index_bytes=math.ceil(index / served) + state,
        flops=flops / served,
        matrix_flops=matrix / served,
        launches=1 / served + 2 * bool(state),
        page_bytes=kept,
        served=served,
        pages=pages,
        operations=vector_operations(roots, sizes, stored, candidate.dtype == "bf16"),
        block=score_width(geometry.group, geometry.kind == "mla", flops, stored),
        ranks=bool(sources),
        scores=bool(sources - {"random"}),
        state_bytes=state,
    )


def _numbers(candidate: Candidate, sizes: dict[str, int]) -> int:
    """Numbers of the fields that one page of one KV head keeps."""
    return sum(math.prod(extents(candidate.fields[n], sizes)) for n in fields_read(candidate))


def score_shape(geometry: Geometry, workload: Workload, route: Routing) -> Score:
    """The scoring of one layer, the whole batch."""
    rows = workload.batch * geometry.kv_heads
    return Score(
        rows, route.pages, rows * route.scored_bytes, rows * route.operations, route.block,
        queries_of(geometry.group, geometry.dim),
    )  # fmt: skip


def route_seconds(geometry: Geometry, workload: Workload, device: Device, route: Routing) -> float:
    """Scoring and selection of one layer, the share of a list that serves several."""
    rows = workload.batch * geometry.kv_heads
    found = device.launch_floor
    if route.scores:
        matrix = rows * route.matrix_flops * route.served / device.flops
        scoring = score_seconds(device, score_shape(geometry, workload, route))
        found = max(scoring, device.launch_floor + matrix)
    if route.ranks:
        found += select_seconds(device, rows, route.pages)
    else:
        found += device.pass_latency
    states = 2 * device.launch_floor + rows * route.state_bytes / device.gather_bandwidth
    return found / route.served + (states if route.state_bytes else 0.0)


def attention(geometry: Geometry, workload: Workload, tokens: int, *, whole: bool) -> Attend:
    """Attention over ``tokens`` per sequence and KV head of one layer, the whole batch."""
    rows = workload.batch * geometry.kv_heads
    flops = 2.0 * rows * tokens * geometry.group * (geometry.dim + geometry.vdim)
    each = geometry.kv_bytes(workload.kv_dtype)
    return Attend(rows, tokens, each, geometry.kind == "mla", whole, flops)


def full_attention(geometry: Geometry, workload: Workload) -> Attend:
    """Attention of one layer to everything, by the fastest kernel that is known for it.

    FlashMLA was measured in bf16; in fp8 it is taken to read as many bytes a second.
    """
    ours = attention(geometry, workload, workload.context, whole=True)
    return replace(ours, fastest=ours.latent)


def _weights_seconds(geometry: Geometry, workload: Workload, device: Device) -> float:
    moved = geometry.weight_bytes(workload.batch) / device.bandwidth
    return max(moved, 2.0 * workload.batch * geometry.active_parameters() / device.flops)


def full_step(geometry: Geometry, workload: Workload, device: Device) -> StepCost:
    """One decode step under full attention."""
    kernel = full_attention(geometry, workload)
    seconds = geometry.layers * attend_seconds(device, kernel)
    return StepCost(
        index_bytes=0,
        attended_bytes=0,
        dense_bytes=int(geometry.layers * kernel.bytes),
        upkeep_bytes=0.0,
        weight_bytes=geometry.weight_bytes(workload.batch),
        score_flops=0.0,
        attention_flops=geometry.layers * kernel.flops,
        launches=geometry.layers,
        attention_seconds=seconds,
        seconds=seconds + _weights_seconds(geometry, workload, device),
    )


def price(candidate: Candidate, geometry: Geometry, workload: Workload, device: Device) -> Price:
    """Predict what one decode step costs, and what full attention costs on the same terms.

    Raises:
        VortexError: E203, a split of the candidate does not divide the geometry's axis; E207, it
            reads a part of the key that the geometry does not have; E209, no layer is sparse.
    """
    _check_axes(candidate, geometry)
    _check_layers(candidate, geometry)
    full = full_step(geometry, workload, device)
    tokens = attended_tokens(candidate, workload.context, workload.context, layers=geometry.layers)
    dense = len(dense_layers(candidate, geometry.layers, geometry.layers))
    if plan_of(candidate.select).everything:
        dense = geometry.layers
    sparse = geometry.layers - dense
    route = routing(candidate, geometry, workload)
    step = _sparse_step(geometry, workload, device, route, tokens, dense, candidate.page_size)
    per_token = sparse * geometry.kv_heads * route.page_bytes / candidate.page_size
    kv_token = geometry.layers * geometry.kv_heads * geometry.kv_bytes(workload.kv_dtype)
    length = workload.context + workload.generated
    own = _request_bytes(candidate, geometry, sparse, length)
    held = length * (kv_token + per_token) + own
    memory = geometry.weight_bytes_stored() + workload.batch * held
    return Price(
        geometry=geometry.name,
        workload=workload,
        device=device.name,
        sparse=full if sparse == 0 else step,
        full=full,
        attended_tokens=tokens,
        sparse_layers=sparse,
        index_bytes_per_token=per_token,
        index_share=per_token / kv_token,
        request_bytes=own,
        page_bytes=route.page_bytes,
        pages_completed=workload.batch / candidate.page_size,
        memory=memory,
        fits=memory <= 0.9 * device.memory,
    )


def _request_bytes(candidate: Candidate, geometry: Geometry, sparse: int, length: int) -> int:
    """What a request keeps: a float32 number per state, a bit for a pick, of each page."""
    policies, pages = candidate.policies, math.ceil(length / candidate.page_size)
    picks = math.ceil(pages / 8) if policies.reuse_steps > 1 else 0
    ranking = math.ceil(sparse / policies.reuse_layers)
    return ranking * geometry.kv_heads * (4 * pages * len(candidate.states) + picks)


def _check_axes(candidate: Candidate, geometry: Geometry) -> None:
    """Inputs come first: what does not fit is shown where it is cut, not where it is used."""
    sizes = {**geometry.sizes(), "token": candidate.page_size, "page": 1}
    for node in walk([*candidate.fields.values(), *candidate.scores.values()]):
        extents(node, sizes)


def _check_layers(candidate: Candidate, geometry: Geometry) -> None:
    """A program whose dense layers are all that a model has would be full attention there."""
    layers, policies = geometry.layers, candidate.policies
    if len(dense_layers(candidate, layers, layers)) < layers:
        return
    ends = [f"the last {policies.dense_last}"] if policies.dense_last else []
    ends = [f"the first {policies.dense_first}", *ends] if policies.dense_first else ends
    raise VortexError(
        f"{' and '.join(ends)} layers are dense, and {geometry.name} has {layers}: none is sparse",
        code="E209", hint="declare fewer, or name the model that it is meant for (--model)",
    ).at(candidate.program.places.get("dense_layers"))  # fmt: skip


def _sparse_step(
    geometry: Geometry,
    workload: Workload,
    device: Device,
    route: Routing,
    tokens: int,
    dense: int,
    page_size: int,
) -> StepCost:
    """One decode step of which ``dense`` layers attend to everything."""
    rows, sparse = workload.batch * geometry.kv_heads, geometry.layers - dense
    attend = attention(geometry, workload, tokens, whole=False)
    whole = full_attention(geometry, workload)
    # A page that fills is read once more, and its fields written: spread over page_size steps.
    reread = geometry.kv_bytes(workload.kv_dtype) if route.page_bytes else 0
    upkeep = sparse * rows * (reread + route.page_bytes / page_size)
    choose = route_seconds(geometry, workload, device, route)
    seconds = (
        sparse * (choose + attend_seconds(device, attend))
        + dense * attend_seconds(device, whole)
        + upkeep / device.bandwidth
    )
    return StepCost(
        index_bytes=int(sparse * rows * route.index_bytes),
        attended_bytes=int(sparse * attend.bytes),
        dense_bytes=int(dense * whole.bytes),
        upkeep_bytes=upkeep,
        weight_bytes=geometry.weight_bytes(workload.batch),
        score_flops=sparse * rows * route.flops,
        attention_flops=sparse * (attend.flops + rows * route.matrix_flops) + dense * whole.flops,
        launches=round(sparse * (route.launches + 1)) + dense,
        attention_seconds=seconds,
        seconds=seconds + _weights_seconds(geometry, workload, device),
    )
