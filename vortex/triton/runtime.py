"""Where kernels run: on a device, or in Triton's interpreter for tests."""

from __future__ import annotations

import os

import torch
import triton.language as tl

_MATRIX = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def interpreted() -> bool:
    """Whether kernels run on the CPU, one program after the other."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def matrix_type(dtype: torch.dtype) -> tl.dtype:
    """What products of matrices take in: the type itself; float32 in the interpreter, whose
    products misread bf16."""
    return tl.float32 if interpreted() else _MATRIX[dtype]
