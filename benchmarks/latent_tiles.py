"""An experiment, NOT in use: attention over latents (MLA) whose tiles are copied as they lie.

    python benchmarks/latent_tiles.py --out results

Where a tile lies in one page, the device's tensor copy engine copies it while the last is used, and
the splits are merged by a launch of their own. On an H200 it is up to 1.7 times as fast as
``vortex/triton/attend.py``, and WRONG for some schedules and where a list ends within a tile of 64
tokens (docs/decisions.md), though right in Triton's interpreter. The script tries schedules and
lengths, each in a process of its own, and says which are right, the same each time, and how fast.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vortex.schedule import AttendSchedule, padded
from vortex.triton.attend import LOG2E, Cache, Workspace, _finish, columns_of
from vortex.triton.runtime import interpreted, launch, matrix_type

_CHUNK = 128  # columns that one program merges


@triton.jit
def _tile(
    keys, others, inside, query, more, top, mass, sums, factor,
    PARTIAL: tl.constexpr, TRANSPOSED: tl.constexpr, MATRIX: tl.constexpr,
):  # fmt: skip
    """The running softmax after one tile of latents ``[BLOCK, MAIN]`` and rotary parts."""
    if TRANSPOSED:
        logits = tl.dot(keys, query)
        logits = tl.dot(others, more, logits) * factor
        if PARTIAL:
            logits = tl.where(inside[:, None], logits, float("-inf"))
        best = tl.maximum(top, tl.max(logits, 0))
        weights = tl.exp2(logits - best[None, :])
        shrink = tl.exp2(top - best)
        mass = mass * shrink + tl.sum(weights, 0)
        sums = tl.dot(tl.trans(keys), weights.to(MATRIX), sums * shrink[None, :])
    else:
        logits = tl.dot(query, tl.trans(keys))
        logits = tl.dot(more, tl.trans(others), logits) * factor
        if PARTIAL:
            logits = tl.where(inside[None, :], logits, float("-inf"))
        best = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - best[:, None])
        shrink = tl.exp2(top - best)
        mass = mass * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(MATRIX), keys, sums * shrink[:, None])
    return best, mass, sums


@triton.jit
def _cut(counts, lengths, row, WHOLE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
         SPLITS: tl.constexpr):  # fmt: skip
    """Tokens of a row's list, and of each split, whole tiles."""
    length = tl.load(lengths + row)
    if WHOLE:
        count = (length + SIZE - 1) // SIZE
    else:
        count = tl.load(counts + row)
    # The newest page ends every list, and is the only one that may be partial.
    total = tl.where(count > 0, (count - 1) * SIZE + (length - 1) % SIZE + 1, 0)
    return total, tl.cdiv(tl.cdiv(total, SPLITS), BLOCK) * BLOCK


@triton.jit
def _attend_latent(
    q, main_tiles, rest_tiles, k, out, lse, pages, counts, lengths, k_scale, v_scale, partial,
    stats, scale, q_row, q_head, k_token, out_row, out_head, pages_row,
    SIZE: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, MAIN: tl.constexpr,
    EXTRA: tl.constexpr, WHOLE: tl.constexpr, SCALED: tl.constexpr, WITH_LSE: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, TRANSPOSED: tl.constexpr,
    MATRIX: tl.constexpr,
):  # fmt: skip
    """One split of one sequence. Keys are MAIN columns, which are the values too, and EXTRA."""
    split, row = tl.program_id(0), tl.program_id(1)
    total, share = _cut(counts, lengths, row, WHOLE, SIZE, BLOCK, SPLITS)
    first = split * share
    last = tl.minimum(first + share, total)
    if (first >= total) & (split > 0):
        return
    heads, main, extra = tl.arange(0, HEADS), tl.arange(0, MAIN), tl.arange(0, EXTRA)
    at_q = q + row * q_row + heads[:, None] * q_head
    real = heads[:, None] < GROUP
    query = columns_of(at_q, main, real, MAIN, MAIN).to(MATRIX)
    more = columns_of(at_q + MAIN, extra, real, EXTRA, EXTRA).to(MATRIX)
    if TRANSPOSED:
        query, more = tl.trans(query), tl.trans(more)
        sums = tl.zeros((MAIN, HEADS), tl.float32)
    else:
        sums = tl.zeros((HEADS, MAIN), tl.float32)
    factor = scale
    if SCALED:
        factor = scale * tl.load(k_scale)
    top = tl.full((HEADS,), float("-inf"), tl.float32)
    mass = tl.zeros((HEADS,), tl.float32)
    listed = pages + row * pages_row
    token = tl.arange(0, BLOCK)
    whole = first + (last - first) // BLOCK * BLOCK
    for start in tl.range(first, whole, BLOCK, num_stages=STAGES):
        slot = tl.load(listed + start // SIZE) * SIZE + start % SIZE
        keys = main_tiles.load([slot, 0]).to(MATRIX)
        others = rest_tiles.load([slot, MAIN]).to(MATRIX)
        top, mass, sums = _tile(keys, others, token < BLOCK, query, more, top, mass, sums, factor,
                                False, TRANSPOSED, MATRIX)  # fmt: skip
    if whole < last:  # what lies behind the newest token may be anything: it is not read
        slot = tl.load(listed + whole // SIZE).to(tl.int64) * SIZE + whole % SIZE
        inside = whole + token < last
        at_k = k + ((slot + token) * k_token)[:, None]
        keys = columns_of(at_k, main, inside[:, None], MAIN, MAIN).to(MATRIX)
        others = columns_of(at_k + MAIN, extra, inside[:, None], EXTRA, EXTRA).to(MATRIX)
        top, mass, sums = _tile(keys, others, inside, query, more, top, mass, sums, factor,
                                True, TRANSPOSED, MATRIX)  # fmt: skip
    if TRANSPOSED:
        sums = tl.trans(sums)
    at_out = out + row * out_row + heads[:, None] * out_head
    lse_at = lse + row * GROUP
    if SPLITS == 1:
        _finish(sums, top, mass, at_out, lse_at, v_scale,
                GROUP, HEADS, MAIN, MAIN, SCALED, WITH_LSE)  # fmt: skip
    else:
        place = (row * SPLITS + split) * GROUP + heads
        tl.store(partial + place[:, None] * MAIN + main[None, :], sums, mask=real)
        tl.store(stats + place * 2, top, mask=heads < GROUP)
        tl.store(stats + place * 2 + 1, mass, mask=heads < GROUP)


@triton.jit
def _merge_splits(
    out, lse, counts, lengths, v_scale, partial, stats, out_row, out_head,
    SIZE: tl.constexpr, GROUP: tl.constexpr, VDIM: tl.constexpr, WHOLE: tl.constexpr,
    SCALED: tl.constexpr, WITH_LSE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    PARTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """What the splits of a list found for some columns of one head, as one."""
    chunk, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    total, share = _cut(counts, lengths, row, WHOLE, SIZE, BLOCK, SPLITS)
    parts, columns = tl.arange(0, PARTS), chunk * CHUNK + tl.arange(0, CHUNK)
    place = (row * SPLITS + parts) * GROUP + head
    real = parts < tl.maximum(tl.cdiv(total, tl.maximum(share, 1)), 1)
    tops = tl.load(stats + place * 2, mask=real, other=float("-inf"))
    masses = tl.load(stats + place * 2 + 1, mask=real, other=0.0)
    at = partial + place[:, None] * VDIM + columns[None, :]
    found = tl.load(at, mask=real[:, None], other=0.0)
    top = tl.max(tops, 0)
    factor = tl.where(masses > 0.0, tl.exp2(tops - top), 0.0)
    mass = tl.sum(masses * factor, 0)
    factor = factor / tl.where(mass > 0.0, mass, 1.0)
    if SCALED:
        factor *= tl.load(v_scale)
    sums = tl.sum(found * factor[:, None], 0)
    tl.store(out + row * out_row + head * out_head + columns, sums.to(out.dtype.element_ty))
    if WITH_LSE:
        tl.store(lse + row * GROUP + head, (top + tl.log2(mass)) * 0.6931471805599453)


def by_tiles(cache: Cache, dim: int, block: int, dtype: torch.dtype) -> bool:
    """Whether tiles of so many tokens can be copied as they lie: each in one page of the program,
    its rows evenly apart through the whole cache, widths that are powers of two.

    Args:
        dim: columns of a key; dtype: of queries.
    """
    k, vdim = cache.k, cache.v.shape[-1]
    rest, bytes_apart = dim - vdim, k.stride(2) * k.element_size()
    return (
        cache.latent and k.shape[1] == 1 and k.dtype == dtype and cache.page_size % block == 0
        and rest > 0 and padded(vdim) == vdim and padded(rest) == rest
        and k.stride(0) == k.shape[2] * k.stride(2) and bytes_apart % 16 == 0
        and k.data_ptr() % 16 == 0 and _copies_tiles(k)
    )  # fmt: skip


def _copies_tiles(k: Tensor) -> bool:
    """Whether the device has a copy engine for tiles: from compute capability 9.0 on."""
    return interpreted() or torch.cuda.get_device_capability(k.device) >= (9, 0)


def attend_latent(
    q: Tensor, cache: Cache, pages: Tensor, counts: Tensor | None, lengths: Tensor, out: Tensor,
    *, scale: float, schedule: AttendSchedule, workspace: Workspace, lse: Tensor | None = None,
) -> None:  # fmt: skip
    """As :func:`vortex.triton.attend.attend`, for a cache that :func:`by_tiles` takes."""
    rows, heads, dim = q.shape
    k, vdim = cache.k, cache.v.shape[-1]
    none, block, chunk = workspace.stats, schedule.block, min(vdim, _CHUNK)
    slots, apart = k.shape[0] * k.shape[2], k.stride(2)
    main_tiles, rest_tiles = (
        TensorDescriptor(k, [slots, dim], [apart, 1], [block, n]) for n in (vdim, dim - vdim)
    )
    counted = lengths if counts is None else counts
    to = none if lse is None else lse
    v_scale = none if cache.v_scale is None else cache.v_scale
    shape = {
        "SIZE": cache.page_size, "GROUP": heads, "WHOLE": counts is None,
        "SCALED": cache.k_scale is not None, "WITH_LSE": lse is not None, "BLOCK": block,
        "SPLITS": schedule.splits,
    }  # fmt: skip
    launch(
        _attend_latent, (schedule.splits, rows),
        q, main_tiles, rest_tiles, k, out, to, pages, counted, lengths,
        none if cache.k_scale is None else cache.k_scale, v_scale, workspace.partial,
        workspace.stats, scale * LOG2E, q.stride(0), q.stride(1), apart, out.stride(0),
        out.stride(1), pages.stride(0), **shape,
        HEADS=padded(heads), MAIN=vdim, EXTRA=dim - vdim,
        STAGES=schedule.stages, TRANSPOSED=schedule.transposed,
        MATRIX=matrix_type(q.dtype), num_warps=schedule.warps,
    )  # fmt: skip
    if schedule.splits > 1:
        launch(
            _merge_splits, (vdim // chunk, heads, rows),
            out, to, counted, lengths, v_scale, workspace.partial, workspace.stats, out.stride(0),
            out.stride(1), **shape, VDIM=vdim, PARTS=1 << (schedule.splits - 1).bit_length(),
            CHUNK=chunk,
        )  # fmt: skip


# -- the script -----------------------------------------------------------------------------------

_RUNS = 20
_LENGTHS = {"whole tiles": (2048, 4096) * 8, "a part of one": (2017, 4000) * 8}


def tried(schedule: AttendSchedule, lengths: str) -> dict[str, object]:
    """Errors of some runs against float64, whether all were the same, and microseconds of one."""
    from benchmarks.latent_bed import Setting, gap
    from evals.device.tuning import replayed

    setting = Setting.of(heads=20, vdim=512, rest=64, lengths=_LENGTHS[lengths])
    found: dict[str, object] = {}
    for whole in (False, True):
        runs = [setting.attended(schedule, whole=whole) for _ in range(_RUNS)]
        found["whole" if whole else "listed"] = {
            "error": max(gap(out, exact) for out, _, exact, _ in runs),
            "same": all(torch.equal(out, runs[0][0]) for out, *_ in runs),
        }
    pages, counts = setting.lists()
    rows, heads, _ = setting.q.shape
    space = Workspace.of(rows, heads, 512, schedule.splits, setting.q.device)
    out = torch.empty(rows, heads, 512, dtype=setting.q.dtype, device=setting.q.device)

    def run(_: int) -> None:
        attend_latent(setting.q, setting.cache, pages, counts, setting.lengths, out,
                      scale=setting.scale, schedule=schedule, workspace=space)  # fmt: skip

    return found | {"microseconds": round(replayed(run, 1, 15)[7] * 1e6, 1)}


def main() -> None:
    """Try all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        block, warps, stages, splits, lengths = json.loads(args.one)
        print(json.dumps(tried(AttendSchedule(block, splits, warps, stages, True), lengths)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    choices = itertools.product((32, 64), (4, 8), (1, 2, 3), (1, 3, 16), _LENGTHS)
    running = []
    for choice in choices:
        command = [sys.executable, __file__, "--out", str(args.out), "--one", json.dumps(choice)]
        running.append((choice, subprocess.Popen(command, stdout=subprocess.PIPE,
                                                 stderr=subprocess.PIPE, text=True)))  # fmt: skip
        if len(running) == 8:
            _said(running, args.out)
    _said(running, args.out)


def _said(running: list[tuple[object, subprocess.Popen[str]]], out: Path) -> None:
    """Wait for these and keep what they say."""
    for choice, process in running:
        text, wrong = process.communicate()
        found = json.loads(text) if process.returncode == 0 else {"failed": wrong[-300:]}
        line = json.dumps({"block, warps, stages, splits, lengths": choice, **found})
        print(line, flush=True)
        with (out / "latent_tiles.jsonl").open("a") as file:
            file.write(line + "\n")
    running.clear()


if __name__ == "__main__":
    main()
