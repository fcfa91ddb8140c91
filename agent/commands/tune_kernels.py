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
    from pathlib import Path

    from evals.device.tuning import Job
    from vortex.triton.schedules import Tuned

_MEMORY_SHARE = 0.4
_MOST_PROCESSES = 16  # each holds a context on the GPU, and a cache of one row


def _numbers(_: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Counts of a list, each once.

    Raises:
        VortexError: E303, something else; a page size that no kernel has.
    """
    name = parameter.opts[0]
    try:
        found = tuple(int(x) for x in value.split(",") if x)
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise VortexError(
            f"{name}: '{value[:40]}' is no list of counts", code="E303",
            hint="numbers above 0, as 1,8,64",
        )  # fmt: skip
    if name == "--page-size" and any(x & (x - 1) for x in found):
        raise VortexError(
            f"{name}: kernels need powers of two, not '{value[:40]}'", code="E303", hint="16,32,64"
        )
    return tuple(dict.fromkeys(found))


def _some_seconds(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise VortexError(f"--seconds: {value:g} is no time", code="E303", hint="--seconds 600")
    return value


@click.command()
@click.option("--model", default="qwen3-1.7b", show_default=True, help="Whose heads are tuned for.")
@click.option("--batch", default="1,8,32", show_default=True, callback=_numbers)
@click.option("--context", default="32768", show_default=True, callback=_numbers)
@click.option("--page-size", default="16,32", show_default=True, callback=_numbers)
@click.option("--tokens", default="1024", show_default=True, callback=_numbers,
              help="Tokens attended.")  # fmt: skip
@click.option("--seconds", type=float, callback=_some_seconds,
              help="Start no shape after so long; run again to go on.")  # fmt: skip
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
    device = _gpu_name()
    from evals.device import tuning
    from vortex.triton.schedules import user_table

    table = user_table(device)
    jobs = list(_jobs(model, batch, context, page_size, tokens))
    known = {e.shape for e in table.entries} if table and not again else set()
    left = [j for j in jobs if j.shape not in known]
    started, failures = time.monotonic(), 0
    processes = max(1, min(_MOST_PROCESSES, (os.cpu_count() or 2) - 2))
    click.echo(f"{device}: {len(left)} shapes to tune, {len(jobs) - len(left)} in the table "
               f"already; compiling with {processes} processes", err=True)  # fmt: skip
    failed = tuning.compile_all(left, processes) if left else {}
    for job in left:
        if seconds and time.monotonic() - started > seconds:
            click.echo("out of time; run the command again to go on", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED)
        try:
            found = tuning.tune(job, failed)
        except VortexError as error:
            failures += 1
            click.echo(f"{_words(job)}: {error.render()}", err=True)
            continue
        path = _kept(device, found)
        times = ", ".join(f"{kind} {t:.1f} us" for kind, t in found.microseconds.items())
        click.echo(f"{_words(job)}: {times}")
        click.echo(f"kept in {path}", err=True)
    if failures:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _gpu_name() -> str:
    """What torch calls the GPU.

    Raises:
        VortexError: E413, there is none.
    """
    import torch

    try:
        return str(torch.cuda.get_device_name(run_device("cuda")))
    except VortexError:
        raise VortexError(
            "there is no GPU here whose kernels could be tuned", code="E413",
            hint="it needs an NVIDIA GPU that torch sees, and the package triton; elsewhere "
            "schedules follow from the tables that ship, or from a rule",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip


def _kept(device: str, found: Tuned) -> Path:
    """Put an entry into the user's table, in the place of one for the same shape."""
    import torch
    import triton

    from vortex.triton.schedules import Table, user_table, write_table

    torch.cuda.empty_cache()
    table = user_table(device)  # read again: another process may have added to it
    others = [e for e in table.entries if e.shape != found.shape] if table else []
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return write_table(Table(device, time.strftime("%Y-%m-%d"), versions, (*others, found)))


def _jobs(model: str, *lists: tuple[int, ...]) -> Iterator[Job]:
    """Every combination that has something to choose, and fits.

    Raises:
        VortexError: E303, there is none.
    """
    import torch

    from evals.device.tuning import Job

    shapes, found = geometry(model), False
    room = _MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory
    for rows, length, page, attended in itertools.product(*lists):
        workload = Workload(rows, length)
        token = shapes.kv_heads * shapes.kv_bytes("bf16")
        if attended < length and rows * length * token < room:
            found = True
            yield Job(shapes, workload, page, attended)
    if not found:
        raise VortexError(
            "no shape is left: --tokens must be below --context, and one layer's keys and values "
            f"below {_MEMORY_SHARE:.0%} of the GPU's memory", code="E303",
            hint="--batch 1 --context 32768 --tokens 1024",
        )  # fmt: skip


def _words(job: Job) -> str:
    w = job.workload
    return (
        f"batch {w.batch}, {w.context:,} tokens, pages of {job.page_size}, {job.tokens:,} attended"
    )


COMMANDS = (tune_kernels,)
