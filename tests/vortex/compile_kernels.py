"""Compiles kernels for a device that need not be there: a script, run without the interpreter."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from search_spaces.grammar import program
from tests.vortex.own_programs import PROGRAMS
from vortex.compile import compile_text
from vortex.ir import Candidate
from vortex.triton.arrays import Shapes, Stored
from vortex.triton.attend import _attend
from vortex.triton.mass import _page_mass
from vortex.triton.module import load_module
from vortex.triton.scoring import scoring
from vortex.triton.select import relist
from vortex.triton.summaries import summaries
from vortex.triton.updates import updates

SPACE = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk"
GQA = Shapes(2, 128, 128, (0, 128), 28, (128, 128))
MLA = Shapes(20, 576, 512, (512, 64), 47, (576, 576))
NARROW = Shapes(4, 144, 128, (128, 16), 47, (144, 144))
SHAPES = {"gqa": GQA, "mla": MLA, "narrow mla": NARROW}
TYPES = {
    "bf16": "*bf16", "fp8": "*fp8e4nv", "int8": "*i8", "int4": "*u8", "uint8": "*u8",
    "fp32": "*fp32",
}  # fmt: skip
POINTERS = {
    "q": "*bf16", "k": "*bf16", "v": "*bf16", "out": "*bf16", "new_k": "*bf16", "new_v": "*bf16",
    "table": "*i32", "lengths": "*i32", "counter": "*i32", "pages": "*i32", "counts": "*i32",
    "scratch": "*fp32", "lse": "*fp32", "k_scale": "*fp32", "v_scale": "*fp32",
    "partial": "*fp32", "stats": "*fp32", "scale": "fp32", "picks": "*u8",
    "slots": "*i32", "ranks": "*i32", "places": "*i32", "mass": "*fp32",
}  # fmt: skip


def compiled(function: Any, constants: dict[str, object], arrays: tuple[Stored, ...] = ()) -> int:
    """Bytes of shared memory of the kernel, compiled for compute capability 9.0."""
    names = function.arg_names
    known = dict(POINTERS)
    for array in arrays:
        known |= {array.name: TYPES[array.dtype], f"{array.name}_scale": "*fp32"}
    signature = {n: "constexpr" if n in constants else known.get(n, "i32") for n in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=places)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    return int(kernel.metadata.shared)


def candidate(name: str, dtype: str) -> Candidate:
    """A seed or an algorithm of the library whose fields are stored in that type, unless it names
    one itself; ``drawnI``, the grammar's program I; or one of the tests' own programs."""
    if name in PROGRAMS:
        return compile_text(PROGRAMS[name])
    if name.startswith("drawn"):
        return compile_text(program(int(name.removeprefix("drawn"))))
    folder = "seeds" if (SPACE / "seeds" / f"{name}.py").is_file() else "library"
    text = (SPACE / folder / f"{name}.py").read_text()
    if "dtype=" not in text:
        text = text.replace("vx.Summary(", f'vx.Summary(dtype="{dtype}", ')
    return compile_text(text)


def compile_one(name: str, dtype: str, kind: str) -> list[int]:
    """Bytes of shared memory of one program's kernels, or of attention's."""
    shapes = SHAPES[kind]
    if name == "attend":
        latent, heads = kind == "mla", 32 if kind == "mla" else 16
        first = 512 if latent else 128
        return [compiled(_attend, {
            "SIZE": 64, "RATIO": 1, "GROUP": shapes.group, "HEADS": heads, "FIRST": first,
            "MAIN": first, "REST": shapes.dim - first, "EXTRA": 64 if latent else 0,
            "VDIM": first, "VPAD": first, "LATENT": latent, "WHOLE": False, "SCALED": False,
            "WITH_LSE": True, "BLOCK": 32, "SPLITS": 4, "STAGES": 2, "TRANSPOSED": False,
            "MATRIX": tl.bfloat16, "ROWS": heads if latent else 2, "PARTS": 4, "CHUNK": 128,
        })]  # fmt: skip
    if name == "mass":
        first = 512 if kind == "mla" else 128
        return [compiled(_page_mass, {
            "SIZE": 16, "RATIO": 1, "GROUP": shapes.group, "HEADS": 32 if kind == "mla" else 16,
            "FIRST": first, "MAIN": first, "REST": shapes.dim - first,
            "EXTRA": 64 if kind == "mla" else 0, "SCALED": False, "MATRIX": tl.bfloat16,
            "BLOCK": 32 if kind == "mla" else 64,
        })]  # fmt: skip
    if name == "relist":
        sizes = {"SIZE": 16, "SINKS": 1, "RECENT": 2, "PLACED": True, "PAGES": 2048}
        return [compiled(relist, sizes)]
    drawn = candidate(name, dtype)
    score = scoring(drawn, shapes)
    found = [compiled(load_module(score.text).route, {
        "CHANNELS": score.channels, "BLOCK": 32, "PAGES": 2048, "MATRIX": tl.bfloat16,
        "SCORES": score.chooses, "CHOOSES": True,
    }, score.arrays)]  # fmt: skip
    if drawn.states:
        changed = updates(drawn, shapes)
        states = tuple(Stored(name, {}, "fp32", "slot") for name in changed.states)
        found.append(compiled(load_module(changed.text).update, {
            "CHANNELS": changed.channels, "PAGES": 2048,
        }, states))  # fmt: skip
    if drawn.fields:
        kept = summaries(drawn, shapes)
        numbers = [Stored(m.name, {}, "fp32", "all") for m in kept.matrices]
        found.append(compiled(load_module(kept.text).append, {
            "DIM": shapes.dim, "VDIM": shapes.vdim, "WIDE": triton.next_power_of_2(shapes.dim),
            "LATENT": kind != "gqa",
        }, (*kept.arrays, *numbers)))  # fmt: skip
    return found


def main() -> None:
    """A line for each case of the list in the only argument: the bytes, or what went wrong."""
    for case in json.loads(sys.argv[1]):
        try:
            found = {"bytes": compile_one(*case)}
        except Exception:
            found = {"error": traceback.format_exc()[-2000:]}
        print(json.dumps([case, found]), flush=True)


if __name__ == "__main__":
    main()
