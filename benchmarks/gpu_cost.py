"""Holds the cost model against measured steps: ``python benchmarks/gpu_cost.py RESULTS.json``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_kernels import Case, candidate_of
from vortex.cost import price
from vortex.devices import device
from vortex.geometry import GEOMETRIES, Workload


def predicted(case: Case) -> float:
    """Microseconds of one layer's routing and attention, as the cost model has them."""
    base = GEOMETRIES["glm-4.7-flash" if case.latent else "qwen3-1.7b"]
    one = replace(
        base, layers=1, heads=case.kv_heads * case.group, kv_heads=case.kv_heads,
        head_dim=base.head_dim if case.latent else case.dim,
    )  # fmt: skip
    cost = price(candidate_of(case), one, Workload(case.batch, case.context), device("h200"))
    return cost.sparse.attention_seconds * 1e6


def main() -> None:
    """Print a line for each case."""
    found = json.loads(Path(sys.argv[1]).read_text())
    for name, result in found.items():
        if not isinstance(result, dict):
            continue
        measured = result["microseconds"]["step"][0]
        guess = predicted(Case(**result["case"]))
        print(f"{name:20} measured {measured:7.1f}  predicted {guess:7.1f}  "
              f"{guess / measured - 1:+.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
