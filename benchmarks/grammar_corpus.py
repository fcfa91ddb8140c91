"""Draws programs from the grammar and holds each against its declarations and the reference.

    python benchmarks/grammar_corpus.py --count 5000

Each must parse, verify, price, keep the fields that it declares and no more pages, and choose the
same pages on the CPU backend as by the reference.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import torch

from evals.declared import over_declared, shaped
from evals.parity import Shape, disagreement
from search_spaces.grammar import program
from vortex.compile import bind, defaults, parse
from vortex.cost import price
from vortex.devices import device
from vortex.errors import VortexError
from vortex.geometry import Workload
from vortex.ir import Candidate
from vortex.verify import verify_candidate, verify_program

SHAPE, CONTEXT = Shape(kv_heads=2, group=2, dim=16), 700


def problem_of(seed: int) -> tuple[str, Candidate | None]:
    """What is wrong with a drawn program ("" for nothing), and the program."""
    try:
        parsed = parse(program(seed))
        verify_program(parsed)
        candidate = bind(parsed, defaults(parsed) | {"budget": 512})
        verify_candidate(candidate)
        price(candidate, shaped(SHAPE), Workload(1, CONTEXT), device("h200"))
    except VortexError as error:
        return f"does not parse: {error}", None
    problem = over_declared(candidate, SHAPE, context=CONTEXT, seed=seed)
    return problem or disagreement(candidate, SHAPE, seed=seed) or "", candidate


def main() -> None:
    """Print a line of JSON: how many hold, and the first failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    hashes: Counter[str] = Counter()
    failures = {}
    for seed in range(args.first, args.first + args.count):
        problem, candidate = problem_of(seed)
        if problem:
            failures[seed] = problem
        if candidate is not None:
            hashes[candidate.candidate_hash] += 1
    print(json.dumps({
        "programs": args.count, "hold": args.count - len(failures), "distinct": len(hashes),
        "failures": dict(list(failures.items())[:20]),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
