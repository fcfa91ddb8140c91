"""Predicts, at start, up to which length a step of full attention is the cheaper one."""

from __future__ import annotations

from dataclasses import replace

from vortex.cost import price
from vortex.devices import DEVICES, Device
from vortex.errors import VortexError
from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.serving.sglang.sparse import Served
from vortex.workload import Workload

GAIN = 1.15  # that sparse attention must be predicted to bring: the cost model is about that good
MOST_ROWS = 1024
_STEP = 64  # tokens that a bound is found to


def dense_bounds(
    candidate: Candidate, served: Served, kv_dtype: str, *, inner: str
) -> tuple[int, ...]:
    """Tokens up to which dense steps are predicted to be cheaper, for batches of 1, 2, 4, ...
    sequences of one length; never more for a larger batch, and all 0 on a device without figures.

    Attention alone is priced: all else is the same. In a batch of mixed lengths, of which the
    longest is within the bound, dense steps are cheaper still: they read less, and what choosing
    costs at the least stays.

    Args:
        inner: the backend that full attention would be served by.
    """
    device = known(served.device)
    counts = [1 << i for i in range(MOST_ROWS.bit_length())]
    if device is None or (served.kind == "gqa" and served.dim != served.vdim):
        return (0,) * len(counts)
    if inner != "flashmla":  # then it is no faster than our own kernel
        device = replace(device, flash_mla_rate=0.0)
    shape, bounds = _geometry(served), list[int]()
    most = served.context
    for rows in counts:
        most = _bound(candidate, shape, device, rows, most, kv_dtype)
        bounds.append(most)
    return tuple(bounds)


def bound_of(bounds: tuple[int, ...], rows: int) -> int:
    """The bound of a batch: that of the next larger one listed."""
    return bounds[min((rows - 1).bit_length(), len(bounds) - 1)] if bounds else 0


def known(name: str) -> Device | None:
    """The figures of a device, by the name that torch gives it."""
    words = name.lower().replace("-", " ").split()
    return next((DEVICES[word] for word in words if word in DEVICES), None)


def _bound(
    candidate: Candidate, shape: Geometry, device: Device, rows: int, most: int, kv_dtype: str
) -> int:
    """By bisection: the gain grows with the length, but for steps of the schedule."""

    def cheaper(steps: int) -> bool:
        try:
            at = Workload(batch=rows, context=steps * _STEP, kv_dtype=kv_dtype)
            return price(candidate, shape, at, device).speedup_attention < GAIN
        except VortexError:
            return False  # it cannot be priced

    low, high = 0, most // _STEP
    if high and cheaper(high):
        return most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cheaper(middle) else (low, middle - 1)
    return low * _STEP


def _geometry(served: Served) -> Geometry:
    """The attention of a model, without its weights."""
    latent = served.kind == "mla"
    return Geometry(
        name="served", kind=served.kind, layers=served.layers, hidden=0,
        heads=served.group * served.kv_heads, kv_heads=served.kv_heads, head_dim=served.dim,
        kv_lora_rank=served.vdim if latent else 0,
        rope_dim=served.rope[1], vocab=0, max_context=served.context,
        dense_parameters=0, dense_bytes=0, embedding_bytes=0, experts=None, weight_dtype="bf16",
        source="the engine",
    )  # fmt: skip
