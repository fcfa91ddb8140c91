"""Paged decode attention over lists of pages: split over the list, merged by the last to finish.

Split-KV decoding is FlashDecoding's (Dao et al. 2023); the running softmax is arXiv:1805.02867.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vortex.schedule import AttendSchedule, padded
from vortex.triton.runtime import launch, matrix_type

LOG2E = 1.4426950408889634


@triton.jit
def columns_of(at, columns, rows, WIDTH: tl.constexpr, LIMIT: tl.constexpr):
    """Columns below LIMIT of the rows wanted; no mask on columns where all are."""
    if WIDTH == LIMIT:
        return tl.load(at + columns[None, :], mask=rows, other=0.0)
    return tl.load(at + columns[None, :], mask=rows & (columns < LIMIT)[None, :], other=0.0)


@triton.jit
def _finish(
    sums, top, mass, at_out, lse_at, v_scale_at,
    GROUP: tl.constexpr, HEADS: tl.constexpr, VDIM: tl.constexpr, VPAD: tl.constexpr,
    SCALED: tl.constexpr, WITH_LSE: tl.constexpr,
):  # fmt: skip
    """Write outputs ``[HEADS, VPAD]`` and the log-sum-exp of one sequence and KV head."""
    heads, columns = tl.arange(0, HEADS), tl.arange(0, VPAD)
    sums = sums / tl.where(mass > 0.0, mass, 1.0)[:, None]
    if SCALED:
        sums *= tl.load(v_scale_at)
    wanted = (heads < GROUP)[:, None] & (columns < VDIM)[None, :]
    tl.store(at_out + columns[None, :], sums.to(at_out.dtype.element_ty), mask=wanted)
    if WITH_LSE:
        natural = (top + tl.log2(mass)) * 0.6931471805599453
        tl.store(lse_at + heads, natural, mask=heads < GROUP)


@triton.jit
def _merged(
    partial, stats, at, used,
    GROUP: tl.constexpr, HEADS: tl.constexpr, VDIM: tl.constexpr, VPAD: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """What the splits of a list found, as one: sums ``[HEADS, VPAD]``, maxima, masses; one after
    the other, where a tile of all is too large.

    Read past the first cache level: other programs wrote it.
    """
    heads, columns = tl.arange(0, HEADS), tl.arange(0, VPAD)
    real = heads < GROUP
    wanted = real[:, None] & (columns < VDIM)[None, :]
    top = tl.full((HEADS,), float("-inf"), tl.float32)
    mass = tl.zeros((HEADS,), tl.float32)
    sums = tl.zeros((HEADS, VPAD), tl.float32)
    for split in range(0, used):
        place = (at * SPLITS + split) * GROUP + heads
        its_top = tl.load(stats + place * 2, mask=real, other=0.0, cache_modifier=".cg")
        its_mass = tl.load(stats + place * 2 + 1, mask=real, other=1.0, cache_modifier=".cg")
        its_sums = tl.load(
            partial + place[:, None] * VDIM + columns[None, :], mask=wanted, other=0.0,
            cache_modifier=".cg",
        )  # fmt: skip
        best = tl.maximum(top, its_top)
        mine, its = tl.exp2(top - best), tl.exp2(its_top - best)
        sums = sums * mine[:, None] + its_sums * its[:, None]
        mass = mass * mine + its_mass * its
        top = best
    return sums, top, mass


@triton.jit
def _merge(
    partial, stats, at, used, at_out, out_head, lse_at, v_scale_at,
    GROUP: tl.constexpr, ROWS: tl.constexpr, VDIM: tl.constexpr, VPAD: tl.constexpr,
    SPLITS: tl.constexpr, PARTS: tl.constexpr, CHUNK: tl.constexpr,
    SCALED: tl.constexpr, WITH_LSE: tl.constexpr,
):  # fmt: skip
    """Write what the splits of a list found as one, all at once, chunk by chunk of the columns.

    Read past the first cache level: other programs wrote it.
    """
    heads, parts = tl.arange(0, ROWS), tl.arange(0, PARTS)
    place = (at * SPLITS + parts[:, None]) * GROUP + heads[None, :]
    real = (parts[:, None] < used) & (heads[None, :] < GROUP)
    tops = tl.load(stats + place * 2, mask=real, other=float("-inf"), cache_modifier=".cg")
    masses = tl.load(stats + place * 2 + 1, mask=real, other=0.0, cache_modifier=".cg")
    top = tl.where(heads < GROUP, tl.max(tops, 0), 0.0)
    factor = tl.exp2(tops - top[None, :])
    mass = tl.where(heads < GROUP, tl.sum(masses * factor, 0), 1.0)
    weight = factor / mass[None, :]
    if SCALED:
        weight *= tl.load(v_scale_at)
    for chunk in tl.static_range(VPAD // CHUNK):
        columns = chunk * CHUNK + tl.arange(0, CHUNK)
        inside = (columns < VDIM)[None, :]
        found = tl.load(
            partial + place[:, :, None] * VDIM + columns[None, None, :],
            mask=real[:, :, None] & inside[None, :, :], other=0.0, cache_modifier=".cg",
        )  # fmt: skip
        joined = tl.sum(found * weight[:, :, None], 0)
        tl.store(
            at_out + heads[:, None] * out_head + columns[None, :],
            joined.to(at_out.dtype.element_ty), mask=(heads < GROUP)[:, None] & inside,
        )  # fmt: skip
    if WITH_LSE:
        natural = (top + tl.log2(mass)) * 0.6931471805599453
        tl.store(lse_at + heads, natural, mask=heads < GROUP)


@triton.jit
def _attend(
    q, k, v, out, lse, pages, counts, lengths, k_scale, v_scale, partial, stats, counter,
    scale,
    q_row, q_head, k_page, k_head, k_token, v_page, v_head, v_token,
    out_row, out_head, pages_row, pages_head,
    SIZE: tl.constexpr, RATIO: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr,
    FIRST: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, EXTRA: tl.constexpr,
    VDIM: tl.constexpr, VPAD: tl.constexpr, LATENT: tl.constexpr, WHOLE: tl.constexpr,
    SCALED: tl.constexpr, WITH_LSE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr, TRANSPOSED: tl.constexpr, MATRIX: tl.constexpr,
    ROWS: tl.constexpr, PARTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One split of one sequence and KV head.

    Keys are read in two runs of columns, FIRST of them (in a tile of MAIN) and REST (in a tile of
    EXTRA); on MLA (LATENT) the first run is the value too. TRANSPOSED puts the tokens, not the
    query heads, on the rows of the products, so that few heads do not waste rows of the matrix
    unit.
    """
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = row * tl.num_programs(1) + head
    length = tl.load(lengths + row)
    if WHOLE:
        count = (length + SIZE - 1) // SIZE
    else:
        count = tl.load(counts + at)
    # The newest page ends every list, and is the only one that may be partial.
    total = tl.where(count > 0, (count - 1) * SIZE + (length - 1) % SIZE + 1, 0)
    share = tl.cdiv(tl.cdiv(total, SPLITS), BLOCK) * BLOCK
    first = split * share
    last = tl.minimum(first + share, total)
    if (first >= total) & (split > 0):
        return
    heads, main, columns = tl.arange(0, HEADS), tl.arange(0, MAIN), tl.arange(0, VPAD)
    at_q = q + row * q_row + (head * GROUP + heads[:, None]) * q_head
    real = heads[:, None] < GROUP
    query = columns_of(at_q, main, real, MAIN, FIRST).to(MATRIX)
    if TRANSPOSED:
        query = tl.trans(query)
        sums = tl.zeros((VPAD, HEADS), tl.float32)
    else:
        sums = tl.zeros((HEADS, VPAD), tl.float32)
    if EXTRA > 0:
        extra = tl.arange(0, EXTRA)
        more = columns_of(at_q + FIRST, extra, real, EXTRA, REST).to(MATRIX)
        if TRANSPOSED:
            more = tl.trans(more)
    factor = scale
    if SCALED:
        factor = scale * tl.load(k_scale + head)
    top = tl.full((HEADS,), float("-inf"), tl.float32)
    mass = tl.zeros((HEADS,), tl.float32)
    listed = pages + row * pages_row + head * pages_head
    # A tile's pages are read one tile ahead, so that its copy waits for nothing. MLA is
    # slower with this and the joint merge together (docs/performance.md).
    if not LATENT:
        ahead = first + tl.arange(0, BLOCK)
        coming = tl.load(listed + ahead // SIZE, mask=ahead < last, other=0)
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        token = start + tl.arange(0, BLOCK)
        inside = token < last
        if LATENT:
            page = tl.load(listed + token // SIZE, mask=inside, other=0).to(tl.int64)
        else:
            page = coming.to(tl.int64)
            ahead = token + BLOCK
            coming = tl.load(listed + ahead // SIZE, mask=ahead < last, other=0)
        slot = token % SIZE
        if RATIO > 1:
            slot += (page % RATIO).to(tl.int32) * SIZE
            page = page // RATIO
        at_k = k + (page * k_page + head * k_head + slot * k_token)[:, None]
        keys = columns_of(at_k, main, inside[:, None], MAIN, FIRST).to(MATRIX)
        if TRANSPOSED:
            logits = tl.dot(keys, query)
        else:
            logits = tl.dot(query, tl.trans(keys))
        if EXTRA > 0:
            others = columns_of(at_k + FIRST, extra, inside[:, None], EXTRA, REST).to(MATRIX)
            if TRANSPOSED:
                logits = tl.dot(others, more, logits)
            else:
                logits = tl.dot(more, tl.trans(others), logits)
        logits *= factor
        if TRANSPOSED:
            logits = tl.where(inside[:, None], logits, float("-inf"))
            best = tl.maximum(top, tl.max(logits, 0))
            weights = tl.exp2(logits - best[None, :])
            mass = mass * tl.exp2(top - best) + tl.sum(weights, 0)
        else:
            logits = tl.where(inside[None, :], logits, float("-inf"))
            best = tl.maximum(top, tl.max(logits, 1))
            weights = tl.exp2(logits - best[:, None])
            mass = mass * tl.exp2(top - best) + tl.sum(weights, 1)
        shrink = tl.exp2(top - best)
        top = best
        if LATENT:
            values = keys
        else:
            at_v = v + (page * v_page + head * v_head + slot * v_token)[:, None]
            values = columns_of(at_v, columns, inside[:, None], VPAD, VDIM).to(MATRIX)
        if TRANSPOSED:
            sums = tl.dot(tl.trans(values), weights.to(MATRIX), sums * shrink[None, :])
        else:
            sums = tl.dot(weights.to(MATRIX), values, sums * shrink[:, None])
    if TRANSPOSED:
        sums = tl.trans(sums)
    out_at = out + row * out_row + head * GROUP * out_head
    at_out = out_at + heads[:, None] * out_head
    lse_at = lse + at * GROUP
    used = tl.maximum(tl.cdiv(total, tl.maximum(share, 1)), 1)
    if SPLITS == 1:
        _finish(sums, top, mass, at_out, lse_at, v_scale + head,
                GROUP, HEADS, VDIM, VPAD, SCALED, WITH_LSE)  # fmt: skip
    elif used == 1:
        _finish(sums, top, mass, at_out, lse_at, v_scale + head,
                GROUP, HEADS, VDIM, VPAD, SCALED, WITH_LSE)  # fmt: skip
    else:
        wanted = (heads < GROUP)[:, None] & (columns < VDIM)[None, :]
        place = (at * SPLITS + split) * GROUP + heads
        tl.store(partial + place[:, None] * VDIM + columns[None, :], sums, mask=wanted)
        tl.store(stats + place * 2, top, mask=heads < GROUP)
        tl.store(stats + place * 2 + 1, mass, mask=heads < GROUP)
        tl.debug_barrier()
        if tl.atomic_add(counter + at, 1, sem="acq_rel") == used - 1:
            tl.store(counter + at, 0)
            if LATENT:
                sums, top, mass = _merged(
                    partial, stats, at, used, GROUP, HEADS, VDIM, VPAD, SPLITS
                )
                _finish(sums, top, mass, at_out, lse_at, v_scale + head,
                        GROUP, HEADS, VDIM, VPAD, SCALED, WITH_LSE)  # fmt: skip
            else:
                _merge(partial, stats, at, used, out_at, out_head, lse_at, v_scale + head,
                       GROUP, ROWS, VDIM, VPAD, SPLITS, PARTS, CHUNK, SCALED,
                       WITH_LSE)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cache:
    """One layer's keys and values on a device, in pages.

    Attributes:
        k, v: ``[page, kv_head, token, dim]`` views in any strides with a dense last axis, bf16,
            fp16 or fp8 (e4m3); on MLA ``v`` is the first columns of ``k`` (the same memory).
        k_scale, v_scale: float32 ``[kv_head]`` that stored numbers are multiplied with; None: 1.
        page_size: tokens of a program's page; it divides the cache's own.
    """

    k: Tensor
    v: Tensor
    page_size: int
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def latent(self) -> bool:
        """Whether values are the first columns of the keys."""
        return self.k.data_ptr() == self.v.data_ptr()


@dataclass(frozen=True, slots=True)
class Workspace:
    """Buffers of a launch; one serves every layer of a step, since launches follow each other.

    Attributes:
        partial: float32, outputs of the splits.
        stats: float32, their maxima and sums.
        counter: int32 ``[rows * kv_heads]``, zero between launches.
    """

    partial: Tensor
    stats: Tensor
    counter: Tensor

    @staticmethod
    def of(rows: int, heads: int, vdim: int, splits: int, device: torch.device) -> Workspace:
        """Room for the splits of every row and head."""
        many = rows * heads * splits
        return Workspace(
            torch.empty(many * vdim, device=device), torch.empty(many * 2, device=device),
            torch.zeros(rows * heads, dtype=torch.int32, device=device),
        )  # fmt: skip


def attend(
    q: Tensor,
    cache: Cache,
    pages: Tensor,
    counts: Tensor | None,
    lengths: Tensor,
    out: Tensor,
    *,
    scale: float,
    schedule: AttendSchedule,
    workspace: Workspace,
    lse: Tensor | None = None,
) -> None:
    """Softmax attention of one step over listed pages; allocates nothing.

    Args:
        q: ``[row, head, dim]``, unscaled.
        pages: int32 physical pages of the program's size in logical order, the newest last:
            ``[row, kv_head, slot]``, or ``[row, slot]`` for all heads alike.
        counts: int32 ``[row, kv_head]``: pages in each list; None: all pages of the sequence.
        lengths: int32 ``[row]``: tokens in the cache, the step's own included.
        out: ``[row, head, vdim]``, written.
        lse: float32 ``[row, head]``, written: natural log of the sum of exponentials.
    """
    rows, heads, dim = q.shape
    kv_heads, own_size = cache.k.shape[1:3]
    vdim = cache.v.shape[-1]
    first = vdim if cache.latent else first_run(dim)
    parts = 1 << (schedule.splits - 1).bit_length()
    rows_of = 1 << (heads // kv_heads - 1).bit_length()
    group, per_head, none = heads // kv_heads, pages.dim() == 3, workspace.stats
    launch(
        _attend, (schedule.splits, kv_heads, rows),
        q, cache.k, cache.v, out, none if lse is None else lse, pages,
        lengths if counts is None else counts, lengths,
        none if cache.k_scale is None else cache.k_scale,
        none if cache.v_scale is None else cache.v_scale,
        workspace.partial, workspace.stats, workspace.counter, scale * LOG2E,
        q.stride(0), q.stride(1), *cache.k.stride()[:3], *cache.v.stride()[:3],
        out.stride(0), out.stride(1), pages.stride(0), pages.stride(1) if per_head else 0,
        SIZE=cache.page_size, RATIO=own_size // cache.page_size, GROUP=group,
        HEADS=padded(group), FIRST=first, MAIN=padded(first), REST=dim - first,
        EXTRA=padded(dim - first) if dim > first else 0, VDIM=vdim, VPAD=padded(vdim),
        LATENT=cache.latent, WHOLE=counts is None, SCALED=cache.k_scale is not None,
        WITH_LSE=lse is not None, BLOCK=schedule.block, SPLITS=schedule.splits,
        STAGES=schedule.stages, TRANSPOSED=schedule.transposed, MATRIX=matrix_type(q.dtype),
        ROWS=rows_of, PARTS=parts, CHUNK=max(16, min(padded(vdim), 16384 // (parts * rows_of))),
        num_warps=schedule.warps,
    )  # fmt: skip


def first_run(dim: int) -> int:
    """Columns of the first tile: all, unless two tiles of powers of two waste less."""
    half = padded(dim) // 2
    return half if padded(dim) > dim and 16 <= half < dim else dim
