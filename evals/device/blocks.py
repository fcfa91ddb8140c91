"""What a decoder does between its matrix products, one launch each, beside its plain form."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from vortex.schedule import padded


@triton.jit
def _add_norm(x, residual, weight, out, width, epsilon, WIDE: tl.constexpr):
    """One row: the residual grows by x; its RMS norm is the output."""
    row, column = tl.program_id(0), tl.arange(0, WIDE)
    inside = column < width
    at = row * width + column
    total = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + at, total.to(residual.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(total * total, 0) / width + epsilon)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (total * scale * gain).to(out.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, out: Tensor, epsilon: float) -> None:
    """``residual += x; out = rms_norm(residual) * weight``, all ``[row, hidden]``, dense."""
    width = x.shape[1]
    _add_norm[(len(x),)](x, residual, weight, out, width, epsilon, WIDE=padded(width))


def add_norm_plain(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The same in float32, the residual left alone."""
    total = residual.float() + x.float()
    return functional.rms_norm(total, (x.shape[1],), weight.float(), epsilon)


@triton.jit
def _norm_rope(
    heads_at, q_weight, k_weight, cosine, sine, lengths, row_stride, epsilon,
    HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One head of one row, in place: RMS norm, then rotary embedding (half split)."""
    row, head, column = tl.program_id(0), tl.program_id(1), tl.arange(0, HALF)
    inside = column < DIM // 2
    at = heads_at + row * row_stride + head * DIM + column
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(at + DIM // 2, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / DIM + epsilon)
    weight = q_weight
    if head >= HEADS:
        weight = k_weight
    low *= scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    high *= scale * tl.load(weight + DIM // 2 + column, mask=inside, other=0.0).to(tl.float32)
    place = (tl.load(lengths + row) - 1) * (DIM // 2) + column
    c = tl.load(cosine + place, mask=inside, other=0.0)
    s = tl.load(sine + place, mask=inside, other=0.0)
    tl.store(at, (low * c - high * s).to(heads_at.dtype.element_ty), mask=inside)
    tl.store(at + DIM // 2, (high * c + low * s).to(heads_at.dtype.element_ty), mask=inside)


def norm_rope(
    qkv: Tensor, q_weight: Tensor, k_weight: Tensor, tables: tuple[Tensor, Tensor],
    lengths: Tensor, *, heads: int, kv_heads: int, epsilon: float,
) -> None:  # fmt: skip
    """Norm and rotate queries and keys in place.

    Args:
        qkv: ``[row, (heads + 2 kv_heads) * dim]``: queries, keys, values.
        tables: cosines and sines, float32 ``[position, dim / 2]``.
        lengths: int32 ``[row]``: the token's position is one less.
    """
    dim = qkv.shape[1] // (heads + 2 * kv_heads)
    _norm_rope[(len(qkv), heads + kv_heads)](
        qkv, q_weight, k_weight, *tables, lengths, qkv.stride(0), epsilon,
        HEADS=heads, DIM=dim, HALF=padded(dim // 2), num_warps=1,
    )  # fmt: skip


def norm_rope_plain(
    x: Tensor, weight: Tensor, tables: tuple[Tensor, Tensor], lengths: Tensor, epsilon: float
) -> Tensor:
    """The same for heads of one kind, ``[row, head, dim]``, in float32."""
    normed = functional.rms_norm(x.float(), (x.shape[2],), weight.float(), epsilon)
    cosine, sine = (t[lengths.long() - 1][:, None] for t in tables)
    low, high = normed.chunk(2, -1)
    return torch.cat([low * cosine - high * sine, high * cosine + low * sine], -1)


@triton.jit
def _silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    """A block of columns of one row."""
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = gate_up + row * 2 * width + column
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """``out = silu(gate) * up`` of ``[row, 2 * width]``."""
    width = out.shape[1]
    _silu_mul[(len(out), triton.cdiv(width, 1024))](gate_up, out, width, BLOCK=1024)


def silu_mul_plain(gate_up: Tensor) -> Tensor:
    """The same in float32."""
    gate, up = gate_up.float().chunk(2, -1)
    return functional.silu(gate) * up
