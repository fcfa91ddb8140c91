"""Decode throughput of served shapes inside SGLang, sparse against full attention of one engine.

    python benchmarks/sglang_models.py --cases 8b,glm --seconds 560 --out results

Random weights of a model's shape: timing only. They send every token to the same experts, unless
SGLang is told to ``spread`` tokens. Each case is an engine; steps are full attention's by the inner
backend (d), a centroid's (s), or what the default rule says (-), which one switch
chooses between, turn by turn; ``plain`` cases are an engine without the plugin. ``full`` rows are
as many as the engine's cache holds. The byte-ideal is the quotient of the bytes that a step must
move, weights included.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.engine_runs import Stage, centroid, run_stage, say  # noqa: E402
from evals.engine.shapes import shape_folder  # noqa: E402
from vortex.cost import price  # noqa: E402
from vortex.devices import DEVICES  # noqa: E402
from vortex.exported import read_exported  # noqa: E402
from vortex.geometry import from_config  # noqa: E402
from vortex.serving.sglang.check import (  # noqa: E402
    Switch,
    decode_rate,
    engine,
    generated,
    tokens,
)
from vortex.workload import Workload  # noqa: E402

Rows = int | Literal["full", "half"]
FEW = 8  # tokens of the shorter of two replies whose difference is decoding alone


@dataclass(frozen=True)
class Load:
    """What is decoded at once.

    Attributes:
        rows: sequences, or as many as the engine's cache holds, or half of them.
        context: tokens of each.
        modes: of the switch, timed in turn; the first is what the others are held against.
        many: tokens of the longer reply; pairs: how often each mode is timed.
    """

    rows: Rows
    context: int
    modes: str = "ds"
    many: int = 136
    pairs: int = 2


@dataclass(frozen=True)
class Case:
    """What is served, and under which loads.

    Attributes:
        budget: tokens attended; page: the program's; engine_page: SGLang's.
        more: a line of the program's policies.
        layers: the first so many of the model's, where it does not fit.
        memory: share of the device for weights and cache.
        plain: another backend than ours, alone; prefill: one for that besides.
        first: tokens of prompts whose first token is timed.
        spread: tokens go to experts drawn at random, as many as a trained router's would reach.
    """

    model: str
    budget: int
    page: int
    loads: tuple[Load, ...]
    engine_page: int = 0
    more: str = ""
    layers: int | None = None
    memory: float = 0.85
    plain: str = ""
    prefill: str = ""
    first: int = 0
    spread: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(load.context + load.many for load in self.loads) + 64

    @property
    def graphs(self) -> list[int]:
        """Batch sizes that are captured."""
        few = {load.rows for load in self.loads if isinstance(load.rows, int)}
        return sorted(few) if len(few) == len({load.rows for load in self.loads}) else _EVERY


_EVERY = [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64]
_LONG = (Load("half", 32500), Load("full", 32500), Load("half", 65000), Load("full", 65000))
_TWO = (Load(16, 32500), Load(32, 16200))
_SHORT = (1000, 2000, 4000)
_BY_RULE = tuple(Load(8, n, modes="d-", many=392, pairs=6) for n in _SHORT)
_ALONE = tuple(Load(8, n, modes="d", many=392, pairs=6) for n in _SHORT)
_GLM = (Load(16, 32500), Load(8, 130800))
CASES = {
    "1.7b": Case("qwen3-1.7b", 1024, 16, (*_BY_RULE, *_TWO, Load("full", 32500)), first=8192),
    "1.7b-plain": Case(
        "qwen3-1.7b", 1024, 16, (*_ALONE, Load(16, 32500, "d")), plain="fa3", first=8192
    ),
    "1.7b-dense2": Case("qwen3-1.7b", 1024, 16, _TWO, more="dense_layers = vx.layers(first=2)"),
    "1.7b-reuse": Case("qwen3-1.7b", 1024, 16, _TWO, more="reuse = vx.reuse(layers=1, steps=4)"),
    "4b": Case("qwen3-4b", 2048, 32, _LONG),
    "8b": Case("llama-3.1-8b", 2048, 32, _LONG),
    "glm": Case("glm-4.7-flash", 2048, 64, _GLM, 64, memory=0.88),
    "glm-triton": Case(
        "glm-4.7-flash", 2048, 64, (Load(16, 32500, "d"),), 64, memory=0.88, plain="triton",
        prefill="flashmla",  # Triton's takes minutes
    ),
    "glm-spread": Case("glm-4.7-flash", 2048, 64, _GLM[:1], 64, memory=0.88, spread=True),
    "glm-spread-long": Case("glm-4.7-flash", 2048, 64, _GLM[1:], 64, memory=0.88, spread=True),
    "m2": Case("minimax-m2.7", 2048, 32, (Load(16, 32500),), layers=12, memory=0.9, spread=True),
    "tiny": Case(
        "tiny", 64, 16, (Load(2, 90, "d-", many=6), Load("half", 150, many=6)), memory=0.05,
        first=40,
    ),
}  # fmt: skip


# -- in the engine -----------------------------------------------


def measure(name: str, scratch: Path, device: str) -> None:
    """Run a case in this process."""
    case = CASES[name]
    model = _folder(case, scratch / "model")
    vocab = from_config(model).vocab
    switch = Switch(scratch / "switch")
    began = time.perf_counter()
    made = engine(
        str(model), case.plain or "vortex", page_size=case.engine_page or case.page,
        log_level="info", load_format="dummy", mem_fraction_static=case.memory,
        **_settings(case, device),
    )  # fmt: skip
    room = int(made.get_server_info()["max_total_num_tokens"])
    say(case=name, what="engine", backend=case.plain or "vortex", room=room,
        start_seconds=round(time.perf_counter() - began, 1))  # fmt: skip
    if case.first:
        say(case=name, what="first token", length=case.first,
            seconds=first_token(made, case.first, vocab))  # fmt: skip
    held: list[list[int]] = []
    for load, rows in sorted(_counted(case, room), key=lambda x: (x[0].context, -x[1])):
        if not held or load.context != len(held[0]):
            made.flush_cache()
            held = [tokens(load.context, 7 * load.context + i, vocab) for i in range(rows)]
            switch("d")
            generated(made, held, 2)  # the prefix cache has the prompts from here on
        rates = _rates(made, switch, load, held[:rows])
        say(case=name, what="decode tokens/s", rows=rows, context=load.context, by_mode=rates,
            **_ratio(load, rates), byte_ideal=_ideal(model, rows, load.context))  # fmt: skip
    made.shutdown()


def _folder(case: Case, folder: Path) -> Path:
    if case.model != "tiny":
        return shape_folder(case.model, folder, case.longest, layers=case.layers)
    from benchmarks.small_models import model_folder

    return model_folder(folder, "gqa-tiny", device="cpu")


def _settings(case: Case, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "context_length": case.longest, "max_running_requests": 64, "chunked_prefill_size": 16384,
    }  # fmt: skip
    if case.prefill:
        found["prefill_attention_backend"] = case.prefill
    if device == "cpu":
        return found | {"device": "cpu", "disable_cuda_graph": True, "max_total_tokens": 1024}
    return found | {"cuda_graph_backend_prefill": "disabled", "cuda_graph_bs_decode": case.graphs}


def _counted(case: Case, room: int) -> Iterator[tuple[Load, int]]:
    """Loads with their rows counted."""
    page = case.engine_page or case.page
    for load in case.loads:
        tokens_each = -(-(load.context + load.many + 1) // page) * page
        most = min(max(case.graphs), (room - page) // tokens_each)
        count = {"full": most, "half": most // 2}.get(str(load.rows), load.rows)
        yield load, min(int(count), most)


def first_token(made: Any, length: int, vocab: int) -> list[float]:
    """Seconds to the first token of prompts that no cache holds; the first two warm up."""
    found = []
    for i in range(10):
        prompt = tokens(length, 900 + i, vocab)
        began = time.perf_counter()
        generated(made, [prompt], 1)
        found.append(round(time.perf_counter() - began, 4))
    return found[2:]


def _rates(
    made: Any, switch: Switch, load: Load, prompts: list[list[int]]
) -> dict[str, list[float]]:  # fmt: skip
    """Tokens/s of each mode, its turns in order."""
    few = min(FEW, load.many // 2)
    for mode in load.modes:
        switch(mode)
        replies = generated(made, prompts, few)
    least = min(r["meta_info"]["cached_tokens"] for r in replies)
    if least < len(prompts[0]) - 2 * 64:  # pages of at most 64
        raise SystemExit(f"of {len(prompts[0])} tokens the prefix cache has {least} only")
    rates: dict[str, list[float]] = {mode: [] for mode in load.modes}
    for turn in range(load.pairs):
        for mode in load.modes[:: -1 if turn % 2 else 1]:
            switch(mode)
            rates[mode].append(round(decode_rate(made, prompts, few, load.many), 1))
    return rates


def _ratio(load: Load, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Of neighbours in time: each, their mean and its standard error."""
    if not load.modes[1:]:
        return {}
    each = [b / a for a, b in zip(*rates.values(), strict=True)]
    return {
        "ratios": [round(x, 3) for x in each], "ratio": round(fmean(each), 3),
        "stderr": round(stdev(each) / len(each) ** 0.5, 3),
    }  # fmt: skip


def _ideal(model: Path, rows: int, context: int) -> float:
    """Bytes of a step under full attention over those of the program."""
    candidate = read_exported(Path(os.environ["SGLANG_VORTEX_PROGRAM"])).candidate
    at = Workload(batch=rows, context=context)
    found = price(candidate, from_config(model), at, DEVICES["h200"])
    full, sparse = (s.attention_bytes + s.weight_bytes for s in (found.full, found.sparse))
    return round(full / sparse, 2)


# -- the parent --------------------------------------------------


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(n for n in CASES if n != "tiny"))
    parser.add_argument("--seconds", type=float, default=560.0, help="for all cases together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        measure(args.run, args.scratch, args.device)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    for name in args.cases.split(","):
        case, left = CASES[name], end - time.monotonic()
        if left < 40:
            print(f"{name}: left out", flush=True)
            continue
        stage = Stage(
            name, __file__, ["--run", name, "--device", args.device],
            centroid(case.budget, page=case.page, more=case.more),
            {"SGLANG_SIMULATE_UNIFORM_EXPERTS": "1"} if case.spread else {},
        )  # fmt: skip
        run_stage(stage, args.out, left, args.device)
        print(f"{end - time.monotonic():.0f} s left", flush=True)


if __name__ == "__main__":
    main()
