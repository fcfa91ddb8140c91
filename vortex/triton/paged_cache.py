"""What the attention kernels share: a layer's cache in pages, their memory, columns and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vortex.schedule import padded

LOG2E = 1.4426950408889634


@triton.jit
def columns_of(at, columns, rows, WIDTH: tl.constexpr, LIMIT: tl.constexpr):
    """Columns below LIMIT of the rows wanted; no mask on columns where all are."""
    if WIDTH == LIMIT:
        return tl.load(at + columns[None, :], mask=rows, other=0.0)
    return tl.load(at + columns[None, :], mask=rows & (columns < LIMIT)[None, :], other=0.0)


@triton.jit
def finish(
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


def first_run(dim: int) -> int:
    """Columns of the first tile: all, unless two tiles of powers of two waste less."""
    half = padded(dim) // 2
    return half if padded(dim) > dim and 16 <= half < dim else dim
