"""Whether an unedited SGLang serves a program right, and how fast: one command, some three minutes.

    python benchmarks/sglang_equality.py --out results

Stages, each an engine of its own, each printed as it goes:

- ``equality``: a small model of random weights. Requests that the budget covers, mixed lengths,
  shared prefixes, retraction forced: the same tokens by sparse steps and by the inner backend's,
  which one switch chooses between in one engine. Then longer requests, whose chosen pages are held
  against the reference executor.
- ``speed``: the shape of Qwen3-1.7B, random weights: decode tokens/s, interleaved by that switch.
- ``plain``: the same shape with the inner backend alone: time to first token, start, decode.

``--device cpu`` runs ``equality`` with Triton's interpreter, where SGLang itself starts there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.engine_runs import Stage, centroid, run_stage, say  # noqa: E402
from vortex.serving.sglang.check import (  # noqa: E402
    Switch,
    decode_rate,
    difference,
    engine,
    generated,
    tokens,
)

STAGES = ("equality", "speed", "plain")
PAGE = 16
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
    "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "torch_dtype": "bfloat16",
    "max_position_embeddings": 40960, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPES: dict[str, dict[str, int]] = {
    "1.7B": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936,
    },
    "small": {
        "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32768,
    },
    "tiny": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip


# -- models and prompts ------------------------------------------


def model_folder(folder: Path, shape: str, *, weights: bool, device: str) -> Path:
    """A Hugging Face folder of a shape; random weights whose attention is neither flat nor one
    token, or a configuration alone."""
    folder.mkdir(parents=True, exist_ok=True)
    config = QWEN3 | SHAPES[shape]
    (folder / "config.json").write_text(json.dumps(config))
    if not weights:
        return folder
    import torch
    from safetensors.torch import save_file

    g = torch.Generator(device=device).manual_seed(0)

    def drawn(rows: int, columns: int, spread: float = 1.0) -> torch.Tensor:
        x = torch.randn(rows, columns, generator=g, device=device)
        return (x * spread * columns**-0.5).to(torch.bfloat16).cpu()

    s = SHAPES[shape]
    wide, inner, dim = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    q, kv = s["num_attention_heads"] * dim, s["num_key_value_heads"] * dim
    ones, sharp = torch.ones(wide), torch.full((dim,), 1.5)
    tensors = {
        "model.embed_tokens.weight": drawn(s["vocab_size"], wide, wide**0.5),
        "lm_head.weight": drawn(s["vocab_size"], wide, 3.0), "model.norm.weight": ones,
    }  # fmt: skip
    for layer in range(s["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": drawn(q, wide),
            f"{at}.self_attn.k_proj.weight": drawn(kv, wide),
            f"{at}.self_attn.v_proj.weight": drawn(kv, wide),
            f"{at}.self_attn.o_proj.weight": drawn(wide, q, 2.0),
            f"{at}.self_attn.q_norm.weight": sharp.clone(),
            f"{at}.self_attn.k_norm.weight": sharp.clone(),
            f"{at}.mlp.gate_proj.weight": drawn(inner, wide),
            f"{at}.mlp.up_proj.weight": drawn(inner, wide),
            f"{at}.mlp.down_proj.weight": drawn(wide, inner),
            f"{at}.input_layernorm.weight": ones.clone(),
            f"{at}.post_attention_layernorm.weight": ones.clone(),
        }  # fmt: skip
    save_file({n: t.to(torch.bfloat16).contiguous() for n, t in tensors.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    return folder


# -- engines -----------------------------------------------------


def started(args: argparse.Namespace, model: Path, backend: str, **settings: Any) -> Any:
    """An engine; says how long its start took."""
    began = time.perf_counter()
    if args.device == "cpu":
        settings |= {"device": "cpu", "disable_cuda_graph": True}
    settings |= {"tp_size": args.tp} if args.tp > 1 else {}
    made = engine(str(model), backend, page_size=PAGE, log_level="info", **settings)
    say(what="engine", backend=backend, start_seconds=round(time.perf_counter() - began, 1))
    return made


# -- equality ----------------------------------------------------


def equality(args: argparse.Namespace, scratch: Path) -> None:
    """See the module."""
    cpu = args.device == "cpu"
    shape = "tiny" if cpu else "small"
    vocab = SHAPES[shape]["vocab_size"]
    model = model_folder(scratch / "model", shape, weights=True, device=args.device)
    switch = Switch(scratch / "switch")
    # The pool is too small for all at once, and the scheduler is told to be bold: it retracts.
    many, out, longest = (6, 40, 80) if cpu else (64, 96, 900)
    shared = tokens(longest // 3, 1, vocab)
    prompts = [
        (shared if i % 2 else []) + tokens(5 + (i * 53) % (longest - len(shared)), 10 + i, vocab)
        for i in range(many)
    ]
    total = sum(len(p) + out for p in prompts)
    made = started(
        args, model, "vortex", context_length=512 if cpu else 8192, chunked_prefill_size=256,
        max_total_tokens=320 if cpu else total * 6 // 10 // PAGE * PAGE,
        max_running_requests=many, schedule_conservativeness=0.1,
        mem_fraction_static=0.05 if cpu else 0.4, cuda_graph_backend_prefill=args.prefill,
        cuda_graph_bs_decode=[8, 64],
    )  # fmt: skip
    runs = {}
    for name, mode in (("dense", "d"), ("dense again", "d"), ("sparse", "s"), ("mixed", "-")):
        switch(mode)
        made.flush_cache()
        runs[name] = generated(made, prompts, out, return_logprob=True, top_logprobs_num=2)
        if name != "dense":
            found = difference(runs["dense"], runs[name])
            say(what="tokens", against="dense", run=name, **found)
    if not cpu:  # prefill as it is served: captured in pieces, chunks over several pages
        again = generated(made, prompts[::-1], out, return_logprob=True, top_logprobs_num=2)
        say(what="tokens", against="dense", run="sparse, prefixes cached, other order",
            **difference(runs["dense"], again[::-1]))  # fmt: skip
    switch("s")
    made.flush_cache()
    lengths = (150, 211, 300) if cpu else (2100, 3333, 6000)
    generated(made, [tokens(n, 500 + n, vocab) for n in lengths], 6)
    made.shutdown()
    chosen_pages(Path(args.tapped))


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


# -- speed -------------------------------------------------------


def first_token(made: Any, length: int, seed: int, vocab: int) -> list[float]:
    """Seconds to the first token of prompts that no cache holds; the first one warms up."""
    found = []
    for i in range(5):
        prompt = tokens(length, seed + i, vocab)
        began = time.perf_counter()
        generated(made, [prompt], 1)
        found.append(round(time.perf_counter() - began, 4))
    return found[1:]


def speed(args: argparse.Namespace, scratch: Path, *, backend: str = "vortex") -> None:
    """See the module."""
    vocab = SHAPES["1.7B"]["vocab_size"]
    model = model_folder(scratch / "model", "1.7B", weights=False, device="cpu")
    switch = Switch(scratch / "switch")
    made = started(
        args, model, backend, load_format="dummy", context_length=32768, max_running_requests=64,
        mem_fraction_static=0.75, chunked_prefill_size=16384,
        cuda_graph_backend_prefill="disabled", cuda_graph_bs_decode=[1, 8, 16, 32],
    )  # fmt: skip
    say(what="first token", backend=backend, length=8192,
        seconds=first_token(made, 8192, 900, vocab))  # fmt: skip
    modes = ("d", "s") if backend == "vortex" else ("d",)
    for rows, length, few, many in (
        (16, 32500, 8, 136), (8, 832, 8, 136), (8, 1900, 8, 136), (8, 3900, 8, 136),
        (32, 16200, 8, 136),
    ):  # fmt: skip
        if backend != "vortex" and length != 32500:
            break
        made.flush_cache()
        prompts = [tokens(length, 1000 * rows + i, vocab) for i in range(rows)]
        switch(modes[-1])
        generated(made, prompts, 4)
        found: dict[str, list[float]] = {m: [] for m in modes}
        for _ in range(2 if length > 8000 else 3):
            for mode in modes:
                switch(mode)
                found[mode].append(round(decode_rate(made, prompts, few, many), 1))
        say(what="decode tokens/s", backend=backend, rows=rows, context=length, dense=found["d"],
            sparse=found.get("s"))  # fmt: skip
        if "s" in found:
            pairs = zip(found["s"], found["d"], strict=True)
            say(what="ratio", rows=rows, context=length, pairs=[round(s / d, 3) for s, d in pairs])
    made.shutdown()


# -- the parent --------------------------------------------------


def stage_of(args: argparse.Namespace, name: str, prefill: str, scratch: Path) -> Stage:
    """What runs a stage."""
    budget = 128 if args.device == "cpu" else 1024
    program = args.program or centroid(budget, page=PAGE, more=args.policies)
    tapped = {"SGLANG_VORTEX_TAP": str(scratch), "SGLANG_VORTEX_TAP_STEPS": "3"}
    return Stage(
        name, __file__,
        ["--run", name, "--device", args.device, "--inner", args.inner, "--prefill", prefill,
         "--tapped", str(scratch), "--tp", str(args.tp)],
        program, tapped if name == "equality" else {},
    )  # fmt: skip


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--program", type=Path, help="an export of pages of 16, to serve instead")
    parser.add_argument("--policies", default="", help="a line for the program, as `reuse = ...`")
    parser.add_argument("--stages", default="equality,speed,plain")
    parser.add_argument("--seconds", type=float, default=185.0, help="for all stages together")
    parser.add_argument("--inner", default="fa3", help="what `plain` runs")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--prefill", default="breakable", help="CUDA graphs of it in `equality`")
    parser.add_argument("--tp", type=int, default=1, help="ranks of tensor parallelism")
    for hidden in ("--run", "--scratch", "--tapped"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        backend = args.inner if args.run == "plain" else "vortex"
        if args.run == "equality":
            equality(args, Path(args.scratch))
        else:
            speed(args, Path(args.scratch), backend=backend)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    for name in args.stages.split(","):
        if name not in STAGES or end - time.monotonic() < 20:
            print(f"{name}: left out", flush=True)
            continue
        for prefill in dict.fromkeys((args.prefill, "disabled")):
            tapped = Path(tempfile.mkdtemp(prefix="tap-"))
            stage = stage_of(args, name, prefill, tapped)
            done = run_stage(stage, args.out, end - time.monotonic(), args.device)
            if len(done) > 1 or name != "equality" or end - time.monotonic() < 60:
                break
            print("equality: again, without graphs of prefill", flush=True)


if __name__ == "__main__":
    main()
