"""What a run shows: one frozen table of rows, from which every view is rendered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runs.engine import EngineFigure


@dataclass(frozen=True, slots=True)
class Cell:
    """A number with its standard error; ``value`` None: not measured."""

    value: float | None
    error: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate. ``cpu_*`` and ``gpu_*`` are measured (the whole step on a GPU is predicted in
    part where the board says so), ``step_*`` and ``index_bytes`` predicted.

    Attributes:
        engine: all that was measured of it in an engine; ``engine_notes``: what that is not;
            ``engine_speedup``: the decode speed-up on the board's setting.
        title: what it is called where several of the board have its name; see runs.titles.
    """

    id: int
    name: str
    proposer: str
    control: bool
    on_front: bool
    status: str
    knobs: Mapping[str, int | float | str]
    kept_tokens: float | None
    loss_gap: Cell
    worst_gap: Cell
    worst_task: str
    needle_nll: Cell
    needle_exact: Cell
    copy_nll: Cell
    copy_top1: Cell
    single_exact: Cell
    kl: Cell
    sealed_gap: Cell
    cpu_speedup: Cell
    cpu_tokens_per_second: Cell
    step_seconds: float | None
    step_speedup: float | None
    index_bytes: float | None
    parents: tuple[int, ...]
    note: str
    program: str
    message: str
    gpu_attention: Cell = Cell(None)
    gpu_speedup: Cell = Cell(None)
    gpu_step_ms: Cell = Cell(None)
    gpu_tokens_per_second: Cell = Cell(None)
    engine_speedup: Cell = Cell(None)
    engine: tuple[EngineFigure, ...] = ()
    engine_notes: tuple[str, ...] = ()
    title: str = ""

    @property
    def called(self) -> str:
        """What to call it for a reader."""
        return self.title or self.name

    @property
    def contexts(self) -> int | None:
        """Contexts behind the loss gap: racing stops some candidates before the last."""
        return self.loss_gap.n if self.loss_gap.value is not None else None

    @property
    def seconds(self) -> float | None:
        """Of a step: on a GPU where one measured it, else predicted."""
        measured = self.gpu_step_ms.value
        return self.step_seconds if measured is None else measured / 1e3


@dataclass(frozen=True, slots=True)
class ProposerRow:
    """What one source of candidates brought.

    Attributes:
        evaluated: its candidates with a verdict, duplicates apart.
        valid: those of them that are programs of the language.
        share: of the next evaluations; None where it is given none (known algorithms, a user).
        dollars: what it cost; None where it costs nothing or that is not known.
    """

    proposer: str
    evaluated: int
    valid: int
    on_front: int
    share: float | None = None
    dollars: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """A run. Candidates come best first: the front by time, then the rest by loss.

    Attributes:
        gpu: what measured throughput and beside which full attention; empty: no GPU did.
        gpu_step_origin: ``predicted`` where attention was measured and the rest of a step priced.
        engine: in which engine, on what, speed-ups of a column of their own were measured; empty:
            in none.
    """

    run: str
    target: str
    accuracy_model: str
    standin_note: str
    device: str
    workload: str
    budgets: str
    throughput_workload: str
    rows: tuple[Row, ...]
    evaluated: int
    statuses: Mapping[str, int]
    controls_problem: str
    config: Mapping[str, object]
    environment: Mapping[str, str]
    gpu: str = ""
    gpu_step_origin: str = "measured"
    engine: str = ""
    proposers: tuple[ProposerRow, ...] = ()


_MOST_CRASHES = 3


def crashes(board: Board) -> list[str]:
    """What candidates crashed with: a line for each of the most frequent messages."""
    messages = (r.message.strip().splitlines() for r in board.rows if r.status == "crashed")
    found = Counter(lines[-1] if lines else "no message" for lines in messages)
    return [
        f"{'1 candidate' if n == 1 else f'{n} candidates'} crashed: {message}"
        for message, n in found.most_common(_MOST_CRASHES)
    ]


# The columns of the table of proposers.
PROPOSER_COLUMNS = ("from", "evaluated", "valid", "on the front", "share now", "cost")


def proposer_cells(row: ProposerRow) -> tuple[str, ...]:
    """A row under :data:`PROPOSER_COLUMNS`."""
    return (
        row.proposer, str(row.evaluated),
        f"{row.valid} ({row.valid / row.evaluated:.0%})" if row.evaluated else "0",
        str(row.on_front), "–" if row.share is None else f"{row.share:.0%}",
        "–" if row.dollars is None else f"${row.dollars:.2f}",
    )  # fmt: skip


# The columns of every table: heading, attribute, number format, how it was obtained.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("loss gap", "loss_gap", ".3f", "measured"),
    ("contexts", "contexts", ".0f", "measured"),
    ("worst task", "worst_gap", ".3f", "measured"),
    ("needle nll", "needle_nll", ".2f", "measured"),
    ("needle exact", "needle_exact", ".2f", "measured"),
    ("copy top-1", "copy_top1", ".2f", "measured"),
    ("sealed gap", "sealed_gap", ".3f", "measured"),
    ("CPU speed-up", "cpu_speedup", ".2f", "measured"),
    ("step ms", "step_ms", ".3f", "predicted"),
    ("speed-up", "step_speedup", ".2f", "predicted"),
    ("index B/token", "index_bytes", ".0f", "predicted"),
)


_ON_GPU = (
    ("GPU attention", "gpu_attention", ".2f", "measured"),
    ("GPU speed-up", "gpu_speedup", ".2f", "measured"),
    ("GPU step ms", "gpu_step_ms", ".3f", "measured"),
)


_IN_ENGINE = ("engine speed-up", "engine_speedup", ".2f", "measured")


def columns(board: Board) -> tuple[tuple[str, str, str, str], ...]:
    """The columns of a board: what its kind of run measured."""
    found = _by_device(board)
    if not board.engine:
        return found
    at = next(i for i, c in enumerate(found) if c[1] == "step_ms")  # measured before predicted
    return (*found[:at], _IN_ENGINE, *found[at:])


def _by_device(board: Board) -> tuple[tuple[str, str, str, str], ...]:
    if not board.gpu:
        return COLUMNS
    own = [(h, a, f, o if a == "gpu_attention" else board.gpu_step_origin)
           for h, a, f, o in _ON_GPU]  # fmt: skip
    at = next(i for i, c in enumerate(COLUMNS) if c[1] == "cpu_speedup")
    return (*COLUMNS[:at], *own, *COLUMNS[at + 1 :])


# Numbers that files carry beside the columns.
MORE: tuple[tuple[str, str, str, str], ...] = (
    ("copy nll", "copy_nll", ".2f", "measured"),
    ("single exact", "single_exact", ".2f", "measured"),
    ("KL to full", "kl", ".4f", "measured"),
    ("CPU tokens/s", "cpu_tokens_per_second", ".1f", "measured"),
    ("kept tokens", "kept_tokens", ".0f", "predicted"),
)
UNITS = {
    "needle_nll": "nats", "copy_nll": "nats", "kl": "nats", "step_ms": "ms", "gpu_step_ms": "ms",
    "index_bytes": "bytes", "cpu_tokens_per_second": "tokens/s", "kept_tokens": "tokens",
    "contexts": "contexts",
}  # fmt: skip


def workload_of(board: Board, attribute: str, origin: str) -> str:
    """The workload that a number was obtained on."""
    if attribute.startswith("gpu_"):
        return board.workload
    if attribute.startswith("cpu_"):
        return board.throughput_workload
    return board.workload if origin == "predicted" else board.budgets


def finite(value: object) -> object:
    """JSON has no infinity and no NaN: they become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(v) for v in value]
    return value


def cell_of(row: Row, attribute: str) -> Cell:
    """A column's number, whatever kind it is."""
    if attribute == "step_ms":
        return Cell(None if row.step_seconds is None else row.step_seconds * 1e3)
    value = getattr(row, attribute)
    return value if isinstance(value, Cell) else Cell(value)


def shown(cell: Cell, form: str) -> str:
    """``value ± error``, or a dash."""
    if cell.value is None:
        return "–"
    error = "" if cell.error is None else f" ± {cell.error:{form}}"
    return f"{cell.value:{form}}{error}"
