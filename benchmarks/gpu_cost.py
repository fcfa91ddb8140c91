"""Holds the cost model against measured points, and fits its figures.

    python benchmarks/gpu_cost.py benchmarks/results/gpu_points_h200.json
    python benchmarks/gpu_cost.py --fit benchmarks/results/gpu_points_h200.json

A random half of the points (``halves``) is fitted; the other half is only held against the
figures of ``vortex/devices.py``. Both halves' errors are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_kernels import Case, candidate_of
from vortex.cost import attention, route_seconds, routing, score_shape
from vortex.devices import Device, device
from vortex.geometry import GEOMETRIES, Workload
from vortex.kernel_cost import attend_seconds, score_seconds

STAGES = ("score", "route", "attend", "step", "full")
FITTED = (
    "bandwidth", "launch_floor", "attend_latency", "program_rate", "latent_whole_rate",
    "merge_latency", "gather_bandwidth", "vector_rate", "query_rate", "pass_latency",
    "page_seconds", "select_rate", "spill",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A measured point: microseconds by stage, and what predicts them for a device."""

    name: str
    latent: bool
    measured: Mapping[str, float]
    predict: Callable[[Device], Mapping[str, float]]


def point(name: str, result: Mapping[str, object]) -> Point:
    """A point of a results file."""
    case = Case(**result["case"])  # type: ignore[arg-type]
    base = GEOMETRIES["glm-4.7-flash" if case.latent else "qwen3-1.7b"]
    one = replace(
        base, layers=1, heads=case.kv_heads * case.group, kv_heads=case.kv_heads,
        head_dim=base.head_dim if case.latent else case.dim,
    )  # fmt: skip
    workload = Workload(case.batch, case.context)
    route = routing(candidate_of(case), one, workload)
    chosen = attention(one, workload, case.tokens, whole=False)
    everything = attention(one, workload, case.context, whole=True)

    def predict(on: Device) -> Mapping[str, float]:
        first = route_seconds(one, workload, on, route) * 1e6
        alone = score_seconds(on, score_shape(one, workload, route)) * 1e6
        second = attend_seconds(on, chosen) * 1e6
        full = attend_seconds(on, everything) * 1e6
        return {
            "score": alone, "route": first, "attend": second, "step": first + second, "full": full,
        }  # fmt: skip

    times: Mapping[str, list[float]] = result["microseconds"]  # type: ignore[assignment]
    return Point(name, case.latent, {s: times[s][0] for s in STAGES}, predict)


def points_of(path: Path) -> list[Point]:
    """Points of a results file of ``gpu_points.py`` or ``gpu_kernels.py``, by name."""
    found = json.loads(path.read_text())
    results = found.get("points", found)
    return [
        point(name, result) for name, result in sorted(results.items())
        if isinstance(result, dict) and "microseconds" in result
    ]  # fmt: skip


def halves(found: list[Point]) -> tuple[list[Point], list[Point]]:
    """(fitted, held out): a random half each, always the same."""
    order = sorted(found, key=lambda p: p.name)
    random.Random(0).shuffle(order)
    return order[: len(order) // 2], order[len(order) // 2 :]


def loss(found: Iterable[Point], on: Device) -> float:
    """Sum of squared logarithms of predicted over measured, large errors cut off."""
    total = 0.0
    for p in found:
        guess = p.predict(on)
        total += sum(
            min(0.25, math.log(guess[s] / p.measured[s]) ** 2) for s in STAGES if s != "step"
        )
    return total


def fit(found: list[Point], on: Device) -> Device:
    """The device with the fitted figures of least loss: one after the other, in shrinking steps."""
    step, best = 0.3, loss(found, on)
    while step > 0.004:
        better = False
        for name in FITTED:
            for factor in (1 + step, 1 / (1 + step)):
                other = replace(on, **{name: getattr(on, name) * factor})
                now = loss(found, other)
                if now < best - 1e-9:
                    on, best, better = other, now, True
        if not better:
            step /= 2
    return on


def errors(found: Iterable[Point], on: Device, stage: str) -> list[float]:
    """Relative errors of a stage, predicted over measured less one."""
    return [p.predict(on)[stage] / p.measured[stage] - 1 for p in found]


def table(found: list[Point], on: Device) -> str:
    """Errors by stage and kind, as Markdown: within 15%, median and worst magnitude."""
    lines = ["| points | stage | within 15% | median | worst |", "|---|---|---|---|---|"]
    kept, held = halves(found)
    groups = [("fitted half", kept), ("held out", held)]
    groups += [(f"held out, {'MLA' if latent else 'GQA'}", [p for p in held if p.latent == latent])
               for latent in (False, True)]  # fmt: skip
    for name, members in groups:
        for stage in STAGES:
            sizes = errors(members, on, stage)
            near = sum(abs(e) <= 0.15 for e in sizes)
            middle = statistics.median(map(abs, sizes))
            lines.append(f"| {name} | {stage} | {near} of {len(sizes)} | {middle:.0%} "
                         f"| {max(sizes, key=abs):+.0%} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--device", default="h200")
    parser.add_argument("--half", action="store_true", help="show lines of the fitted half only")
    arguments = parser.parse_args()
    found, on = points_of(arguments.results), device(arguments.device)
    kept, _ = halves(found)
    if arguments.fit:
        on = fit(kept, on)
        for name in FITTED:
            print(f"{name:18} {getattr(on, name):.3g}")
    for p in kept if arguments.half else found:
        guess = p.predict(on)
        cells = (f"{s} {p.measured[s]:7.1f} {guess[s] / p.measured[s] - 1:+5.0%}" for s in STAGES)
        print(f"{p.name:44}", "  ".join(cells))
    if not arguments.half and len(found) > 20:
        print(table(found, on))


if __name__ == "__main__":
    main()
