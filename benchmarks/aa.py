"""A/A: does the stated error describe the noise? Each program against itself on disjoint contexts.

    python benchmarks/aa.py vortex-runs/RUN ...

Every program of the runs that saw all contexts is one pair: its contexts are split at random into
two halves, and the two means should differ by at most 1.64 sqrt(s1^2 + s2^2) in about 90% of the
pairs. Programs share contexts, so pairs are not independent; each has a split of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

from agent.standing import standings
from runs.quality import RANKED_TASKS, by_context, estimate
from runs.store import Store

_CERTAIN = 1.64


def main() -> None:
    """Print the share of pairs within the bound, for each metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    inside: dict[str, list[bool]] = {}
    seen: set[str | None] = set()
    for folder in args.runs:
        store = Store.open_to_read(folder)
        now = standings(store, store.config())
        for standing in now.at_rung(len(now.config.rungs)):
            digest = standing.record.candidate_hash
            if digest in seen:
                continue
            seen.add(digest)
            values: dict[str, Mapping[str, float]] = {"loss gap": standing.losses}
            for task in RANKED_TASKS:
                values[f"{task} nll"] = by_context(standing.samples, task, "nll")
            for name, by_name in values.items():
                rng = random.Random(f"{args.seed}/{digest}")
                inside.setdefault(name, []).append(agrees(by_name, rng))
        store.close()
    report = {
        name: {"pairs": len(pairs), "within": sum(pairs) / len(pairs)}
        for name, pairs in inside.items()
    }
    print(json.dumps(report, indent=2))


def agrees(values: Mapping[str, float], rng: random.Random) -> bool:
    """Whether two disjoint halves differ by no more than their errors allow."""
    names = sorted(values)
    rng.shuffle(names)
    half = len(names) // 2
    a = estimate({n: values[n] for n in names[:half]})
    b = estimate({n: values[n] for n in names[half : 2 * half]})
    assert a is not None and b is not None
    return abs(a.value - b.value) <= _CERTAIN * math.hypot(a.error, b.error)


if __name__ == "__main__":
    main()
