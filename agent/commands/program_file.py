"""What the commands about one program share: its text, its knobs, a worker that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent.crew import MachineFault
from agent.workers import HANDLER, crew_for
from evals.models.fetch import make_cache
from runs.records import RunConfig
from vortex.errors import ExitCode, VortexError
from vortex.guards import MAX_BYTES

PREFILL_SECONDS, SCREEN_SECONDS = 600.0, 120.0
MOST_CONTEXTS = 10_000


def read_program(path: Path) -> str:
    """The text of a program file; no more of it than a program may have.

    Raises:
        VortexError: E192, it cannot be read as text.
    """
    try:
        with path.open("rb") as file:
            return file.read(64 * MAX_BYTES).decode("utf-8")
    except OSError as error:
        why = error.strerror or str(error)
    except UnicodeDecodeError as error:
        why = f"it is no UTF-8 text, from byte {error.start} on"
    raise VortexError(f"cannot read {path}: {why}", code="E192", hint="name a UTF-8 text file")


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


def some_contexts(_: click.Context, __: click.Parameter, value: int) -> int:
    """The value of ``--contexts``.

    Raises:
        VortexError: E303, below 1, or too many.
    """
    if value < 1:
        raise VortexError(f"{value} contexts measure nothing", code="E303", hint="--contexts 3")
    require_contexts(value)
    return value


def require_contexts(contexts: int) -> None:
    """Refuse a number of contexts that no machine gets through.

    Raises:
        VortexError: E303.
    """
    if contexts > MOST_CONTEXTS:
        raise VortexError(
            f"{contexts} contexts are too many", code="E303",
            hint=f"at most {MOST_CONTEXTS:,}; some dozens give small errors",
        )  # fmt: skip


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
    make_cache()
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
