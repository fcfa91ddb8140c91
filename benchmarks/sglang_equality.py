"""Whether an unedited SGLang serves a program right: tokens and pages, one command, two minutes.

    python benchmarks/sglang_equality.py --out results    # --shape mla, --tp 2, --model FOLDER
    python benchmarks/sglang_equality.py --policies "reuse = vx.reuse(layers=1, steps=3)"

An engine of a small model of random weights (``--model``: a checkpoint and its own). Requests that
the budget covers, mixed lengths, shared prefixes, retraction forced: the same tokens by sparse
steps and by the inner backend's, which one switch chooses between in one engine. Then longer
requests, whose chosen pages are held against the reference executor.

``--device cpu`` runs grouped queries with Triton's interpreter, where SGLang itself starts there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.engine_runs import Stage, centroid, run_stage, say  # noqa: E402
from benchmarks.small_models import SHAPES, model_folder  # noqa: E402
from vortex.serving.sglang.check import (  # noqa: E402
    TOPS,
    Switch,
    difference,
    engine,
    generated,
    near,
    tokens,
)

PAGES = {"gqa": 16, "mla": 64}  # FlashMLA's is 64


@dataclass(frozen=True)
class Sizes:
    """How much is asked for: many requests, tokens of replies, of the longest prompt, of the pool
    as a share of what all need, and of requests beyond the budget."""

    budget: int = 1024
    many: int = 64
    out: int = 96
    longest: int = 900
    share: float = 0.6
    beyond: tuple[int, ...] = (2100, 3333, 6000)


_CPU = Sizes(budget=128, many=6, out=40, longest=80, share=0.75, beyond=(150, 211, 300))


def sizes(device: str) -> Sizes:
    """Of a device."""
    return _CPU if device == "cpu" else Sizes()


# -- in the engine -----------------------------------------------


def equality(args: argparse.Namespace, scratch: Path) -> None:
    """See the module."""
    cpu, n, page = args.device == "cpu", sizes(args.device), PAGES[args.shape]
    shape = args.shape + ("-tiny" if cpu else "")
    model = args.model or model_folder(scratch / "model", shape, device=args.device)
    source = text_of(model) if args.model else _Random(SHAPES[shape]["vocab_size"])
    shared = source(n.longest // 3, 1)
    prompts = [
        (shared if i % 2 else []) + source(5 + (i * 53) % (n.longest - len(shared)), 10 + i)
        for i in range(n.many)
    ]
    switch = Switch(scratch / "switch")
    # The pool is too small for all at once, and the scheduler is told to be bold: it retracts.
    total = int(sum(len(p) + n.out for p in prompts) * n.share)
    began = time.perf_counter()
    made = engine(
        str(model), page_size=page, log_level="info", context_length=max(n.beyond) + 64,
        chunked_prefill_size=256, max_total_tokens=max(total, max(n.beyond) + 64) // page * page,
        max_running_requests=n.many, schedule_conservativeness=0.1,
        mem_fraction_static=0.05 if cpu else 0.4, cuda_graph_backend_prefill=args.prefill,
        **({"device": "cpu", "disable_cuda_graph": True} if cpu else {}),
        **({} if cpu else {"cuda_graph_bs_decode": [8, n.many]}),
        **({"tp_size": args.tp, "disable_custom_all_reduce": True} if args.tp > 1 else {}),
    )  # fmt: skip
    say(what="engine", shape=str(args.model or shape), ranks=args.tp, program=args.policies,
        start_seconds=round(time.perf_counter() - began, 1))  # fmt: skip
    ask = {"return_logprob": True, "top_logprobs_num": TOPS}
    first = None
    # Prefixes cached, in another order: rows and chunks of other sizes show what rounding does.
    for run, mode, turned in (
        ("dense", "d", False), ("dense again", "d", False), ("dense, other order", "d", True),
        ("sparse", "s", False), ("by rule", "-", False),
    ):  # fmt: skip
        switch(mode)
        if not turned:
            made.flush_cache()
        replies = generated(made, prompts[::-1] if turned else prompts, n.out, **ask)
        first = first or replies
        if run != "dense":
            found = difference(first, replies[::-1] if turned else replies)
            say(what="tokens", against="dense", run=run, near=near(found), **found)
    switch("s")
    made.flush_cache()
    generated(made, [source(count, i) for i, count in enumerate(n.beyond)], 6)
    made.shutdown()
    chosen_pages(Path(args.tapped))


@dataclass(frozen=True)
class _Random:
    """Tokens of no meaning."""

    vocab: int

    def __call__(self, count: int, seed: int) -> list[int]:
        return tokens(count, seed, self.vocab)


def text_of(model: Path) -> Callable[[int, int], list[int]]:
    """Tokens of the contexts that searches are judged on, for a checkpoint's tokenizer."""
    from evals.contexts import ContextSpec, build_context
    from evals.models.load import load_model

    tokenizer = load_model(str(model)).tokenizer

    def source(count: int, seed: int) -> list[int]:
        built = build_context(ContextSpec("search", seed, max(count, 512)), tokenizer)
        return list(built.tokens[:count])

    return source


def chosen_pages(tapped: Path) -> None:
    """Hold what the tap kept against the reference."""
    from vortex.exported import read_exported
    from vortex.serving.equality import Agreement, compare, read_choice

    candidate = read_exported(Path(os.environ["SGLANG_VORTEX_PROGRAM"])).candidate
    files = sorted(tapped.rglob("*.safetensors"))
    total, lengths = Agreement(), set()
    for file in files:
        choice = read_choice(file)
        lengths.add(choice.length)
        total = total.plus(compare(candidate, choice))
    say(what="pages", files=len(files), lengths=sorted(lengths), lists=total.lists,
        pages=total.pages, near_the_cut=total.near, wrong=total.wrong)  # fmt: skip


# -- the parent --------------------------------------------------


def main() -> None:
    """Run the engine in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=PAGES, default="gqa")
    parser.add_argument("--model", type=Path, help="a checkpoint, served with its own weights")
    parser.add_argument("--program", type=Path, help="an export to serve instead of a centroid")
    parser.add_argument("--policies", default="", help="a line for the program, as `reuse = ...`")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--prefill", help="its CUDA graphs; else breakable, none on MLA")
    parser.add_argument("--tp", type=int, default=1, help="ranks of tensor parallelism")
    for hidden in ("--scratch", "--tapped"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.prefill = args.prefill or {"gqa": "breakable", "mla": "disabled"}[args.shape]
    if args.device == "cpu" and args.shape == "mla":
        parser.error("SGLang has no MLA on a CPU without its compiled kernels")
    if args.tapped:
        equality(args, Path(args.scratch))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    tapped = tempfile.mkdtemp(prefix="tap-")
    program = args.program.resolve() if args.program else centroid(
        sizes(args.device).budget, page=PAGES[args.shape], more=args.policies
    )  # fmt: skip
    model = ["--model", str(args.model.resolve())] if args.model else []  # it runs elsewhere
    stage = Stage(
        "equality", __file__, [*sys.argv[1:], *model, "--tapped", tapped], program,
        {"SGLANG_VORTEX_TAP": tapped, "SGLANG_VORTEX_TAP_STEPS": "3"},
    )  # fmt: skip
    found = run_stage(stage, args.out, args.seconds, args.device)
    right = found and found[-1]["what"] == "pages" and not found[-1]["wrong"]
    # A ranking kept for steps leaves pages out by definition: its tokens are its own.
    right = right and all(x["near"] or "steps" in args.policies for x in found if "near" in x)
    print("right" if right else "NOT RIGHT", flush=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
