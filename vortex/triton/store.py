"""Keeps a step's keys and values where no field is kept beside them."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vortex.schedule import padded
from vortex.triton.attend import Cache
from vortex.triton.runtime import launch


@triton.jit
def _store(
    k, v, table, lengths, new_k, new_v,
    table_row, k_page, k_head, k_token, v_page, v_head, v_token, new_row, new_v_row,
    SIZE: tl.constexpr, DIM: tl.constexpr, VDIM: tl.constexpr, WIDE: tl.constexpr,
    LATENT: tl.constexpr,
):  # fmt: skip
    """One token of one sequence and KV head."""
    head, row = tl.program_id(0), tl.program_id(1)
    at = tl.load(lengths + row) - 1
    physical = tl.load(table + row * table_row + at // SIZE).to(tl.int64)
    column = tl.arange(0, WIDE)
    key = tl.load(new_k + row * new_row + head * DIM + column, mask=column < DIM, other=0.0)
    at_k = k + physical * k_page + head * k_head + (at % SIZE) * k_token + column
    tl.store(at_k, key.to(k.dtype.element_ty), mask=column < DIM)
    if not LATENT:
        value = tl.load(new_v + row * new_v_row + head * VDIM + column, mask=column < VDIM)
        at_v = v + physical * v_page + head * v_head + (at % SIZE) * v_token + column
        tl.store(at_v, value.to(v.dtype.element_ty), mask=column < VDIM)


def store_tokens(
    cache: Cache, table: Tensor, lengths: Tensor, new_k: Tensor, new_v: Tensor
) -> None:
    """Keep one token of every sequence at ``lengths - 1``.

    Args:
        table: int32 ``[row, page]`` of pages of the cache's own size.
        new_k, new_v: ``[row, kv_head, dim]``, dense within a row.
    """
    dim, vdim = new_k.shape[2], cache.v.shape[3]
    launch(
        _store, (cache.k.shape[1], table.shape[0]),
        cache.k, cache.v, table, lengths, new_k, new_v, table.stride(0),
        *cache.k.stride()[:3], *cache.v.stride()[:3], new_k.stride(0), new_v.stride(0),
        SIZE=cache.page_size, DIM=dim, VDIM=vdim, WIDE=padded(max(dim, vdim)),
        LATENT=cache.latent,
    )  # fmt: skip
