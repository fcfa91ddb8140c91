"""Crews for a run: which handler judges, and what its workers may touch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.crew import Crew
from evals.models.fetch import cache_dir
from evals.sandbox import Limits
from runs.records import RunConfig

HANDLER = "evals.evaluator:Evaluator"
DEVICE_HANDLER = "evals.device.evaluator:DeviceEvaluator"


def worker_config(config: RunConfig) -> dict[str, Any]:
    """What a worker needs to know of a run."""
    return {
        "accuracy_model": config.accuracy_model, "target": config.model, "run_on": config.device,
        "price_for": config.price_for, "batch": config.batch, "context": config.context,
        "kv_dtype": config.kv_dtype, "context_tokens": config.context_tokens,
        "min_recovered": config.min_recovered,
    }  # fmt: skip


def crew_for(
    config: RunConfig,
    size: int,
    *,
    handler: str = HANDLER,
    prefilling: bool = False,
    files: tuple[Path, ...] = (),
    probe: Mapping[str, Any] | None = None,
) -> Crew:
    """A crew for a run's requests.

    Args:
        handler: ours for the CPU is replaced by ours for a GPU.
        prefilling: workers may write to the cache.
        files: folders that candidates' own files are read from.
    """
    home = cache_dir()
    writable: tuple[Path, ...] = (home,) if prefilling else ()
    if config.on_gpu:
        handler = DEVICE_HANDLER if handler == HANDLER else handler
        kept = (home / "triton", home / "kernels")
        for folder in kept:
            folder.mkdir(parents=True, exist_ok=True)
        writable = writable or kept
    limits = Limits(memory=None) if config.on_gpu else None
    return Crew(
        handler, worker_config(config), size=size, readable=(home, *files), writable=writable,
        probe=probe, limits=limits,
    )  # fmt: skip
