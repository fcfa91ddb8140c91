"""The command that tunes kernels on this machine's GPU."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from agent.devices import run_device
from vortex.errors import ExitCode, VortexError
from vortex.geometry import geometry
from vortex.workload import Workload

if TYPE_CHECKING:
    from evals.device.tuning import Job

_MEMORY_SHARE = 0.4


def _numbers(_: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(int(x) for x in value.split(",") if x)
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise VortexError(
            f"--{parameter.name}: '{value[:40]}' is no list of counts", code="E303",
            hint="numbers above 0, as 1,8,64",
        )  # fmt: skip
    return found


@click.command()
@click.option("--model", default="qwen3-1.7b", show_default=True, help="Whose heads are tuned for.")
@click.option("--batch", default="1,8,32", show_default=True, callback=_numbers)
@click.option("--context", default="32768", show_default=True, callback=_numbers)
@click.option("--page-size", default="16,32", show_default=True, callback=_numbers)
@click.option("--tokens", default="1024", show_default=True, callback=_numbers,
              help="Tokens attended.")  # fmt: skip
@click.option("--seconds", type=float, help="Start no shape after so long; run again to go on.")
@click.option("--again", is_flag=True, help="Tune shapes that the table has already.")
def tune_kernels(
    model: str,
    batch: tuple[int, ...],
    context: tuple[int, ...],
    page_size: tuple[int, ...],
    tokens: tuple[int, ...],
    seconds: float | None,
    again: bool,
) -> None:
    """Find the fastest schedules of the kernels on this GPU, and keep them for later runs."""
    run_device("cuda")
    import torch

    from evals.device import tuning
    from vortex.triton.schedules import Table, user_table, write_table

    device = str(torch.cuda.get_device_name())
    table = user_table(device)
    jobs = list(_jobs(model, batch, context, page_size, tokens))
    known = {e.shape for e in table.entries} if table and not again else set()
    jobs = [j for j in jobs if j.shape not in known]
    started = time.monotonic()
    processes = max(1, (os.cpu_count() or 2) - 2)
    click.echo(f"{device}: {len(jobs)} shapes, compiling with {processes} processes", err=True)
    failed = tuning.compile_all(jobs, processes) if jobs else {}
    until = started + seconds if seconds else float("inf")
    for job in jobs:
        if time.monotonic() > until:
            click.echo("out of time; run the command again to go on", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED)
        found = tuning.tune(job, failed, until)
        torch.cuda.empty_cache()
        others = [e for e in table.entries if e.shape != found.shape] if table else []
        table = Table(device, time.strftime("%Y-%m-%d"), _versions(), (*others, found))
        path = write_table(table)
        click.echo(_line(job, found.microseconds))
        click.echo(f"kept in {path}", err=True)


def _jobs(model: str, *lists: tuple[int, ...]) -> Iterator[Job]:
    import torch

    from evals.device.tuning import Job

    shapes = geometry(model)
    room = _MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory
    for rows, length, page, attended in itertools.product(*lists):
        workload = Workload(rows, length)
        token = shapes.kv_heads * shapes.kv_bytes("bf16")
        if attended < length and rows * length * token < room:
            yield Job(shapes, workload, page, attended)


def _versions() -> dict[str, str]:
    import torch
    import triton

    return {"torch": torch.__version__, "triton": triton.__version__}


def _line(job: Job, microseconds: dict[str, float]) -> str:
    w = job.workload
    times = ", ".join(f"{kind} {t:.1f} us" for kind, t in microseconds.items())
    return (
        f"batch {w.batch}, {w.context:,} tokens, pages of {job.page_size}, "
        f"{job.tokens:,} attended: {times}"
    )


COMMANDS = (tune_kernels,)
