"""Where a search runs: the GPU of this machine, or its processor."""

from __future__ import annotations

import importlib.util

import torch

from vortex.devices import DEVICES
from vortex.errors import ExitCode, VortexError

_HINT = "--device auto, cpu, cuda or cuda:N; times are predicted for another device by --price-for"


def run_device(wanted: str | None) -> str:
    """``cpu`` or ``cuda:N``; the GPU where there is one and nothing else is asked for.

    Raises:
        VortexError: E303, no such device; E413, there is no GPU here.
    """
    name = (wanted or "auto").lower()
    usable = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
    if name == "auto":
        return "cuda:0" if usable else "cpu"
    if name == "cpu":
        return name
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise VortexError(f"there is no device '{name[:40]}' to run on", code="E303", hint=_HINT)
    if not usable or int(number or 0) >= torch.cuda.device_count():
        raise VortexError(
            f"there is no '{name}' on this machine",
            code="E413",
            hint="it needs an NVIDIA GPU that torch sees, and the package triton; or --device cpu",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return f"cuda:{number or 0}"


def priced_device(run_on: str) -> str:
    """The device whose figures fit the GPU at hand; ``h200`` where nothing else is known."""
    if run_on == "cpu":
        return "h200"
    name = torch.cuda.get_device_name(run_on).lower()
    return next((d for d in DEVICES if d in name), "generic")
