"""How a field is stored: rounding to a narrow type is part of a program's meaning."""

from __future__ import annotations

import torch
from torch import Tensor

FP8_MAX = 448.0
INT_MAX = {"int8": 127.0, "int4": 7.0}
BITS = {"bf16": 16, "fp8": 8, "int8": 8, "int4": 4}


def stored(x: Tensor, dtype: str, *, item_dims: int) -> Tensor:
    """What reading the field gives back after it was stored.

    ``fp8`` is e4m3, ``int8`` and ``int4`` are symmetric, each with one float32 scale per page and
    field, the largest magnitude over the type's largest number; bf16 has no scale.

    Args:
        x: float32, the last ``item_dims`` dimensions are one page's field.
    """
    if dtype == "bf16":
        return x.to(torch.bfloat16).to(torch.float32)
    limit = FP8_MAX if dtype == "fp8" else INT_MAX[dtype]
    dims = tuple(range(x.dim() - item_dims, x.dim()))
    peak = x.abs().amax(dims, keepdim=True) if dims else x.abs()
    scale = torch.where(peak > 0, peak / limit, 1.0)
    scaled = x / scale
    if dtype == "fp8":
        return scaled.clamp(-limit, limit).to(torch.float8_e4m3fn).to(torch.float32) * scale
    return scaled.round().clamp(-limit, limit) * scale


def field_bytes(elements: int, dtype: str) -> int:
    """Bytes of one page's field: its elements, and the scale if its type has one."""
    return (elements * BITS[dtype] + 7) // 8 + (0 if dtype == "bf16" else 4)
