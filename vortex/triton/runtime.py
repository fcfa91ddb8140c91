"""How kernels run: on a device, in Triton's interpreter for tests, or compiled ahead of that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl

_MATRIX = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def interpreted() -> bool:
    """Whether kernels run on the CPU, one program after the other."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def matrix_type(dtype: torch.dtype) -> tl.dtype:
    """What products of matrices take in: the type itself; float32 in the interpreter, whose
    products misread bf16."""
    return tl.float32 if interpreted() else _MATRIX[dtype]


_ahead: ContextVar[bool] = ContextVar("compiled_ahead", default=False)


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, **constants: Any) -> None:
    """Run a kernel over a grid; in ``compiled_ahead`` compile it for these arguments alone."""
    if _ahead.get():
        kernel.warmup(*arguments, grid=grid, **constants)
    else:
        kernel[tuple(grid)](*arguments, **constants)


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """Launches of this block run nothing: their kernels are compiled, several at once, and ready
    when it ends. A kernel that does not compile says so at its first launch. The interpreter
    compiles nothing, and must not be asked to."""
    mode = getattr(triton, "AsyncCompileMode", None)
    token = _ahead.set(True)
    try:
        workers = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        # Triton 3.6 stays in this mode, its workers gone, where it raises at the end.
        with workers as pool, mode(pool, ignore_errors=True) if mode else nullcontext():
            yield
    finally:
        _ahead.reset(token)
