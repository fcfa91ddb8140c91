"""Triton's interpreter without work it repeats: tests of kernels spend most of their time there.

Kernels run as before, operation by operation. Three things around them are done once instead of
over and over: patching Triton's language, which each call of a device function would do again; the
table of types, which each value would build; a reduction by a function of ours, which takes slices
of a block instead of elements. A fourth is left out: sums of integers, repeated in 64 bits for an
assertion that only Triton's debug mode makes.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

# Parts of Triton that it offers no way to replace, as they are there.
_PLACES = (
    (interpreter, "_patch_lang"),
    (interpreter, "_get_np_dtype"),
    (interpreter.ReduceOps, "generic_reduce"),
)
KNOWN = hasattr(interpreter, "_LangPatchScope") and all(hasattr(*place) for place in _PLACES)
KNOWN = KNOWN and hasattr(interpreter.InterpreterOptions, "sanitize_overflow")
PLAIN = [(*place, getattr(*place)) for place in _PLACES] if KNOWN else []
_TYPES: dict[str, Any] = {}


def hasten() -> None:
    """Replace them, unless this version of Triton is built otherwise."""
    if not KNOWN:
        return
    for (owner, name, _), mine in zip(PLAIN, (_patch_once, _type_once, _reduce), strict=True):
        setattr(owner, name, mine)
    options = interpreter.interpreter_builder.options
    if not options.debug:
        interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)


@cache
def _languages(fn: Any) -> tuple[ModuleType, ...]:
    return tuple(v for v in fn.__globals__.values() if inspect.ismodule(v) and v in (tl, tl.core))


def _patch_once(fn: Any) -> Any:
    """Nothing where the launch around it has patched all that a function reads."""
    for lang in _languages(fn):
        if tl.core.is_builtin(lang.load) or tl.core.is_builtin(lang.tensor.__add__):
            return PLAIN[0][2](fn)
    return interpreter._LangPatchScope()


def _type_once(kind: Any) -> Any:
    name = kind.scalar.name
    if name not in _TYPES:
        _TYPES[name] = PLAIN[1][2](kind)
    return _TYPES[name]


def _reduce(ops: Any, parts: Any) -> list[Any]:
    """Along the axis in its order, each step for all other places at once.

    A function that branches on its values must see them one by one: none of ours does.
    """
    if ops.axis is None or not ops.combine_fn.fn.__module__.startswith("vortex."):
        return PLAIN[2][2](ops, parts)
    arrays, kinds = [p.handle.data for p in parts], [p.dtype for p in parts]
    kept = [a.take(0, ops.axis) for a in arrays]
    for i in range(1, arrays[0].shape[ops.axis]):
        both = (*kept, *(a.take(i, ops.axis) for a in arrays))
        found = ops.combine_fn.fn(*map(ops.to_tensor, both, kinds * 2))
        found = found if isinstance(found, tuple) else (found,)
        kept = [
            f.handle.data.reshape(k.shape).astype(k.dtype) for f, k in zip(found, kept, strict=True)
        ]
    if ops.keep_dims:
        kept = [np.expand_dims(k, ops.axis) for k in kept]
    return list(map(ops.to_tensor, kept, kinds))
