"""What a device can do: memory, attainable bandwidth, arithmetic and launch floor, with sources."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vortex.errors import VortexError


@dataclass(frozen=True, slots=True)
class Device:
    """Figures that the cost model divides by. They are inputs of a prediction, not measurements.

    Attributes:
        memory: bytes.
        bandwidth: bytes per second that a good decode-attention kernel attains, not the peak.
        flops: bf16 operations per second of the matrix units, dense peak.
        vector_flops: float32 operations per second of the vector units, peak.
        launch_floor: seconds that one small kernel takes inside a CUDA graph, bytes apart.
        multiprocessors: units that a grid must fill; below that, attention splits and merges.
        count: devices of that kind used together; figures are then totals, communication is free.
        sources: where each figure comes from, by attribute; "assumed" marks the rest.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    vector_flops: float
    launch_floor: float
    multiprocessors: int
    sources: Mapping[str, str]
    count: int = 1


_SPEC = "NVIDIA data sheet"
_FLOOR = (
    "FlashAttention-3 decode (one attend, one merge) takes 11.0 us at batch 1, context 1K, "
    "where bytes explain about 1 us (vLLM pull request 43232)"
)

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="h200",
            memory=141e9,
            bandwidth=4.24e12,
            flops=989e12,
            vector_flops=67e12,
            launch_floor=5e-6,
            multiprocessors=132,
            sources={
                "memory": f"{_SPEC}, H200 SXM",
                "bandwidth": "FlashAttention-3 decode, batch 8, context 32K (vLLM pull request "
                "43232; the device is inferred: no H100 reaches it), 88% of the 4.8e12 peak",
                "flops": f"{_SPEC}, dense peak",
                "vector_flops": f"{_SPEC}, peak",
                "launch_floor": _FLOOR,
                "multiprocessors": f"{_SPEC}",
            },
        ),
        Device(
            name="h100",
            memory=80e9,
            bandwidth=3.0e12,
            flops=989e12,
            vector_flops=67e12,
            launch_floor=5e-6,
            multiprocessors=132,
            sources={
                "memory": f"{_SPEC}, H100 SXM",
                "bandwidth": "FlashMLA README, memory-bound decode on H800 (same memory as H100 "
                "SXM, peak 3.35e12)",
                "flops": f"{_SPEC}, dense peak",
                "vector_flops": f"{_SPEC}, peak",
                "launch_floor": f"assumed as on H200: {_FLOOR}",
                "multiprocessors": f"{_SPEC}",
            },
        ),
        Device(
            name="b200",
            memory=180e9,
            bandwidth=7.0e12,
            flops=2250e12,
            vector_flops=75e12,
            launch_floor=5e-6,
            multiprocessors=148,
            sources={
                "memory": f"{_SPEC}, HGX B200",
                "bandwidth": "assumed: 88% of the data sheet's 8e12, the share H200 attains",
                "flops": f"{_SPEC}, dense peak",
                "vector_flops": f"assumed from the {_SPEC}, peak",
                "launch_floor": f"assumed as on H200: {_FLOOR}",
                "multiprocessors": "assumed",
            },
        ),
        Device(
            name="generic",
            memory=24e9,
            bandwidth=1e12,
            flops=100e12,
            vector_flops=10e12,
            launch_floor=10e-6,
            multiprocessors=100,
            sources=dict.fromkeys(
                ("memory", "bandwidth", "flops", "vector_flops", "launch_floor", "multiprocessors"),
                "assumed: round numbers of no real device; compare ratios only",
            ),
        ),
    )
}


def device(name: str) -> Device:
    """The device of that name; ``4xh200`` is four of them, their figures added up.

    Communication between devices is not modelled, so several devices are a bound.

    Example:
        >>> device("4xh200").bandwidth == 4 * device("h200").bandwidth
        True

    Raises:
        VortexError: E402, no such device.
    """
    match = re.fullmatch(r"(?:([1-9][0-9]?)x)?([a-z0-9]+)", name.lower())
    if match is None or match[2] not in DEVICES:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise VortexError(
            f"unknown device '{name[:60]}'",
            code="E402",
            hint=f"known: {', '.join(DEVICES)}, or several as in 4xh200{guess}",
        )
    one, count = DEVICES[match[2]], int(match[1] or 1)
    if count == 1:
        return one
    return replace(
        one,
        name=f"{count}x{one.name}",
        memory=one.memory * count,
        bandwidth=one.bandwidth * count,
        flops=one.flops * count,
        vector_flops=one.vector_flops * count,
        multiprocessors=one.multiprocessors * count,
        count=count,
    )
