"""Decode throughput of served shapes inside SGLang, sparse against full attention of one engine.

    python benchmarks/sglang_models.py --cases 8b,glm --seconds 560 --out results

Random weights of a model's shape: timing only. Each case is an engine; steps are full attention's
by the inner backend, or a centroid's, which one switch chooses between, turn by turn. ``full`` rows
are as many as the engine's cache holds. The byte-ideal is the quotient of the bytes that a step
must move, weights included.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
FEW, MANY = 8, 136
GRAPHS = [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64]


@dataclass(frozen=True)
class Case:
    """What is served, and under which loads.

    Attributes:
        budget: tokens attended; page: the program's; engine_page: SGLang's.
        loads: rows and tokens of context.
        more: a line of the program's policies.
        layers: the first so many of the model's, where it does not fit.
        memory: share of the device for weights and cache.
        plain: another backend than ours, alone.
        by_rule: the default rule decides which steps are sparse.
    """

    model: str
    budget: int
    page: int
    loads: tuple[tuple[Rows, int], ...]
    engine_page: int = 0
    more: str = ""
    layers: int | None = None
    memory: float = 0.85
    plain: str = ""
    by_rule: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(context for _, context in self.loads) + MANY + 64


_LONG: tuple[tuple[Rows, int], ...] = (
    ("half", 32500), ("full", 32500), ("half", 65000), ("full", 65000),
)  # fmt: skip
_TWO: tuple[tuple[Rows, int], ...] = ((16, 32500), (32, 16200))
_GLM = Case("glm-4.7-flash", 2048, 64, ((16, 32500), (8, 130800)), 64, memory=0.88)
CASES = {
    "1.7b": Case("qwen3-1.7b", 1024, 16, (*_TWO, ("full", 32500))),
    "1.7b-dense2": Case("qwen3-1.7b", 1024, 16, _TWO, more="dense_layers = vx.layers(first=2)"),
    "1.7b-reuse": Case("qwen3-1.7b", 1024, 16, _TWO, more="reuse = vx.reuse(layers=1, steps=4)"),
    "short": Case("qwen3-1.7b", 1024, 16, ((8, 1000), (8, 2000), (8, 4000)), by_rule=True),
    "4b": Case("qwen3-4b", 2048, 32, _LONG),
    "8b": Case("llama-3.1-8b", 2048, 32, _LONG),
    "glm": _GLM,
    "glm-triton": Case("glm-4.7-flash", 2048, 64, ((16, 32500),), 64, memory=0.88, plain="triton"),
    "m2": Case("minimax-m2.7", 2048, 32, ((16, 32500),), layers=12, memory=0.9),
    "tiny": Case("tiny", 64, 16, ((2, 150), ("half", 90)), memory=0.05),
}


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
    say(case=name, what="engine", start_seconds=round(time.perf_counter() - began, 1), room=room)
    modes = ("d",) if case.plain else ("d", "-") if case.by_rule else ("d", "s")
    held: tuple[int, list[list[int]]] = (0, [])
    for rows, context in sorted(_rows(case, room), key=lambda load: (load[1], -load[0])):
        if context != held[0]:
            made.flush_cache()
            held = context, [tokens(context, 7 * context + i, vocab) for i in range(rows)]
            switch("d")
            generated(made, held[1], 2)  # the prefix cache has the prompts from here on
        _load(name, made, switch, modes, held[1][:rows], model)
    made.shutdown()


def _folder(case: Case, folder: Path) -> Path:
    if case.model != "tiny":
        return shape_folder(case.model, folder, case.longest, layers=case.layers)
    from benchmarks.sglang_equality import model_folder

    return model_folder(folder, "tiny", weights=False, device="cpu")


def _settings(case: Case, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "context_length": case.longest, "max_running_requests": 64, "chunked_prefill_size": 16384,
    }  # fmt: skip
    if device == "cpu":
        return found | {"device": "cpu", "disable_cuda_graph": True, "max_total_tokens": 1024}
    return found | {"cuda_graph_backend_prefill": "disabled", "cuda_graph_bs_decode": GRAPHS}


def _rows(case: Case, room: int) -> Iterator[tuple[int, int]]:
    """Loads with their rows counted."""
    page = case.engine_page or case.page
    for rows, context in case.loads:
        most = min(GRAPHS[-1], (room - page) // (-(-(context + MANY + 1) // page) * page))
        count = {"full": most, "half": most // 2}.get(str(rows), rows)
        yield min(int(count), most), context


def _load(
    name: str, made: Any, switch: Switch, modes: tuple[str, ...], prompts: list[list[int]],
    model: Path,
) -> None:  # fmt: skip
    rows, context = len(prompts), len(prompts[0])
    few, many = (2, 6) if context < 500 else (FEW, MANY)
    for mode in modes:
        switch(mode)
        generated(made, prompts, 4)
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(3 if context < 8000 else 2):
        for mode in modes:
            switch(mode)
            rates[mode].append(round(decode_rate(made, prompts, few, many), 1))
    full, other = rates["d"], rates.get(modes[-1], [])
    ratios = [round(s / d, 3) for s, d in zip(other, full, strict=True)] if modes[1:] else []
    say(case=name, what="decode tokens/s", rows=rows, context=context, full=full,
        sparse=other if modes[1:] else None, by_rule="-" in modes, ratios=ratios,
        byte_ideal=_ideal(model, rows, context))  # fmt: skip


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
    parser.add_argument("--cases", default="1.7b,short,8b,4b,glm,glm-triton,m2,1.7b-dense2")
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
            centroid(case.budget, page=case.page, more=case.more), {},
        )  # fmt: skip
        run_stage(stage, args.out, left, args.device)
        print(f"{end - time.monotonic():.0f} s left", flush=True)


if __name__ == "__main__":
    main()
