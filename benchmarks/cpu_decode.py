"""Decode on this CPU: every seed against full attention, at the same share of the tokens.

python benchmarks/cpu_decode.py --share 0.25 --context 8128 --batch 4
"""

from __future__ import annotations

import argparse
import json

import torch

from evals.contexts import ContextSpec, build_context
from evals.evaluator import environment
from evals.models.load import load_model
from evals.prefill import prefill
from evals.throughput import Bench, measure
from search_spaces.block_topk import seeds
from vortex.compile import compile_text


def main() -> None:
    """Print one line of JSON per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--context", type=int, default=8128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", nargs="*", help="names; all when none is given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model("smollm2-135m")
    found = [
        prefill(model, build_context(ContextSpec("search", i), model.tokenizer)) for i in range(4)
    ]
    kv = torch.cat([p.kv for p in found], 3)
    print(json.dumps({**environment(), **vars(args)}))
    for seed in seeds():
        if args.seeds and seed.name not in args.seeds:
            continue
        workload = 32768
        candidate = compile_text(seed.text, {"budget": int(args.share * workload)})
        bench = Bench(kv, args.batch, args.context, args.pairs, workload, frozenset())
        timing = measure(model, candidate, bench)
        print(
            json.dumps(
                {
                    "seed": seed.name, "speedup": timing.speedup, "error": timing.speedup_error,
                    "tokens_per_second": timing.tokens_per_second,
                    "full_tokens_per_second": timing.full_tokens_per_second,
                    "pairs": timing.pairs, "mismatch": timing.mismatch,
                }
            )
        , flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
