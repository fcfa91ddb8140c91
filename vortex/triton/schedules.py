"""Which schedule a decode step runs with on a device: tuned where it was, else by rule."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vortex.errors import ExitCode, VortexError, unwritable
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.triton.module import cache_home

# A tuned shape is taken for another if this many doublings, weighed, lie between them.
_FAR = 4.0
_MULTIPROCESSORS = 132
_MOST_SPLITS = 64


@dataclass(frozen=True, slots=True)
class StepShape:
    """What decides how kernels are cut.

    Attributes:
        rows: sequences times KV heads.
        group: query heads of a KV head.
        dim, vdim: columns of a key and of a value.
        context: tokens in the cache of a sequence; ``attended``: those that a row reads.
        index_bytes: fields of one page and KV head.
    """

    kind: Literal["gqa", "mla"]
    rows: int
    group: int
    dim: int
    vdim: int
    page_size: int
    context: int
    attended: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """The fastest schedule that was found for a shape, and microseconds of a layer's stages."""

    shape: StepShape
    schedule: Schedule
    microseconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Table:
    """What was tuned on a device, when, and with which versions."""

    device: str
    date: str
    versions: dict[str, str]
    entries: tuple[Tuned, ...]


def schedule_for(device: str, shape: StepShape) -> Schedule:
    """The schedule of the nearest tuned shape, splits adapted; by rule where none is near.

    Args:
        device: as torch names it.

    Raises:
        VortexError: E614, the user's own table is damaged.
    """
    known = [e for e in entries(device) if e.shape.kind == shape.kind]
    nearest = min(known, key=lambda e: distance(e.shape, shape), default=None)
    if nearest is None or distance(nearest.shape, shape) > _FAR:
        return by_rule(shape)
    return _adapted(nearest, shape)


def distance(a: StepShape, b: StepShape) -> float:
    """Doublings between two shapes of a kind, weighed by what they change."""

    def doublings(x: int, y: int) -> float:
        return abs(math.log2(max(1, x) / max(1, y)))

    return (
        0.5 * doublings(a.rows, b.rows) + 0.5 * doublings(a.context, b.context)
        + 0.25 * doublings(a.attended, b.attended) + 0.5 * doublings(a.page_size, b.page_size)
        + 0.5 * doublings(a.index_bytes, b.index_bytes) + doublings(a.dim, b.dim)
        + 0.5 * doublings(a.group, b.group)
    )  # fmt: skip


def _adapted(found: Tuned, shape: StepShape) -> Schedule:
    """A tuned schedule with as many programs as it was tuned with, none without a tile."""
    more = found.shape.rows / shape.rows
    schedule = found.schedule

    def fitted(part: AttendSchedule, tokens: int) -> AttendSchedule:
        most = max(1, -(-tokens // part.block))
        wanted = round(part.splits * more)
        return replace(part, splits=max(1, min(wanted, most, _MOST_SPLITS)))

    return replace(
        schedule, attend=fitted(schedule.attend, shape.attended),
        full=fitted(schedule.full, shape.context),
    )  # fmt: skip


def by_rule(shape: StepShape) -> Schedule:
    """Two programs for each multiprocessor, and no split without a tile."""
    pages = shape.context // shape.page_size
    block = 64
    while block > 32 and shape.rows * (pages // block) < _MULTIPROCESSORS:
        block //= 2
    # One launch saves its start; long rows of many sequences select faster in their own.
    score = ScoreSchedule(block=block, joined=pages <= 4096 or shape.rows < 64)
    if shape.kind == "mla":
        sparse = _splits(_MULTIPROCESSORS / shape.rows, shape.attended)
        full = _splits(max(4.0, 2 * _MULTIPROCESSORS / shape.rows), shape.context)
        return Schedule(
            score, AttendSchedule(64, sparse, 4, 2, transposed=True), AttendSchedule(64, full, 4, 2)
        )
    sparse = _splits(2 * _MULTIPROCESSORS / shape.rows, shape.attended)
    # Four splits at least: the last wave of programs is short.
    full = _splits(max(4.0, 2 * _MULTIPROCESSORS / shape.rows), shape.context)
    first = AttendSchedule(32 if sparse == 1 else 64, sparse, 4, 3)
    return Schedule(score, first, AttendSchedule(64, full, 4, 3))


def _splits(wanted: float, tokens: int) -> int:
    most = max(1, min(_MOST_SPLITS // 2, -(-tokens // 64)))
    return max(1, min(most, 1 << int(math.log2(max(1.0, wanted)))))


def entries(device: str) -> tuple[Tuned, ...]:
    """What is known of a device: the user's own first, then what ships.

    Raises:
        VortexError: E614, the user's own table is damaged.
    """
    own = user_table(device)
    return (own.entries if own else ()) + _shipped().get(device, ())


@cache
def _shipped() -> dict[str, tuple[Tuned, ...]]:
    return {table.device: table.entries for table in _shipped_tables()}


def _shipped_tables() -> Iterator[Table]:
    folder = resources.files("vortex.triton") / "tuned"
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name.endswith(".json"):
            yield read_table(file.read_text(encoding="utf-8"))


def user_path(device: str) -> Path:
    """Where ``tune-kernels`` keeps what it found on a device."""
    name = "".join(c if c.isalnum() else "-" for c in device.lower())
    return cache_home() / "kernels" / "tuned" / f"{name}.json"


def user_table(device: str) -> Table | None:
    """The user's own table, if there is one.

    Raises:
        VortexError: E614, it is damaged.
    """
    path = user_path(device)
    if not path.is_file():
        return None
    try:
        return read_table(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VortexError(
            f"{path} is no table of schedules: {type(error).__name__}: {error}",
            code="E614",
            hint="remove it, and tune again: vortex-search tune-kernels",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None


def write_table(table: Table) -> Path:
    """Keep a table as the user's own, in one step.

    Raises:
        VortexError: E604, it cannot be written.
    """
    path = user_path(table.device)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(asdict(table), indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise unwritable(path, error, "name another folder by VORTEX_CACHE") from None
    return path


def read_table(text: str) -> Table:
    """A table from its JSON text; raises what its damage leads to, ValueError for its numbers."""
    data = json.loads(text)
    return Table(
        str(data["device"]), str(data["date"]), dict(data["versions"]),
        tuple(_entry(e) for e in data["entries"]),
    )  # fmt: skip


def _entry(data: dict[str, Any]) -> Tuned:
    parts = data["schedule"]
    schedule = Schedule(
        ScoreSchedule(**parts["score"]), AttendSchedule(**parts["attend"]),
        AttendSchedule(**parts["full"]),
    )  # fmt: skip
    shape, times = StepShape(**data["shape"]), dict(data["microseconds"])
    if shape.kind not in ("gqa", "mla"):
        raise ValueError(f"no kind of attention: {str(shape.kind)[:40]!r}")
    # A program that ranks nothing keeps no fields.
    _counts(asdict(shape), {"index_bytes": 0}, ("kind",))
    for part in (schedule.score, schedule.attend, schedule.full):
        _counts(asdict(part), {"block": 16}, ("joined", "transposed"))
        if part.block & (part.block - 1):
            raise ValueError(f"a block of {part.block} is no power of two")
    return Tuned(shape, schedule, {str(k): float(v) for k, v in times.items()})


def _counts(values: dict[str, Any], least: dict[str, int], others: tuple[str, ...]) -> None:
    """Refuse what is no count, or below the least that it may be (1 unless said)."""
    for name, value in values.items():
        if name not in others and (type(value) is not int or value < least.get(name, 1)):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
