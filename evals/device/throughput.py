"""Decode throughput on a GPU at the target's geometry: candidate and full attention in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.device.baselines import loaded
from evals.device.decoder import Decoder, fits
from evals.device.trials import Attend
from vortex.compile import compile_text
from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.plan import dense_layers
from vortex.reference import attend as reference_attend
from vortex.schedule import Schedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.choose import KernelChooser, Pool, Setting, TorchChooser
from vortex.triton.decode import Decode
from vortex.triton.schedules import StepShape, schedule_for
from vortex.workload import Workload

FULL = """import vortex as vx
class Full(vx.Algorithm):
    page_size = {size}
    def select(self):
        return vx.all()
"""
# Bytes that layers must touch in turn so that none finds its own in the cache.
_COLD_BYTES = 200e6
_CACHE_SHARE = 0.6
_PAIRS, _CHECKED_ROWS = 15, 2
# Scores within rounding of the cut fall either way in two executors: so many pages may differ.
_DIFFERENT, _OUTPUT = 0.02, 0.02


@dataclass(frozen=True, slots=True)
class Pairs:
    """Steps of full attention and of the candidate, timed in turn.

    Attributes:
        seconds, full_seconds: medians of a step.
        speedup: geometric mean of the pairs' ratios; ``error``: its standard error.
    """

    seconds: float
    full_seconds: float
    speedup: float
    error: float
    pairs: int


@dataclass(frozen=True, slots=True)
class DeviceTiming:
    """Outcome of a measurement.

    Attributes:
        attention: routing and attention of every layer, nothing else.
        step: the whole decode step; None where the target's is not built (experts, latent).
        full_by: the full attention that was fastest, and why others were left out.
        chosen_by: ``kernels``, or ``torch`` where the candidate has none.
        captured: whether the candidate's step was a CUDA graph.
        attended: mean pages attended per sequence and KV head on a sparse layer, times page size.
        mismatch: what the checked outputs differ in, or None; nothing was timed then.
    """

    attention: Pairs | None
    step: Pairs | None
    full_by: str = ""
    chosen_by: str = ""
    captured: bool = False
    attended: float = 0.0
    mismatch: str | None = None


def filled_pool(
    geometry: Geometry,
    workload: Workload,
    page_size: int,
    device: torch.device,
    *,
    seed: int = 0,
    most: int | None = None,
) -> Pool:
    """Random keys and values in fragmented pages, as many layers as memory and ``most`` allow."""
    rows, longest = workload.batch, workload.context
    width = -(-longest // page_size)
    total, latent = rows * width, geometry.kind == "mla"
    kind = torch.float8_e4m3fn if workload.kv_dtype == "fp8" else torch.bfloat16
    layer_bytes = total * page_size * geometry.kv_heads * geometry.kv_bytes(workload.kv_dtype)
    room = _CACHE_SHARE * torch.cuda.get_device_properties(device).total_memory
    sparse_bytes = max(1.0, layer_bytes / 64)
    layers = max(1, min(
        most or geometry.layers, geometry.layers, math.ceil(_COLD_BYTES / sparse_bytes),
        int(room / layer_bytes),
    ))  # fmt: skip
    g = torch.Generator(device=device).manual_seed(seed)

    def drawn(dim: int) -> Tensor:
        shape = (total, geometry.kv_heads, page_size, dim)
        made = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(generator=g)
        return made.to(kind)

    caches = []
    for _ in range(layers):
        k = drawn(geometry.dim)
        caches.append(Cache(k, k[..., : geometry.vdim] if latent else drawn(geometry.vdim),
                            page_size))  # fmt: skip
    table = torch.randperm(total, device=device, generator=g).view(rows, width).to(torch.int32)
    lengths = torch.full((rows,), workload.context, dtype=torch.int32, device=device)
    return Pool(tuple(caches), table, lengths, longest)


def setting_of(
    candidate: Candidate,
    geometry: Geometry,
    workload: Workload,
    attended: int,
    index_bytes: int,
    schedule: Schedule | None = None,
) -> Setting:
    """How the target decodes under a candidate; by default with the device's schedule for its
    shape."""
    shape = StepShape(
        geometry.kind, workload.batch * geometry.kv_heads, geometry.group, geometry.dim,
        geometry.vdim, candidate.page_size, workload.context, attended, index_bytes,
    )  # fmt: skip
    return Setting(
        Shapes.of(geometry), geometry.head_dim**-0.5,
        workload.context, dense_layers(candidate, geometry.layers, geometry.layers),
        schedule or schedule_for(torch.cuda.get_device_name(), shape),
    )  # fmt: skip


@dataclass
class _Bed:
    """A filled cache and one step's inputs of every layer."""

    pool: Pool
    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]
    out: Tensor

    @staticmethod
    def of(pool: Pool, geometry: Geometry) -> _Bed:
        rows, device = len(pool.table), pool.table.device
        g = torch.Generator(device=device).manual_seed(1)

        def drawn(heads: int, dim: int) -> list[Tensor]:
            return [
                torch.randn(rows, heads, dim, device=device, generator=g).to(torch.bfloat16)
                for _ in range(geometry.layers)
            ]

        k = drawn(geometry.kv_heads, geometry.dim)
        latent = pool.caches[0].latent
        v = (
            [x[..., : geometry.vdim] for x in k]
            if latent
            else drawn(geometry.kv_heads, geometry.vdim)
        )
        q = drawn(geometry.heads, geometry.dim)
        out = torch.empty(rows, geometry.heads, geometry.vdim, device=device, dtype=torch.bfloat16)
        return _Bed(pool, q, k, v, out)

    def run(self, attend: Callable[[int, Tensor, Tensor, Tensor, Tensor], None]) -> None:
        """Every layer's attention, one after the other."""
        for layer, (q, k, v) in enumerate(zip(self.q, self.k, self.v, strict=True)):
            attend(layer, q, k, v, self.out)


class _OtherFull:
    """Full attention by another implementation, behind our append."""

    def __init__(self, ours: Decode, run: Attend) -> None:
        self.ours, self.run = ours, run

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """See Decode."""
        self.ours.append(layer, k, v)
        out.copy_(self.run(layer, q))


StepAttend = Decode | _OtherFull


def measure(
    candidate: Candidate,
    geometry: Geometry,
    workload: Workload,
    *,
    attended: int,
    index_bytes: int,
    left_out: Mapping[str, str],
    pairs: int = _PAIRS,
) -> DeviceTiming:
    """Check a candidate's outputs at the target's geometry, then time it beside full attention.

    Args:
        attended, index_bytes: tokens per sequence and KV head, and bytes of fields of a page, as
            priced: they choose the schedule.
        left_out: full attention of others that does not work here, by name, and why.

    Raises:
        Unfused: E613, the candidate is a control that no device runs.
    """
    device = torch.device("cuda")
    pool = filled_pool(geometry, workload, candidate.page_size, device)
    setting = setting_of(candidate, geometry, workload, attended, index_bytes)
    bed = _Bed.of(pool, geometry)
    sparse = Decode(candidate, pool, setting)
    sparse.summarise()
    full = Decode(compile_text(FULL.format(size=candidate.page_size), reserved=True), pool, setting)
    mismatch = difference(candidate, sparse, bed)
    if mismatch:
        return DeviceTiming(None, None, mismatch=mismatch)
    best, name = fastest_full(full, bed, left_out)
    every = candidate.policies.reuse_steps
    attention = _paired(lambda: bed.run(sparse), lambda: bed.run(best), sparse, every, pairs)
    step = None
    if fits(geometry):
        model = Decoder(geometry, pool.lengths, pool.longest)
        tokens = torch.arange(1, workload.batch + 1, device=device) % geometry.vocab
        step = _paired(
            lambda: model.step(tokens, sparse), lambda: model.step(tokens, best), sparse, every,
            pairs,
        )[0]  # fmt: skip
    return DeviceTiming(
        attention[0], step, full_by=name,
        chosen_by="torch" if isinstance(sparse.chooser, TorchChooser) else "kernels",
        captured=attention[1], attended=_mean_attended(sparse, bed),
    )  # fmt: skip


def _mean_attended(sparse: Decode, bed: _Bed) -> float:
    if sparse.chooser is None:
        return float(bed.pool.lengths.float().mean())
    layer = next(iter(sparse.anchors))
    _, counts = sparse.chooser.choose(layer, layer, bed.q[layer], ranks=True)
    return float(counts.float().mean()) * bed.pool.caches[0].page_size


def difference(candidate: Candidate, sparse: Decode, bed: _Bed) -> str | None:
    """What the candidate's first sparse layer does otherwise than the reference on a few rows."""
    if sparse.chooser is None:
        return None
    pool, layer = bed.pool, next(iter(sparse.anchors))
    bed.out.fill_(float("nan"))
    sparse(layer, bed.q[layer], bed.k[layer], bed.v[layer], bed.out)
    pages, counts = sparse.chooser.choose(layer, layer, bed.q[layer], ranks=True)
    rows = range(min(_CHECKED_ROWS, len(pool.table)))
    if isinstance(sparse.chooser, KernelChooser):
        few = Pool((pool.cache(layer),), pool.table[: len(rows)], pool.lengths[: len(rows)],
                   pool.longest)  # fmt: skip
        own = TorchChooser(candidate, few, sparse.setting)
        own.summarise()
        wanted, sizes = own.choose(layer, layer, bed.q[layer][: len(rows)], ranks=True)
        lists = [(pages, counts), (wanted, sizes)]
        got, want = (
            [set(p[r, h, : int(c[r, h])].tolist()) for r in rows for h in range(pool.kv_heads)]
            for p, c in lists
        )
        odd = sum(len(a ^ b) for a, b in zip(got, want, strict=True))
        if odd > _DIFFERENT * sum(len(b) for b in want):
            return f"kernels choose {odd} pages otherwise than the reference executor"
    return _wrong_outputs(sparse.setting, bed, layer, pages, counts)


def _wrong_outputs(
    setting: Setting, bed: _Bed, layer: int, pages: Tensor, counts: Tensor
) -> str | None:
    """Attention over the chosen pages against the reference, on the first and last row."""
    pool, cache = bed.pool, bed.pool.cache(layer)
    size, shapes = cache.page_size, setting.shapes
    for row in (0, len(pool.table) - 1):
        count = int(counts[row, 0])
        listed = pages[row, 0, :count].long()
        keys = cache.k[listed, 0].reshape(-1, shapes.dim).float().cpu()
        values = cache.v[listed, 0].reshape(-1, shapes.vdim).float().cpu()
        used = (count - 1) * size + (int(pool.lengths[row]) - 1) % size + 1
        q = bed.q[layer][row, : shapes.group].float().cpu()
        exact = reference_attend(
            q, keys[:used], values[:used], set(range(count)), page_size=size, scale=setting.scale
        )
        gap = float((bed.out[row, : shapes.group].float().cpu() - exact).norm() / exact.norm())
        if not gap < _OUTPUT:
            return f"outputs differ from the reference's by {gap:.3f}, relative"
    return None


def fastest_full(full: Decode, bed: _Bed, left_out: Mapping[str, str]) -> tuple[StepAttend, str]:
    """The fastest full attention that works here; its name, and why others were left out."""
    bed.run(full)
    full.attend(0, bed.q[0], bed.out)
    others, reasons = loaded(bed.pool, full.setting, bed.q[0], bed.out, left_out=left_out)
    rivals: dict[str, StepAttend] = {"vortex": full}
    rivals |= {name: _OtherFull(full, run) for name, run in others.items()}
    times = {}
    for name, attend in rivals.items():
        graph, _ = _graph(lambda a=attend: bed.run(a))  # type: ignore[misc]
        times[name] = statistics.median(_seconds(graph) for _ in range(5))
    name = min(times, key=lambda n: times[n])
    return rivals[name], named_by(name, reasons)


def named_by(name: str, left_out: Mapping[str, str]) -> str:
    """What candidates were timed beside, and why not beside others."""
    return "; ".join([name, *(f"{other} left out: {why}" for other, why in left_out.items())])


def _paired(
    sparse_run: Callable[[], object],
    full_run: Callable[[], object],
    sparse: Decode,
    every: int,
    pairs: int,
) -> tuple[Pairs, bool]:
    """Both in turn; of ``every`` steps of the candidate, one ranks pages."""
    sparse.ranks = True
    ranking, captured = _graph(sparse_run)
    keeping = None
    if every > 1:
        sparse.ranks = False
        keeping, _ = _graph(sparse_run)
        sparse.ranks = True
    full, _ = _graph(full_run)
    times = []
    for at in range(pairs + 1):
        runs = [ranking, full] if at % 2 else [full, ranking]
        taken = {run: _seconds(run) for run in runs}
        mine = taken[ranking]
        if keeping is not None:
            mine = (mine + (every - 1) * _seconds(keeping)) / every
        if at:
            times.append((mine, taken[full]))
    logs = [math.log(f / s) for s, f in times]
    speedup = math.exp(statistics.fmean(logs))
    found = Pairs(
        statistics.median(s for s, _ in times), statistics.median(f for _, f in times), speedup,
        speedup * statistics.stdev(logs) / math.sqrt(len(logs)), len(times),
    )  # fmt: skip
    return found, captured


def _graph(run: Callable[[], object]) -> tuple[Callable[[], object], bool]:
    """The function as a CUDA graph after a warm-up, or itself where it cannot be captured."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        run()
        return run, False
    return graph.replay, True


def _seconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
