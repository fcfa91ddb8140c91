"""The attention that each page of a list got in a step, read off keys and log-sum-exps."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vortex.schedule import padded
from vortex.triton.attend import LOG2E, Cache, columns_of, first_run
from vortex.triton.runtime import launch, matrix_type

_SPLITS = 8  # programs that share the list of a row and head


@triton.jit
def _page_mass(
    q, k, lse, pages, places, counts, lengths, mass, k_scale, scale,
    q_row, q_head, k_page, k_head, k_token, pages_row, pages_head, width,
    SIZE: tl.constexpr, RATIO: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr,
    FIRST: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, EXTRA: tl.constexpr,
    SCALED: tl.constexpr, BLOCK: tl.constexpr, MATRIX: tl.constexpr,
):  # fmt: skip
    """Attention mass of the listed pages, summed over the heads that share them; keys are read
    again, values are not."""
    part, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = row * tl.num_programs(1) + head
    length, count = tl.load(lengths + row), tl.load(counts + at)
    total = tl.where(count > 0, (count - 1) * SIZE + (length - 1) % SIZE + 1, 0)
    heads, main = tl.arange(0, HEADS), tl.arange(0, MAIN)
    at_q = q + row * q_row + (head * GROUP + heads[:, None]) * q_head
    real = heads < GROUP
    query = columns_of(at_q, main, real[:, None], MAIN, FIRST).to(MATRIX)
    if EXTRA > 0:
        extra = tl.arange(0, EXTRA)
        more = columns_of(at_q + FIRST, extra, real[:, None], EXTRA, REST).to(MATRIX)
    factor = scale
    if SCALED:
        factor = scale * tl.load(k_scale + head)
    sums = tl.load(lse + at * GROUP + heads, mask=real, other=0.0) * 1.4426950408889634
    listed = pages + row * pages_row + head * pages_head
    shown = places + row * pages_row + head * pages_head
    for start in range(part * BLOCK, total, tl.num_programs(0) * BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < total
        page = tl.load(listed + token // SIZE, mask=inside, other=0).to(tl.int64)
        slot = token % SIZE
        if RATIO > 1:
            slot += (page % RATIO).to(tl.int32) * SIZE
            page = page // RATIO
        at_k = k + (page * k_page + head * k_head + slot * k_token)[:, None]
        keys = columns_of(at_k, main, inside[:, None], MAIN, FIRST).to(MATRIX)
        logits = tl.dot(keys, tl.trans(query))
        if EXTRA > 0:
            others = columns_of(at_k + FIRST, extra, inside[:, None], EXTRA, REST).to(MATRIX)
            logits = tl.dot(others, tl.trans(more), logits)
        weights = tl.exp2(logits * factor - sums[None, :])
        weights = tl.where(inside[:, None] & real[None, :], weights, 0.0)
        by_page = tl.sum(tl.reshape(tl.sum(weights, 1), (BLOCK // SIZE, SIZE)), 1)
        entry = start // SIZE + tl.arange(0, BLOCK // SIZE)
        place = tl.load(shown + entry, mask=entry < count, other=0)
        tl.store(mass + at * width + place, by_page, mask=entry < count)


def add_mass(
    q: Tensor, cache: Cache, pages: Tensor, places: Tensor, counts: Tensor, lengths: Tensor,
    lse: Tensor, mass: Tensor, *, scale: float,
) -> None:  # fmt: skip
    """Write the attention mass of listed pages; the others' stays as it is.

    Args:
        q: ``[row, head, dim]``, unscaled.
        pages, places: int32 ``[row, kv_head, slot]``: physical and logical pages of each list.
        lse: float32 ``[row, head]``, of attention over the lists.
        mass: float32 ``[row, kv_head, page]``, written.
    """
    rows, heads, dim = q.shape
    kv_heads, own_size = cache.k.shape[1:3]
    first = cache.v.shape[-1] if cache.latent else first_run(dim)
    size = cache.page_size
    launch(
        _page_mass, (_SPLITS, kv_heads, rows),
        q, cache.k, lse, pages, places, counts, lengths, mass,
        lse if cache.k_scale is None else cache.k_scale, scale * LOG2E,
        q.stride(0), q.stride(1), *cache.k.stride()[:3], pages.stride(0), pages.stride(1),
        mass.shape[2],
        SIZE=size, RATIO=own_size // size, GROUP=heads // kv_heads,
        HEADS=padded(heads // kv_heads), FIRST=first, MAIN=padded(first), REST=dim - first,
        EXTRA=padded(dim - first) if dim > first else 0, SCALED=cache.k_scale is not None,
        BLOCK=max(size, 32 if cache.latent else 64), MATRIX=matrix_type(q.dtype), num_warps=4,
    )  # fmt: skip
