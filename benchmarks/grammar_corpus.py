"""Draws programs from the grammar and holds each against its declarations and the reference.

    python benchmarks/grammar_corpus.py --count 5000

Each must parse, verify, price, keep no more fields and pages than it declares, and choose the same
pages on the CPU backend as by the reference. Structures that share a hash must choose alike.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import torch

from evals.parity import Shape, disagreement
from search_spaces.grammar import program
from vortex.compile import bind, defaults, parse
from vortex.cost import price
from vortex.devices import device
from vortex.errors import VortexError
from vortex.geometry import Workload, geometry
from vortex.ir import Candidate
from vortex.reference import Decoder, summaries
from vortex.storage import field_bytes
from vortex.verify import verify_candidate, verify_program

SHAPE, CONTEXT = Shape(kv_heads=2, group=2, dim=16), 700


def problem_of(seed: int) -> tuple[str, Candidate | None]:
    """What is wrong with a drawn program ("" for nothing), and the program."""
    try:
        parsed = parse(program(seed))
        verify_program(parsed)
        candidate = bind(parsed, defaults(parsed) | {"budget": 512})
        verify_candidate(candidate)
    except VortexError as error:
        return f"does not parse: {error}", None
    return over_declared(candidate, seed) or disagreement(
        candidate, SHAPE, seed=seed
    ) or "", candidate


def over_declared(candidate: Candidate, seed: int) -> str:
    """Whether it keeps more than its price says."""
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(2, CONTEXT, SHAPE.dim, generator=g) for _ in range(2))
    q = torch.randn(2, SHAPE.group, SHAPE.dim, generator=g)
    decoder = Decoder(candidate, scale=0.25, context=CONTEXT, workload_context=CONTEXT)
    model = geometry("qwen3-1.7b")
    declared = price(candidate, model, Workload(1, CONTEXT), device("h200"))
    kept = max(len(pages) for pages in decoder.pages(0, q, k, v)) * candidate.page_size
    # The decoder has one layer, the first: where a budget falls with depth it is the largest.
    if kept > declared.attended_tokens * 1.5 + candidate.page_size:
        return f"attends {kept} tokens, declared {declared.attended_tokens}"
    pages = CONTEXT // candidate.page_size
    numbers = {n: f.data.numel() for n, f in summaries(candidate, k[0], v[0]).items()}
    held = sum(field_bytes(n // pages, candidate.dtype) for n in numbers.values()) if pages else 0
    wide = model.dim // SHAPE.dim
    per_page = sum(
        field_bytes(
            (n // pages) * (wide if "dim" in candidate.fields[name].names else 1), candidate.dtype
        )
        for name, n in numbers.items()
    )
    said = declared.index_bytes_per_token / declared.sparse_layers / model.kv_heads
    return "" if held <= per_page and said >= 0 else f"keeps {held} bytes a page"


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
