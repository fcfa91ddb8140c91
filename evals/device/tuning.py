"""Finds the fastest schedule of a decode step's kernels for a shape, on the GPU at hand."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Literal

import torch
import triton
from torch import Tensor

from evals.device.throughput import filled_pool, setting_of
from evals.sandbox import die_with_parent
from vortex.compile import compile_text
from vortex.cost import page_bytes
from vortex.errors import ExitCode, VortexError
from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.triton.attend import Workspace, attend
from vortex.triton.backend import route
from vortex.triton.buffers import Buffers
from vortex.triton.choose import KernelChooser, Pool, Setting
from vortex.triton.schedules import StepShape, Tuned, by_rule
from vortex.workload import Workload

Kind = Literal["score", "attend", "full"]
KINDS: tuple[Kind, ...] = ("score", "attend", "full")
# The scores that routing kernels are tuned with: one product with a page's mean key.
PROGRAM = """import vortex as vx
class Centroid(vx.Algorithm):
    page_size = {page}
    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))
    def score(self, q, page):
        return vx.dot(q.mean("head"), page.mean, "dim")
    def select(self, score):
        return vx.top_k(score, tokens={tokens}) | vx.sinks(1) | vx.recent(2)
"""
_REPLAYS, _WRONG = 9, 0.01
_AGAIN = "this process has lost its device: in another"
# Scores within rounding of the cut fall either way between schedules: so many pages may differ.
_DIFFERENT = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """A shape to tune: a target's heads, a workload, a page size and a budget."""

    geometry: Geometry
    workload: Workload
    page_size: int
    tokens: int

    @property
    def candidate(self) -> Candidate:
        """What is run."""
        return compile_text(PROGRAM.format(page=self.page_size, tokens=self.tokens))

    @property
    def shape(self) -> StepShape:
        """The shape under which the result is kept."""
        g, w = self.geometry, self.workload
        return StepShape(
            g.kind, w.batch * g.kv_heads, g.group, g.dim, g.vdim, self.page_size, w.context,
            self.tokens, page_bytes(self.candidate, g),
        )  # fmt: skip


Task = tuple[Job, Kind, Schedule]


def grid(kind: Kind, shape: StepShape) -> Iterator[Schedule]:
    """Schedules to try for one stage, the rule's own first."""
    base = by_rule(shape)
    yield base
    if kind == "score":
        shapes = itertools.product((32, 64, 128), (2, 4, 8), (4, 8, 16), (True, False))
        for block, warps, choose, joined in shapes:
            if not joined or choose == 8:  # joint launches choose with the warps that score
                yield replace(base, score=ScoreSchedule(block, warps, choose, joined))
        return
    tokens = shape.context if kind == "full" else shape.attended
    best = max(1, 264 // shape.rows)
    splits = sorted({max(1, best // 2), best, best * 2, best * 4, 4 if kind == "full" else 1})
    turned = (True, False) if shape.kind == "mla" or shape.rows <= 16 else (False,)
    choices = ((32, 64), (4, 8), (2, 3)) if shape.kind == "mla" else ((32, 64, 128), (4,), (3,))
    for block, warps, stages, turn, split in itertools.product(*choices, turned, splits):
        if split * block <= max(tokens, block):
            part = AttendSchedule(block, split, warps, stages, turn)
            yield replace(base, attend=part, full=part)


@dataclass
class _Bench:
    """Filled layers, and what a stage needs to run on them."""

    job: Job
    pool: Pool
    setting: Setting
    chooser: KernelChooser
    q: list[Tensor]
    out: Tensor
    lists: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def of(job: Job, layers: int | None = None) -> _Bench:
        device = torch.device("cuda")
        pool = filled_pool(job.geometry, job.workload, job.page_size, device, most=layers)
        shape = job.shape
        setting = setting_of(
            job.candidate, job.geometry, job.workload, job.tokens, shape.index_bytes,
            schedule=by_rule(shape),
        )  # fmt: skip
        chooser = KernelChooser(job.candidate, pool, setting)
        chooser.summarise()
        g = torch.Generator(device=device).manual_seed(2)
        size = (job.workload.batch, job.geometry.heads, job.geometry.dim)
        q = [torch.randn(size, device=device, generator=g).to(torch.bfloat16) for _ in pool.caches]
        out = torch.empty(*size[:2], job.geometry.vdim, device=device, dtype=torch.bfloat16)
        bench = _Bench(job, pool, setting, chooser, q, out)
        pages, counts = chooser.choose(0, 0, q[0], ranks=True)
        bench.lists = pages.clone(), counts.clone()
        return bench

    def stage(self, kind: Kind, schedule: Schedule) -> Callable[[int], None]:
        """The stage as a function of the layer."""
        pool, made = self.pool, self.chooser.kernels
        rows, width = pool.table.shape
        device, scale = pool.table.device, self.setting.scale
        if kind == "score":
            buffers = Buffers.of(made, schedule, rows, pool.kv_heads, width, device)
            self.chooser.buffers = buffers
            return lambda layer: route(
                made, schedule, self.q[layer], self.chooser.fields[layer], pool.table,
                pool.lengths, buffers, scale=scale, layer=layer,
            )  # fmt: skip
        part = schedule.attend if kind == "attend" else schedule.full
        space = Workspace.of(rows, self.out.shape[1], self.out.shape[2], part.splits, device)
        pages, counts = self.lists or (pool.table, None)
        if kind == "full":
            pages, counts = pool.table, None
        return lambda layer: attend(
            self.q[layer], pool.cache(layer), pages, counts, pool.lengths, self.out, scale=scale,
            schedule=part, workspace=space,
        )  # fmt: skip

    def tried(self, kind: Kind, schedule: Schedule) -> tuple[Callable[[int], None], Tensor]:
        """The stage, and what its second launch wrote over poison: nothing stale is compared, and
        a counter that the first left set shows."""
        run = self.stage(kind, schedule)
        run(0)
        buffers = self.chooser.buffers
        for written in (buffers.pages, buffers.counts) if kind == "score" else ():
            written.fill_(-1)
        self.out.fill_(float("nan"))
        run(0)
        if kind == "score":
            return run, listed(buffers.pages, buffers.counts)
        return run, self.out.float()


def listed(pages: Tensor, counts: Tensor) -> Tensor:
    """The pages of every list, int64, told apart by their list; what lies behind a list's end is
    left out.

    Args:
        pages: int32 ``[row, kv_head, slot]``; counts: int32 ``[row, kv_head]``.
    """
    used = torch.arange(pages.shape[2], device=pages.device) < counts[..., None]
    number = torch.arange(counts.numel(), device=pages.device).view(*counts.shape, 1)
    return ((number << 32) + pages.long())[used]


def replayed(run: Callable[[int], None], layers: int, replays: int) -> list[float]:
    """Seconds of a layer in each replay of a CUDA graph over the layers, the shortest first."""
    for layer in range(layers):
        run(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            run(layer)
    times = []
    for _ in range(replays + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)) / 1e3 / layers)
    return sorted(times[3:])


def warm(task: Task) -> str | None:
    """Compile a stage in a process of its own; what went wrong, if anything did."""
    job, kind, schedule = task
    if _lost():
        return _AGAIN
    try:
        small = replace(job, workload=replace(job.workload, batch=1))
        _Bench.of(small, layers=1).stage(kind, schedule)(0)
        torch.cuda.synchronize()
    except Exception as error:  # a worker's boundary: an error of ours does not pickle
        return f"{type(error).__name__}: {str(error)[:120]}"
    return None


def _lost() -> bool:
    """Whether an earlier kernel's fault has cost this process its device."""
    try:
        torch.cuda.synchronize()
    except (RuntimeError, AssertionError):  # the latter where torch has no CUDA
        return torch.cuda.is_available()
    return False


def compile_all(jobs: Sequence[Job], processes: int) -> dict[Task, str]:
    """Compile every schedule of every job, each distinct kernel once; the ones that fail.

    Raises:
        VortexError: E615, a process was killed.
    """
    tasks = [(j, k, s) for j in jobs for k in KINDS for s in dict.fromkeys(grid(k, j.shape))]
    same: dict[object, Task] = {}
    for task in tasks:
        same.setdefault(_constants(*task), task)
    found: dict[object, str | None] = {}
    while len(found) < len(same):
        left = {key: task for key, task in same.items() if key not in found}
        answers = _answers(list(left.values()), min(processes, len(left)))
        news = {k: a for k, a in zip(left, answers, strict=True) if a != _AGAIN}
        found |= news or dict.fromkeys(left, "no process kept its device")
    return {t: f for t in tasks if (f := found[_constants(*t)])}


def _answers(tasks: Sequence[Task], processes: int) -> list[str | None]:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=be_the_parents)
    try:
        return list(pool.map(warm, tasks, chunksize=4))
    except BrokenProcessPool:
        raise VortexError(
            "a process that compiles kernels was killed", code="E615",
            hint="memory may have run out; run it again: what was compiled is kept",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)


def be_the_parents() -> None:
    """In a process of the pool: Ctrl-C reaches it too, but when to end is its parent's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def _constants(job: Job, kind: Kind, schedule: Schedule) -> object:
    """What a stage's kernel is compiled for."""
    if kind == "score":
        shape = job.page_size, job.tokens, job.workload.context
        return kind, job.geometry.name, shape, schedule.score
    part = schedule.attend if kind == "attend" else schedule.full
    return kind, job.geometry.name, job.page_size, part


def tune(job: Job, failed: dict[Task, str]) -> Tuned:
    """The fastest schedule of each stage among those whose results are the rule's own.

    Args:
        failed: schedules that do not compile.

    Raises:
        VortexError: E615, the shape does not fit, or nothing runs.
    """
    best = by_rule(job.shape)
    microseconds: dict[str, float] = {}
    try:
        bench = _Bench.of(job)
        for kind in KINDS:
            able = [s for s in dict.fromkeys(grid(kind, job.shape)) if (job, kind, s) not in failed]
            if not able:
                why = next(f for (j, k, _), f in failed.items() if (j, k) == (job, kind))
                raise RuntimeError(f"{kind}: {why}")
            found, seconds = _fastest(bench, kind, able)
            best = _with(best, kind, found)
            microseconds[kind] = round(seconds * 1e6, 2)
    except (RuntimeError, triton.TritonError) as error:
        raise VortexError(
            f"this shape cannot be tuned here: {type(error).__name__}: {str(error)[:200]}",
            code="E615", hint="a smaller --batch or --context needs less memory",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip
    return Tuned(job.shape, best, microseconds)


def _fastest(bench: _Bench, kind: Kind, schedules: Sequence[Schedule]) -> tuple[Schedule, float]:
    """The fastest of the schedules that agree with the first that runs, and seconds of a layer."""
    times: dict[Schedule, float] = {}
    wanted: Tensor | None = None
    why = "results differ"
    for schedule in schedules:
        try:
            run, found = bench.tried(kind, schedule)
            wanted = found if wanted is None else wanted
            if same(kind, found, wanted):
                taken = replayed(run, len(bench.pool.caches), _REPLAYS)
                times[schedule] = statistics.median(taken)
        except (RuntimeError, triton.TritonError) as error:
            why = str(error)[:120]
    if not times:
        raise RuntimeError(f"no schedule of '{kind}' runs: {why}")
    best = min(times, key=lambda s: times[s])
    return best, times[best]


def _with(best: Schedule, kind: Kind, found: Schedule) -> Schedule:
    """A schedule with one stage of another."""
    return Schedule(
        found.score if kind == "score" else best.score,
        found.attend if kind == "attend" else best.attend,
        found.full if kind == "full" else best.full,
    )


def same(kind: Kind, found: Tensor, wanted: Tensor) -> bool:
    """Whether two runs of a stage agree: pages listed but for a few, outputs within bf16."""
    if kind == "score":
        odd = (~torch.isin(found, wanted)).sum() + (~torch.isin(wanted, found)).sum()
        return len(wanted) > 0 and int(odd) <= _DIFFERENT * len(wanted)
    gap = float((found - wanted).norm() / wanted.norm())
    return gap < _WRONG
