"""Times a decode step's kernels on a device, stage by stage, against full attention.

    python benchmarks/gpu_kernels.py --case gqa-32k-b64 --out results.json

Every stage runs over several layers whose touched bytes exceed the cache, in a CUDA graph;
times are medians over replays, per layer.
Outputs are checked against the reference on a few rows first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import triton
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_baselines import BASELINES
from evals.device.tuning import replayed
from vortex.compile import compile_text
from vortex.ir import Candidate
from vortex.reference import attend as reference_attend
from vortex.schedule import Schedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.backend import (
    Fields,
    attend_chosen,
    route,
    summarise_pages,
)
from vortex.triton.buffers import Buffers
from vortex.triton.kernels import Kernels, kernels
from vortex.triton.schedules import StepShape, schedule_for

SEEDS = Path(__file__).resolve().parent.parent / "search_spaces" / "block_topk" / "seeds"
CACHE_BYTES = 200e6


@dataclass(frozen=True)
class Case:
    """A workload: ``tokens`` attended of ``context``, chosen by ``seed`` over pages of ``page``."""

    name: str
    seed: str
    batch: int
    context: int
    page: int
    tokens: int
    kv_heads: int = 8
    group: int = 2
    dim: int = 128
    vdim: int = 128
    latent: bool = False
    fields: str = "bf16"

    @property
    def scale(self) -> float:
        return float(self.dim**-0.5)

    def full_bytes(self) -> int:
        width = self.dim if self.latent else self.dim + self.vdim
        return self.batch * self.kv_heads * self.context * width * 2

    def sparse_bytes(self) -> tuple[int, int]:
        """(fields read, keys and values read)."""
        per = {"block_centroid": 1, "quest": 2, "sub_centroids": 4}[self.seed] * self.dim
        size = {"bf16": 2, "fp8": 1, "int8": 1, "int4": 0.5}[self.fields]
        fields = self.batch * self.kv_heads * (self.context // self.page) * per * size
        return int(fields), int(self.full_bytes() * self.tokens / self.context)


def cases() -> dict[str, Case]:
    found = [Case(f"gqa-32k-b{b}", "block_centroid", b, 32768, 16, 1024) for b in (1, 8, 64)]
    found += [Case("quest-32k-b64", "quest", 64, 32768, 16, 1024)]
    long = Case("gqa-128k-b8", "block_centroid", 8, 131072, 32, 2048)
    found += [long, replace(long, name="gqa-128k-b8-fp8", fields="fp8")]
    found += [replace(long, name="quest-128k-b8", seed="quest")]
    for context, page in itertools.product((32768, 131072), (32, 64)):
        found.append(Case(
            f"mla-{context // 1024}k-b32-p{page}", "block_centroid", 32, context, page, 2048,
            1, 20, 576, 512, True,
        ))  # fmt: skip
    latent = found[-2]
    for batch, context in ((8, 131072), (16, 32768)):  # what an engine is measured with
        found.append(replace(latent, name=f"mla-{context // 1024}k-b{batch}-p64", batch=batch,
                             context=context, page=64))  # fmt: skip
    return {c.name: c for c in found}


def candidate_of(case: Case) -> Candidate:
    text = (SEEDS / f"{case.seed}.py").read_text()
    text = text.replace("vx.Summary(", f'vx.Summary(dtype="{case.fields}", ')
    return compile_text(text, {"budget": case.tokens, "page_size": case.page})


@dataclass
class Bench:
    """Layers of a filled cache, and one set of buffers."""

    case: Case
    kernels: Kernels
    layers: list[tuple[Cache, Fields, Tensor, Tensor]]
    table: Tensor
    lengths: Tensor

    def buffers(self, schedule: Schedule) -> Buffers:
        return Buffers.of(
            self.kernels, schedule, self.case.batch, self.case.kv_heads, self.table.shape[1],
            self.table.device,
        )  # fmt: skip


def prepare(case: Case, layers: int | None = None) -> Bench:
    device = torch.device("cuda")
    width = -(-case.context // case.page)
    total = case.batch * width
    made = kernels(candidate_of(case), Shapes(
        case.group, case.dim, case.vdim, (case.dim - 64, 64) if case.latent else (0, case.dim), 28,
        (case.dim, case.dim if case.latent else case.vdim),
    ))  # fmt: skip
    touched = sum(case.sparse_bytes())
    if layers is None:
        layers = max(1, min(32, math.ceil(CACHE_BYTES / touched)))
    g = torch.Generator(device=device).manual_seed(1)
    table = torch.randperm(total, device=device, generator=g).view(case.batch, width)
    table = table.to(torch.int32)
    lengths = torch.full((case.batch,), case.context, dtype=torch.int32, device=device)
    found = []
    for _ in range(layers):
        k = torch.empty(total, case.kv_heads, case.page, case.dim, dtype=torch.bfloat16,
                        device=device).normal_(generator=g)  # fmt: skip
        v = k[..., : case.vdim] if case.latent else torch.empty(
            total, case.kv_heads, case.page, case.vdim, dtype=torch.bfloat16, device=device
        ).normal_(generator=g)  # fmt: skip
        cache = Cache(k, v, case.page)
        fields = Fields.of(made.summaries.arrays, total, case.kv_heads, device)
        summarise_pages(made, cache, fields, table, lengths)
        heads = case.kv_heads * case.group
        q = torch.randn(case.batch, heads, case.dim, device=device, generator=g)
        out = torch.empty(case.batch, heads, case.vdim, dtype=torch.bfloat16, device=device)
        found.append((cache, fields, q.to(torch.bfloat16), out))
    return Bench(case, made, found, table, lengths)


def timed(run: Callable[[int], None], layers: int, replays: int = 30) -> tuple[float, float]:
    """Microseconds per layer: median and half the interquartile range."""
    times = [t * 1e6 for t in replayed(run, layers, replays)]
    q1, _, q3 = statistics.quantiles(times, n=4)
    return statistics.median(times), (q3 - q1) / 2


def stages(bench: Bench, schedule: Schedule) -> dict[str, Callable[[int], None]]:
    """What is timed, each a function of the layer."""
    case, buffers = bench.case, bench.buffers(schedule)

    def score(layer: int, scores: bool = True, chooses: bool = True) -> None:
        _, fields, q, _ = bench.layers[layer]
        route(bench.kernels, schedule, q, fields, bench.table, bench.lengths, buffers,
              scale=case.scale, layer=layer, scores=scores, chooses=chooses)  # fmt: skip

    def attend(layer: int, everything: bool = False) -> None:
        cache, _, q, out = bench.layers[layer]
        attend_chosen(bench.kernels, schedule, q, cache, bench.table, bench.lengths, buffers, out,
                      scale=case.scale, everything=everything)  # fmt: skip

    def step(layer: int) -> None:
        score(layer)
        attend(layer)

    score(0)
    return {
        "score": lambda at: score(at, True, False), "choose": lambda at: score(at, False, True),
        "route": score, "attend": attend, "step": step, "full": lambda at: attend(at, True),
    }  # fmt: skip


def check(bench: Bench, schedule: Schedule) -> dict[str, float]:
    """Largest relative errors of outputs, sparse and full, on a few rows and heads."""
    case, found = bench.case, {"attend": 0.0, "full": 0.0}
    run = stages(bench, schedule)
    cache, _, q, out = bench.layers[0]
    buffers = bench.buffers(schedule)
    for name in tuple(found):
        out.fill_(float("nan"))
        if name == "attend":
            route(bench.kernels, schedule, q, bench.layers[0][1], bench.table, bench.lengths,
                  buffers, scale=case.scale, layer=0)  # fmt: skip
            attend_chosen(bench.kernels, schedule, q, cache, bench.table, bench.lengths, buffers,
                          out, scale=case.scale)  # fmt: skip
        else:
            run["full"](0)
        for row, head in {(0, 0), (case.batch - 1, case.kv_heads - 1)}:
            count = int(buffers.counts[row, head])
            pages = buffers.pages[row, head, :count] if name == "attend" else bench.table[row]
            keys = cache.k[pages.long(), head].reshape(-1, case.dim).float().cpu()
            values = cache.v[pages.long(), head].reshape(-1, case.vdim).float().cpu()
            mine = slice(head * case.group, (head + 1) * case.group)
            exact = reference_attend(
                q[row, mine].float().cpu(), keys, values, set(range(len(pages))),
                page_size=case.page, scale=case.scale,
            )  # fmt: skip
            gap = (out[row, mine].float().cpu() - exact).norm() / exact.norm()
            found[name] = max(found[name], float(gap) if torch.isfinite(gap) else math.inf)
        if name == "attend" and count * case.page != case.tokens:
            raise SystemExit(f"{count} pages of {case.page} tokens chosen, not {case.tokens}")
    return found


def copy_bandwidth() -> float:
    """Bytes per second of a large copy on the device, read and written."""
    a = torch.empty(2**30, dtype=torch.bfloat16, device="cuda").normal_()
    b = torch.empty_like(a)
    time_us, _ = timed(lambda _: torch.mul(a, 2.0, out=b), 1)
    return 2 * a.numel() * 2 / time_us * 1e6


def others(bench: Bench) -> dict[str, object]:
    """Microseconds of every other full attention that loads and agrees with ours, or why not."""
    found: dict[str, object] = {}
    ours = bench.layers[0][3]
    stages(bench, Schedule())["full"](0)
    for name, make in BASELINES.items():
        try:
            run = make(bench)
            gap = float((run(0).float() - ours.float()).norm() / ours.float().norm())
            if not gap < 0.01:
                raise ValueError(f"outputs differ by {gap:.3f}")
            found[name] = [round(x, 2) for x in timed(lambda at, r=run: r(at), len(bench.layers))]
        except Exception as error:  # a package that cannot run the shape is a row, too
            found[name] = f"{type(error).__name__}: {str(error)[:100]}"
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return found


def measure(case: Case, schedule: Schedule, copy: float) -> dict[str, object]:
    """Times of every stage, after a check of the outputs."""
    bench = prepare(case)
    errors = check(bench, schedule)
    if max(errors.values()) > 0.01:
        raise SystemExit(f"{case.name}: wrong outputs, {errors}")
    runs = stages(bench, schedule)
    times = {n: timed(f, len(bench.layers)) for n, f in runs.items()}
    fields, attended = case.sparse_bytes()
    best = {n: t[0] for n, t in times.items()}
    rivals = others(bench)
    known = [t[0] for t in rivals.values() if isinstance(t, list)]
    fastest = min([best["full"], *known])
    return {
        "case": asdict(case), "schedule": asdict(schedule), "errors": errors,
        "layers": len(bench.layers),
        "microseconds": {n: [round(x, 2) for x in t] for n, t in times.items()},
        "tb_per_s": {
            "score": fields / best["score"] / 1e6, "attend": attended / best["attend"] / 1e6,
            "full": case.full_bytes() / best["full"] / 1e6, "copy": copy / 1e12,
        },
        "others": rivals, "speedup_over_own": best["full"] / best["step"],
        "speedup": fastest / best["step"],
        "ideal": case.full_bytes() / (fields + attended),
    }  # fmt: skip


def schedule_of(case: Case) -> Schedule:
    """The schedule that a search would run with here."""
    fields = case.sparse_bytes()[0] * case.page // (case.batch * case.kv_heads * case.context)
    shape = StepShape(
        "mla" if case.latent else "gqa", case.batch * case.kv_heads, case.group, case.dim,
        case.vdim, case.page, case.context, case.tokens, fields,
    )  # fmt: skip
    return schedule_for(torch.cuda.get_device_name(), shape)


def main() -> None:
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", choices=sorted(known))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results: dict[str, object] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__, "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    copy = copy_bandwidth()
    results["copy_tb_per_s"] = copy / 1e12
    print(results, flush=True)
    for name in arguments.case or sorted(known):
        try:
            found = measure(known[name], schedule_of(known[name]), copy)
        except torch.OutOfMemoryError as error:
            found = {"error": str(error)[:120]}
        torch.cuda.empty_cache()
        results[name] = found
        print(name, json.dumps(found.get("microseconds", found))[:600], flush=True)
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
