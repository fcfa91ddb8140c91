"""Holds the kernels of a candidate against the reference on random inputs, wherever they run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vortex.cpu import KV, ROW, Router, Steps
from vortex.execute import run_graph
from vortex.ir import Candidate
from vortex.named import Named, Run, named
from vortex.reference import attend as reference_attend
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.storage import INT_MAX
from vortex.triton.arrays import Shapes, Stored
from vortex.triton.attend import Cache
from vortex.triton.backend import Fields, attend_chosen, route, summarise_pages
from vortex.triton.buffers import Buffers
from vortex.triton.kernels import Kernels, kernels
from vortex.triton.runtime import interpreted

SMALL = Schedule(
    score=ScoreSchedule(block=16),
    attend=AttendSchedule(block=32, splits=2),
    full=AttendSchedule(block=32, splits=3),
)


@dataclass(frozen=True)
class Case:
    """Shapes of a test: ragged lengths, tokens of the step included; ``latent`` is MLA."""

    kv_heads: int = 2
    group: int = 2
    dim: int = 64
    vdim: int = 64
    rope: tuple[int, int] = (0, 64)
    latent: bool = False
    lengths: tuple[int, ...] = (1, 115, 320)
    workload: int = 2048
    seed: int = 0
    device: str = "cpu"
    schedule: Schedule = SMALL
    layers: int = 4
    layer: int = 2


MLA = Case(kv_heads=1, group=5, dim=80, rope=(64, 16), latent=True)


@dataclass
class Bed:
    """A filled cache, its fields, and everything a step needs."""

    case: Case
    candidate: Candidate
    kernels: Kernels
    cache: Cache
    fields: Fields
    table: Tensor
    lengths: Tensor
    q: Tensor
    buffers: Buffers
    out: Tensor

    @property
    def scale(self) -> float:
        return float(self.case.dim**-0.5)

    def step(self) -> None:
        """Route and attend, outputs poisoned first."""
        self.buffers.scratch.fill_(float("nan"))
        self.buffers.pages.fill_(2**30)
        self.out.fill_(float("nan"))
        if not self.kernels.everything:
            route(self.kernels, self.case.schedule, self.q, self.fields, self.table, self.lengths,
                  self.buffers, scale=self.scale, layer=self.case.layer)  # fmt: skip
        attend_chosen(self.kernels, self.case.schedule, self.q, self.cache, self.table,
                      self.lengths, self.buffers, self.out, scale=self.scale)  # fmt: skip


def bed(candidate: Candidate, case: Case) -> Bed:
    """Random keys, values and queries in fragmented pages, summarised."""
    g = torch.Generator().manual_seed(case.seed)
    size, rows = candidate.page_size, len(case.lengths)
    width = max(-(-n // size) for n in case.lengths) + 1
    total = rows * width + 3
    device = torch.device(case.device)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, torch.bfloat16)

    k = draw(total, case.kv_heads, size, case.dim)
    v = k[..., : case.vdim] if case.latent else draw(total, case.kv_heads, size, case.vdim)
    table = torch.randperm(total, generator=g)[: rows * width].view(rows, width)
    table = table.to(device, torch.int32)
    lengths = torch.tensor(case.lengths, dtype=torch.int32, device=device)
    shapes = Shapes(
        case.group, case.dim, case.vdim, case.rope, case.layers, (k.stride(2), v.stride(2)),
        min(1.0, max(case.lengths) / case.workload),
    )  # fmt: skip
    made = kernels(candidate, shapes)
    fields = Fields.of_layer(
        made, case.layer, pages=total, rows=rows, width=width, kv_heads=case.kv_heads,
        device=device,
    )  # fmt: skip
    for name, state in fields.rows.items():
        if name.startswith("state"):
            state.copy_(torch.rand(state.shape, generator=g))
    for array in fields.arrays.values():
        array.copy_(torch.full_like(array, float("nan")) if array.is_floating_point() else array)
    cache = Cache(k, v, size)
    summarise_pages(made, cache, fields, table, lengths)
    heads = case.kv_heads * case.group
    q = draw(rows, heads, case.dim)
    out = torch.empty(rows, heads, case.vdim, dtype=torch.bfloat16, device=device)
    buffers = Buffers.of(made, case.schedule, rows, case.kv_heads, width, device)
    return Bed(case, candidate, made, cache, fields, table, lengths, q, buffers, out)


def disagreements(b: Bed) -> list[str]:
    """What a step does otherwise than the reference; empty when all is well."""
    b.step()
    found = []
    case, size = b.case, b.candidate.page_size
    router = Router(
        b.candidate, context=max(case.lengths), workload_context=case.workload,
        layers=case.layers, rope=case.rope,
    )  # fmt: skip
    for row, length in enumerate(case.lengths):
        pages = -(-length // size)
        index = b.table[row, :pages].long()
        k = b.cache.k[index].transpose(0, 1)[:, None].float().cpu()
        v = b.cache.v[index].transpose(0, 1)[:, None].float().cpu()
        fields, wrong = _fields(b, router, row, length // size, k, v)
        found += [f"row {row}: {w}" for w in wrong]
        keep, scores = _wanted(b, router, row, fields, pages)
        for head in range(case.kv_heads):
            want = set(keep[head].nonzero()[:, 0].tolist())
            got, order = _got(b, row, head, pages)
            if order != sorted(order):
                found.append(f"row {row}, head {head}: the list is out of order")
            odd = _unexplained(got, want, head, scores, router, pages)
            if odd:
                found.append(f"row {row}, head {head}: pages {sorted(got)}, wanted {sorted(want)}")
            gap = _gap(b, row, head, k[head, 0], v[head, 0], got)
            if not gap < 0.02:
                found.append(f"row {row}, head {head}: output off by {gap:.3f}")
    return found


def _got(b: Bed, row: int, head: int, pages: int) -> tuple[set[int], list[int]]:
    if b.kernels.everything:
        return set(range(pages)), list(range(pages))
    logical = {int(p): i for i, p in enumerate(b.table[row])}
    count = int(b.buffers.counts[row, head])
    order = [logical[int(p)] for p in b.buffers.pages[row, head, :count]]
    return set(order), order


def _gap(b: Bed, row: int, head: int, k: Tensor, v: Tensor, got: set[int]) -> float:
    case, length = b.case, b.case.lengths[row]
    q = b.q[row].view(case.kv_heads, case.group, case.dim)[head].float().cpu()
    keys, values = k.reshape(-1, case.dim)[:length], v.reshape(-1, case.vdim)[:length]
    exact = reference_attend(q, keys, values, got, page_size=b.candidate.page_size, scale=b.scale)
    out = b.out[row].view(case.kv_heads, case.group, case.vdim)[head].float().cpu()
    return float((out - exact).abs().max())


def _fields(
    b: Bed, router: Router, row: int, complete: int, k: Tensor, v: Tensor
) -> tuple[dict[str, Named], list[str]]:
    """The kernel's own fields, and where they are more than a rounding from the reference's."""
    if not b.kernels.summaries or not complete:
        return {}, []
    wanted = router.page_fields(k[:, :, :complete], v[:, :, :complete], b.case.layer)
    index = b.table[row, :complete].long()
    found, wrong = {}, []
    for name, layout in zip(b.candidate.fields, b.kernels.summaries.arrays, strict=True):
        value = _read(b, layout, index)
        exact = wanted[name].data
        data = value.data.expand(exact.shape)
        dtype = b.candidate.dtype
        step = exact.abs() * 2**-7
        if dtype == "fp8":
            # Triton's interpreter forgets to carry when a mantissa rounds up: up to a half is lost.
            step = exact.abs() * (2**-1 if interpreted() else 2**-3)
            step = step + exact.abs().amax() / 448 * 2**-8
        if dtype in INT_MAX:
            step = exact.abs().amax() / INT_MAX[dtype] * 1.01
        if not bool(((data - exact).abs() <= step + 1e-6).all()):
            wrong.append(f"field '{name}' is off by {float((data - exact).abs().max()):.4f}")
        found[name] = value
    run = Run(layer=b.case.layer, rope=b.case.rope, matrices=b.candidate.matrices)
    sources = {f"field:{n}": v for n, v in found.items()}
    values = run_graph(router.cached.values(), sources, run)
    return found | {n: values[node.key] for n, node in router.cached.items()}, wrong


def _read(b: Bed, layout: Stored, index: Tensor) -> Named:
    """A field of one row's pages as ``[kv_head, row, page, ...]``."""
    kv = b.case.kv_heads
    data = b.fields.arrays[layout.name].view(-1, kv, layout.run)[index]
    if layout.dtype == "int4":
        low, high = data & 15, data >> 4
        signed = torch.stack([low, high], -1).flatten(-2).to(torch.int32)
        data = torch.where(signed > 7, signed - 16, signed)[..., : layout.elements]
    data = data.float()
    if layout.scaled:
        scales = b.fields.arrays[f"{layout.name}_scale"].view(-1, kv)[index]
        data = data * scales[..., None]
    shaped = data.reshape(len(index), kv, *layout.axes.values()).transpose(0, 1)[:, None].cpu()
    return named(shaped, KV, ROW, "page", *layout.axes)


def _wanted(
    b: Bed, router: Router, row: int, fields: dict[str, Named], pages: int
) -> tuple[Tensor, dict[str, Tensor]]:
    case = b.case
    q = b.q[row].view(case.kv_heads, 1, 1, case.group, case.dim).float().cpu()
    steps = Steps(q, torch.tensor([case.lengths[row]]), pages, case.layer, b.scale)
    router.kept_scores = {}
    read = b.kernels.scoring.states if b.kernels.scoring else {}
    states = {name: b.fields.rows[argument][row].cpu()[:, None] for argument, name in read.items()}
    unread = (n for n in b.candidate.states if n not in states)
    states |= {n: torch.zeros(case.kv_heads, 1, pages) for n in unread}
    keep = router.joined(steps, router.pick(steps, fields, states=states))[:, 0, 0]
    return keep, {n: s[:, 0, 0] for n, s in router.kept_scores.get(case.layer, {}).items()}


def _unexplained(
    got: set[int],
    want: set[int],
    head: int,
    scores: dict[str, Tensor],
    router: Router,
    pages: int,
) -> list[int]:
    """Pages chosen otherwise for which rounding is no excuse: each must have changed places with
    one of almost its own score, or lie at the cut of a ranking that keeps by value."""
    rankings = router.plan.rankings
    found = []
    for page in got ^ want:
        others = want - got if page in got else got - want
        excused = False
        for key, score in scores.items():
            row = score[head]
            finite = row[torch.isfinite(row)]
            if not len(finite):
                continue
            slack = 2e-3 * max(float(finite.abs().max()), 1e-6)
            near = {p for p in range(pages) if abs(float(row[p]) - float(row[page])) <= slack}
            by_value = rankings[key].source in ("top_p", "threshold")
            edge = near & want != near and near & want != set()
            excused = excused or bool(near & others) or (by_value and edge)
        if not excused:
            found.append(page)
    return found


def scaled(case: Case, **changes: object) -> Case:
    """A case with other values."""
    return replace(case, **changes)  # type: ignore[arg-type]
