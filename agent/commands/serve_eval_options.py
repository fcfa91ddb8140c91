"""The command line of ``serve-eval``, read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vortex.errors import VortexError, printable

if TYPE_CHECKING:
    from evals.engine.serving_throughput import Point

_DIGITS = 8  # of a batch or a context


@dataclass(frozen=True)
class Options:
    """The command line, read."""

    export: Path
    model: str | None
    weights: Path | None
    problems: Path | None
    ruler: tuple[str, ...]
    lengths: tuple[int, ...]
    count: int
    samples: int
    temperature: float
    top_p: float
    tokens: int
    chat: bool
    throughput: tuple[Point, ...]
    pairs: int
    rate: float | None
    first_limit: float
    gap_limit: float
    url: str | None
    full_url: str | None
    served: str | None
    full_backend: str | None
    local: bool
    memory: float
    at_once: int
    seed: int


def _bad(what: str, value: str, hint: str) -> VortexError:
    return VortexError(f"{what}: cannot read '{printable(value, limit=40)}'", code="E907",
                       hint=hint)  # fmt: skip


def _count(text: str) -> int:
    """A number above 0 that some cache may hold, else 0."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def points(_: click.Context, __: click.Parameter, value: str) -> tuple[Point, ...]:
    """BATCHxCONTEXT, separated by commas.

    Raises:
        VortexError: E907.
    """
    from evals.engine.serving_throughput import Point

    found = []
    for part in filter(None, value.split(",")):
        rows, _cross, context = part.strip().partition("x")
        if not (_count(rows) and _count(context)):
            raise _bad("--throughput", part, "batch x context, as 16x32768,32x16384")
        found.append(Point(int(rows), int(context)))
    return tuple(dict.fromkeys(found))


def lengths(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [x.strip() for x in value.split(",") if x.strip()]
    if not parts or not all(_count(x) for x in parts):
        raise _bad("--lengths", value, "numbers of tokens, as 4096,16384")
    return tuple(dict.fromkeys(map(int, parts)))


def kinds(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    from evals.engine.generators import KINDS

    named = tuple(x.strip() for x in value.split(",") if x.strip())
    for kind in named:
        if kind != "all" and kind not in KINDS:
            raise VortexError(f"no generator is called '{printable(kind, limit=40)}'", code="E902",
                              hint=f"all, or some of {', '.join(KINDS)}")  # fmt: skip
    return tuple(KINDS) if "all" in named else named


def above(least: float) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def check(_: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None and not value > least:
            said = f"above {least:g}" if least >= 0 else "of 0 or more"
            raise _bad(parameter.opts[0], str(value), f"a number {said}")
        return value

    return check
