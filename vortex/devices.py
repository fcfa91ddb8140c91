"""What a device can do: memory, attainable bandwidth, arithmetic and launch floor, with sources."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vortex.errors import VortexError


@dataclass(frozen=True, slots=True)
class Device:
    """Figures that the cost model divides by: inputs of a prediction.

    Attributes:
        memory: bytes.
        bandwidth: bytes per second that decode attention attains, not the peak.
        flops: bf16 operations per second of the matrix units, dense peak.
        multiprocessors: units that a grid must fill.
        launch_floor: seconds of a launch inside a CUDA graph with one chain of dependent reads.
        attend_latency: seconds that attention's longer chain adds (list, pages, keys, merge).
        program_rate: bytes per second that one program of attention goes through at most.
        latent_whole_rate: the same on MLA over everything, where products lie differently.
        merge_latency: seconds for each split that MLA's attention merges.
        flash_mla_rate: bytes per second of one program of FlashMLA over everything; 0 where it
            is not there, and MLA's full attention is our own kernel's.
        gather_bandwidth: bytes per second of fields of scattered pages.
        vector_rate: operations per second of score graphs on the vector units, attained.
        query_rate: numbers of queries that scoring programs take in per second, all together.
        pass_latency: seconds of a selection pass over a row, its pages apart.
        page_seconds: seconds that a page adds to the selection of its row.
        select_rate: pages per second that selections of many rows go through, all together.
        spill: how much more a page costs selection past what a program's registers hold.
        count: devices of that kind used together; figures are then totals, communication is free.
        sources: where each figure comes from, by attribute; "assumed" marks the rest.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    multiprocessors: int
    launch_floor: float
    attend_latency: float
    program_rate: float
    latent_whole_rate: float
    merge_latency: float
    flash_mla_rate: float
    gather_bandwidth: float
    vector_rate: float
    query_rate: float
    pass_latency: float
    page_seconds: float
    select_rate: float
    spill: float
    sources: Mapping[str, str]
    count: int = 1


_SPEC = "NVIDIA data sheet"
_FITTED = (
    "fitted: python benchmarks/gpu_cost.py --fit benchmarks/results/gpu_points_h200.json, "
    "one half of 65 points measured on an H200, 2026-11-24"
)
_FLASH_MLA = "measured: FlashMLA at 32 x 32K, benchmarks/results/flash_mla_h200.json, 2026-11-27"
# Figures of kernels on an H200, by attribute.
_KERNELS: Mapping[str, Any] = {
    "launch_floor": 2.74e-6,
    "attend_latency": 4.29e-6,
    "program_rate": 16.1e9,
    "latent_whole_rate": 18.4e9,
    "merge_latency": 1.16e-6,
    "flash_mla_rate": 28.9e9,
    "gather_bandwidth": 3.87e12,
    "vector_rate": 27.1e12,
    "query_rate": 0.753e12,
    "pass_latency": 0.411e-6,
    "page_seconds": 1.12e-9,
    "select_rate": 38.5e9,
    "spill": 0.574,
}
_BANDWIDTH, _UNITS = 4.57e12, 132


def _assumed(bandwidth: float, multiprocessors: int) -> dict[str, Any]:
    """Kernel figures of a device that was not measured: the H200's latencies, its rates in
    proportion to the bandwidth or the multiprocessors."""
    by_bandwidth, by_units = bandwidth / _BANDWIDTH, multiprocessors / _UNITS
    found = dict(_KERNELS)
    for name in ("gather_bandwidth", "flash_mla_rate"):
        found[name] *= by_bandwidth
    for name in ("vector_rate", "query_rate", "select_rate"):
        found[name] *= by_units
    return found


def _assumed_sources() -> dict[str, str]:
    return dict.fromkeys(_KERNELS, f"assumed: the H200's, rates scaled ({_FITTED})")


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="h200",
            memory=141e9,
            bandwidth=_BANDWIDTH,
            flops=989e12,
            multiprocessors=_UNITS,
            **_KERNELS,
            sources={
                "memory": f"{_SPEC}, H200 SXM",
                "bandwidth": f"{_FITTED}; 95% of the 4.8e12 peak",
                "flops": f"{_SPEC}, dense peak",
                "multiprocessors": f"{_SPEC}",
                **dict.fromkeys(_KERNELS, _FITTED),
                "flash_mla_rate": _FLASH_MLA,
            },
        ),
        Device(
            name="h100",
            memory=80e9,
            bandwidth=3.0e12,
            flops=989e12,
            multiprocessors=132,
            **_assumed(3.0e12, 132),
            sources={
                "memory": f"{_SPEC}, H100 SXM",
                "bandwidth": "FlashMLA README, memory-bound decode on H800 (same memory as H100 "
                "SXM, peak 3.35e12)",
                "flops": f"{_SPEC}, dense peak",
                "multiprocessors": f"{_SPEC}",
                **_assumed_sources(),
            },
        ),
        Device(
            name="b200",
            memory=180e9,
            bandwidth=7.0e12,
            flops=2250e12,
            multiprocessors=148,
            **_assumed(7.0e12, 148),
            sources={
                "memory": f"{_SPEC}, HGX B200",
                "bandwidth": "assumed: 88% of the data sheet's 8e12",
                "flops": f"{_SPEC}, dense peak",
                "multiprocessors": "assumed",
                **_assumed_sources(),
            },
        ),
        Device(
            name="generic",
            memory=24e9,
            bandwidth=1e12,
            flops=100e12,
            multiprocessors=100,
            **_assumed(1e12, 100),
            sources={
                **dict.fromkeys(
                    ("memory", "bandwidth", "flops", "multiprocessors"),
                    "assumed: round numbers of no real device; compare ratios only",
                ),
                **_assumed_sources(),
            },
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
    # Rates of the whole device add up; latencies, and what one program does, stay.
    rates = (
        "memory", "bandwidth", "flops", "gather_bandwidth", "vector_rate", "query_rate",
        "select_rate",
    )  # fmt: skip
    totals: dict[str, Any] = {name: getattr(one, name) * count for name in rates}
    return replace(
        one,
        name=f"{count}x{one.name}",
        multiprocessors=one.multiprocessors * count,
        count=count,
        **totals,
    )
