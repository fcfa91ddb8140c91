"""Times a decode step's kernels over many shapes, to calibrate the cost model.

    python benchmarks/gpu_points.py --out points.json

Each point is measured as in ``benchmarks/gpu_kernels.py``: every stage in a CUDA graph over layers
that exceed the cache, after a check of the outputs. Schedules are a rule of the shape, not tuned.
The file is written after every point; points that it already holds are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_kernels import Case, check, copy_bandwidth, others, prepare, stages, timed
from vortex.kernel_cost import Attend, split_count
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.triton.backend import attend_chosen

COLD_BYTES = 120e6  # touched between two uses of a line: more than twice the second-level cache
MOST_BYTES = 80e9
MOST_LAYERS = 96
REPLAYS = 15
MULTIPROCESSORS = 132

# query heads of a KV head (20: MLA), seed, fields, page, attended tokens, context / 1024, batches
PLAN: tuple[tuple[int, str, str, int, int, int, tuple[int, ...]], ...] = (
    (2, "block_centroid", "bf16", 16, 512, 4, (1, 8, 64)),
    (2, "block_centroid", "bf16", 16, 1024, 32, (1, 4, 16, 64)),
    (2, "block_centroid", "bf16", 32, 1024, 16, (4, 16, 64)),
    (2, "block_centroid", "bf16", 64, 2048, 32, (8, 32)),
    (2, "block_centroid", "bf16", 32, 2048, 128, (1, 8, 32)),
    (2, "block_centroid", "bf16", 64, 4096, 128, (4, 16)),
    (2, "block_centroid", "bf16", 16, 2048, 128, (4, 16)),
    (2, "block_centroid", "fp8", 16, 1024, 32, (4, 32)),
    (2, "block_centroid", "fp8", 32, 2048, 128, (8, 32)),
    (2, "quest", "bf16", 16, 1024, 32, (1, 8, 32)),
    (2, "quest", "bf16", 32, 2048, 64, (4, 16, 64)),
    (2, "quest", "fp8", 16, 1024, 16, (8, 64)),
    (2, "sub_centroids", "bf16", 32, 1024, 32, (1, 16)),
    (2, "sub_centroids", "bf16", 64, 2048, 128, (4, 16)),
    (4, "block_centroid", "bf16", 16, 1024, 32, (1, 8, 64)),
    (4, "block_centroid", "fp8", 64, 4096, 128, (8, 32)),
    (4, "quest", "bf16", 32, 2048, 64, (4, 16)),
    (4, "quest", "fp8", 16, 512, 4, (4, 32)),
    (4, "sub_centroids", "bf16", 16, 512, 8, (8, 64)),
    (4, "sub_centroids", "fp8", 32, 1024, 16, (1, 16)),
    (20, "block_centroid", "bf16", 64, 512, 4, (16, 64)),
    (20, "block_centroid", "bf16", 32, 1024, 16, (4, 32)),
    (20, "block_centroid", "bf16", 64, 2048, 32, (1, 8, 32, 64)),
    (20, "block_centroid", "bf16", 32, 2048, 128, (4, 16, 64)),
    (20, "block_centroid", "bf16", 64, 4096, 128, (8, 32)),
    (20, "block_centroid", "fp8", 16, 2048, 64, (1, 16)),
    (20, "quest", "bf16", 64, 1024, 32, (8, 64)),
)


def points() -> list[Case]:
    """Every point, in an order that covers the plan early if the run is cut off."""
    found = []
    for group, seed, fields, page, tokens, kilo, batches in PLAN:
        latent = group == 20
        shape = (1, 20, 576, 512, True) if latent else (8, group, 128, 128, False)
        for batch in batches:
            name = f"{'mla' if latent else f'gqa{group}'}-{seed}-{fields}-{kilo}k-p{page}-b{batch}"
            found.append(Case(name, seed, batch, kilo * 1024, page, tokens, *shape, fields))
    random.Random(0).shuffle(found)
    return found


def schedule_of(case: Case) -> Schedule:
    """A schedule for a shape: the rule behind the schedules that tuning found on an H200."""
    rows, pages = case.batch * case.kv_heads, case.context // case.page
    widest = {"block_centroid": 128, "quest": 128, "sub_centroids": 64}[case.seed]
    if case.group > 3 and case.seed != "block_centroid":
        widest = 16 if case.latent else 32
    if case.latent:
        widest = min(widest, 64)
    block = widest
    while block > 32 and rows * (pages // block) < MULTIPROCESSORS:
        block //= 2
    warps = 4 if case.seed == "block_centroid" else 8
    score = ScoreSchedule(block=block, warps=warps)
    lists, whole = (
        split_count(MULTIPROCESSORS, Attend(rows, tokens, 2 * case.dim, case.latent, everything))
        for tokens, everything in ((case.tokens, False), (case.context, True))
    )
    if case.latent:
        attend = AttendSchedule(64, lists, 4, 2, transposed=True)
        return Schedule(score, attend, AttendSchedule(64, whole, 4, 2))
    attend = AttendSchedule(32 if lists == 1 else 64, lists, 4, 3)
    return Schedule(score, attend, AttendSchedule(64, whole, 4, 3))


def layers_of(case: Case) -> int:
    """Layers that keep each stage's reads out of the cache, within the memory."""
    least = min(case.sparse_bytes())
    room = MOST_BYTES / (case.full_bytes() + case.sparse_bytes()[0])
    return max(1, min(MOST_LAYERS, math.ceil(COLD_BYTES / least), int(room)))


def warm(job: tuple[str, Case, Schedule]) -> str | None:
    """Compile what a stage needs, in a process of its own; the message if it fails."""
    kind, case, schedule = job
    try:
        small = prepare(replace(case, batch=1), layers=1)
        if kind == "score":
            run = stages(small, schedule)
            for name in ("score", "choose", "route"):
                run[name](0)
        else:
            cache, _, q, out = small.layers[0]
            attend_chosen(small.kernels, schedule, q, cache, small.table, small.lengths,
                          small.buffers(schedule), out, scale=case.scale,
                          everything=kind == "full")  # fmt: skip
        torch.cuda.synchronize()
    except Exception as error:
        return f"{kind} {case.name}: {type(error).__name__}: {str(error)[:200]}"
    return None


def warm_jobs(wanted: list[Case]) -> list[tuple[str, Case, Schedule]]:
    """One job for each distinct set of constants; the longest rows first."""
    found: dict[tuple[object, ...], tuple[str, Case, Schedule]] = {}
    for case in wanted:
        schedule = schedule_of(case)
        shape = (case.group, case.page)
        text = (*shape, case.seed, case.fields, case.tokens, case.context, schedule.score)
        found.setdefault(("score", *text), ("score", case, schedule))
        plain = replace(case, seed="block_centroid", fields="bf16", context=4096, tokens=512)
        for kind, part in (("attend", schedule.attend), ("full", schedule.full)):
            found.setdefault((kind, *shape, part), (kind, plain, schedule))
    return sorted(found.values(), key=lambda j: (j[0] != "score", -j[1].context // j[1].page))


def compile_all(wanted: list[Case], processes: int, seconds: float) -> list[str]:
    """Compile for every point; what failed or was not ready in time."""
    started, jobs = time.time(), warm_jobs(wanted)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        waiting = [(job, pool.apply_async(warm, (job,))) for job in jobs]
        failed = []
        for (kind, case, _), result in waiting:
            try:
                failed.append(result.get(max(0.1, started + seconds - time.time())))
            except multiprocessing.TimeoutError:
                failed.append(f"{kind} {case.name}: not compiled in {seconds:.0f} s")
        pool.terminate()
    print(f"{len(jobs)} jobs compiled in {time.time() - started:.0f} s", flush=True)
    return [message for message in failed if message]


@triton.jit
def _nothing(at, zero: tl.constexpr):
    """A program that reads and writes one number."""
    tl.store(at, tl.load(at) + zero)


def _launch_nothing(at: Tensor, programs: int, _: int) -> None:
    _nothing[(programs,)](at, zero=0.0)


def _copy(source: Tensor, target: Tensor, at: int) -> None:
    torch.mul(source[at], 2.0, out=target[at])


def plain_launches() -> dict[str, float]:
    """Microseconds of kernels that do next to nothing, and of copies by bytes read."""
    at = torch.zeros(1, device="cuda")
    found = {}
    for programs in (1, 132, 1056, 4096):
        run = partial(_launch_nothing, at, programs)
        found[f"empty, {programs} programs"] = timed(run, 64, REPLAYS)[0]
    for power in range(20, 31, 2):
        count = max(1, min(128, math.ceil(COLD_BYTES / 2**power)))
        a = torch.ones(count, 2**power // 2, dtype=torch.bfloat16, device="cuda")
        run = partial(_copy, a, torch.empty_like(a))
        found[f"copy, {2**power} bytes read"] = timed(run, count, REPLAYS)[0]
    return found


def measure(case: Case) -> dict[str, object]:
    """Times of every stage of a point, after a check of its outputs."""
    schedule = schedule_of(case)
    bench = prepare(case, layers_of(case))
    errors = check(bench, schedule)
    if max(errors.values()) > 0.01:
        raise ValueError(f"wrong outputs, {errors}")
    times = {n: timed(f, len(bench.layers), REPLAYS) for n, f in stages(bench, schedule).items()}
    return {
        "case": asdict(case), "schedule": asdict(schedule), "errors": errors,
        "layers": len(bench.layers),
        "microseconds": {n: [round(x, 2) for x in t] for n, t in times.items()},
        **({"others": others(bench)} if case.latent and case.page == 64 else {}),
    }  # fmt: skip


def header() -> dict[str, object]:
    """What was measured, on what, with what."""
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__, "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%d"), "copy_tb_per_s": copy_bandwidth() / 1e12,
        "replays": REPLAYS, "plain_microseconds": plain_launches(), "points": {},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--compile-seconds", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=400, help="no point starts after these")
    parser.add_argument("--only", default="", help="points whose name holds all of these words")
    arguments = parser.parse_args()
    started = time.time()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    done = results.get("points", {})
    wanted = [c for c in points() if "microseconds" not in done.get(c.name, {})]
    wanted = [c for c in wanted if all(w in c.name for w in arguments.only.split())]
    failures = compile_all(wanted, arguments.processes, arguments.compile_seconds)
    print("\n".join(failures), flush=True)
    if not results:
        results = header()
        arguments.out.write_text(json.dumps(results, indent=1))
    for case in wanted:
        if time.time() - started > arguments.seconds:
            print("out of time; run again to go on", flush=True)
            break
        if any(f.startswith(f"score {case.name}:") for f in failures):
            continue
        try:
            found = measure(case)
        except (Exception, SystemExit) as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        torch.cuda.empty_cache()
        results["points"][case.name] = found
        arguments.out.write_text(json.dumps(results, indent=1))
        print(f"{time.time() - started:.0f} s", case.name,
              json.dumps(found.get("microseconds", found)), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
