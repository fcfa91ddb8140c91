"""What the commands about one program share: its text, its knobs, a worker that runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from agent.crew import MachineFault
from agent.workers import HANDLER, crew_for
from evals.models.fetch import cache_dir
from runs.records import RunConfig
from vortex.errors import ExitCode, ProgramError, VortexError
from vortex.guards import MAX_BYTES

PREFILL_SECONDS, SCREEN_SECONDS = 600.0, 120.0


def read_program(path: Path) -> str:
    """The text of a program file; no more of it than a program may have.

    Raises:
        VortexError: E192, it cannot be read as text.
    """
    try:
        with path.open("rb") as file:
            return file.read(64 * MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VortexError(
            f"cannot read {path}: {error}", code="E192", hint="name a UTF-8 file with one program"
        ) from None


def parse_knobs(pairs: tuple[str, ...]) -> dict[str, int | float | str]:
    """``name=value`` pairs; numbers where they look like numbers.

    Raises:
        VortexError: E204.
    """
    knobs: dict[str, int | float | str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise VortexError(f"'{pair}' is not NAME=VALUE", code="E204", hint="--knob budget=2048")
        for kind in (int, float, str):
            try:
                knobs[name] = kind(value)
                break
            except ValueError:
                continue
    return knobs


@contextmanager
def errors_as_json(wanted: bool) -> Iterator[None]:
    """Where wanted, a program's errors go to stdout as data, and the process ends as it would."""
    try:
        yield
    except ProgramError as error:
        if not wanted:
            raise
        listed = [
            {"code": d.code, "message": d.message, "span": d.span, "hint": d.hint}
            for d in error.diagnostics
        ]
        click.echo(json.dumps({"ok": False, "errors": listed}, indent=2))
        raise click.exceptions.Exit(ExitCode.USAGE) from None


def some_contexts(_: click.Context, __: click.Parameter, value: int) -> int:
    """The value of ``--contexts``.

    Raises:
        VortexError: E303, below 1.
    """
    if value < 1:
        raise VortexError(f"{value} contexts measure nothing", code="E303", hint="--contexts 3")
    return value


def in_worker(
    config: RunConfig,
    contexts: int,
    batches: list[list[tuple[dict[str, Any], float]]],
    files: Path,
) -> list[list[Any]]:
    """The answers to each batch of requests; a batch stops at its first failed stage.

    Raises:
        VortexError: E509, the machine fails.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    maker = crew_for(config, 1, handler=HANDLER, prefilling=True)
    crew = crew_for(config, 1, handler=HANDLER, files=(files,))
    try:
        prefills = [({"kind": "prefill", "index": i}, PREFILL_SECONDS) for i in range(contexts)]
        maker.submit(prefills).result()
        maker.close()
        return [crew.submit(batch).result() for batch in batches]
    except MachineFault as fault:
        raise VortexError(
            f"evaluation failed on this machine: {fault}", code="E509",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip
    finally:
        maker.close()
        crew.close()
