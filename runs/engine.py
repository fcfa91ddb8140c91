"""What a run knows of its candidates in an inference engine, as views show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evals.engine.outcome import SPEEDUP
from evals.result import Metric, Stage, Status
from runs.store import Store

SETTINGS, PLACE, NOTES = "settings", "place", "notes"  # of the environment of a result
_MAIN = ("decode_", "mean@", "_ratio")


class Setting(NamedTuple):
    """What two numbers must share to stand in one column."""

    place: str
    device: str
    model: str
    workload: str


@dataclass(frozen=True, slots=True)
class EngineFigure:
    """One measured number of a candidate, as in its record.

    Attributes:
        name: ``engine_...`` in an engine, ``local_...`` by our own executor without one; full
            attention's have ``full_`` after that.
        place: engine and version, and whether weights were random.
    """

    name: str
    value: float
    error: float | None
    n: int
    unit: str
    origin: str
    device: str
    model: str
    workload: str
    place: str
    interval: tuple[float, float] | None = None

    @property
    def setting(self) -> Setting:
        """What it was measured on."""
        return Setting(self.place, self.device, self.model, self.workload)


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One evaluation of a candidate.

    Attributes:
        settings: identifies what was asked for.
        notes: what its numbers are not, a line each.
    """

    rung: int
    settings: str
    status: Status
    message: str
    notes: tuple[str, ...]
    figures: tuple[EngineFigure, ...]

    @property
    def complete(self) -> bool:
        """Whether asking again would only repeat it."""
        return self.status != Status.OK or not self.message


def engine_results(store: Store) -> dict[int, list[EngineResult]]:
    """Of every candidate that has some, oldest first."""
    where, found = store.environments(Stage.ENGINE), dict[int, list[EngineResult]]()
    if not where:
        return found
    for candidate, stages in store.stages().items():
        for s in stages:
            if s.stage == Stage.ENGINE:
                facts = where[candidate, s.rung]
                figures = tuple(_figure(m, facts.get(PLACE, "unknown engine")) for m in s.metrics)
                result = EngineResult(
                    s.rung, facts.get(SETTINGS, ""), s.status, s.message,
                    tuple(facts.get(NOTES, "").splitlines()), figures,
                )  # fmt: skip
                found.setdefault(candidate, []).append(result)
    return found


def _figure(m: Metric, place: str) -> EngineFigure:
    return EngineFigure(
        m.name, m.value, m.stderr, m.n, m.unit, m.origin, m.device, m.model, m.workload, place,
        m.interval,
    )  # fmt: skip


def latest(results: Iterable[EngineResult]) -> tuple[EngineFigure, ...]:
    """Every number as it was measured last on its setting."""
    found = {(f.name, f.setting): f for r in results for f in r.figures}
    return tuple(found.values())


def notes_of(results: Iterable[EngineResult]) -> tuple[str, ...]:
    """What a reader of the numbers must know, each once."""
    return tuple(dict.fromkeys(note for r in results for note in r.notes))


def column(figures: Mapping[int, Sequence[EngineFigure]]) -> Setting | None:
    """The setting on which most candidates have a decode speed-up: one column holds one only."""
    known = Counter(f.setting for mine in figures.values() for f in mine if f.name == SPEEDUP)
    return max(known, key=lambda s: (known[s], s)) if known else None


def at(figures: Sequence[EngineFigure], name: str, setting: Setting | None) -> EngineFigure | None:
    """A candidate's number on a setting."""
    return next((f for f in figures if f.name == name and f.setting == setting), None)


def main_figures(figures: Sequence[EngineFigure]) -> list[EngineFigure]:
    """Decode rates, shares right, and what compares them: what a summary shows."""
    return [f for f in figures if any(part in f.name for part in _MAIN)]


def said(setting: Setting) -> str:
    """A setting in words."""
    return f"{setting.place} on {setting.device}, {setting.model}, {setting.workload}"


def figure_lines(figures: Sequence[EngineFigure]) -> list[str]:
    """Numbers by where they were measured, full attention's beside the program's own."""
    lines = []
    for setting in dict.fromkeys(f.setting for f in figures):
        mine = {f.name: f for f in figures if f.setting == setting}
        lines.append(f"measured in {said(setting)}:")
        for name, f in mine.items():
            prefix, _, rest = name.partition("_")
            if rest.startswith("full_") and f"{prefix}_{rest.removeprefix('full_')}" in mine:
                continue
            full = mine.get(f"{prefix}_full_{rest}")
            beside = f"; full attention {_number(full)}" if full else ""
            lines.append(f"  {rest} {_number(f)}{beside} (n = {f.n})")
    return lines


def _number(figure: EngineFigure) -> str:
    error = "" if figure.error is None else f" ± {figure.error:.4g}"
    interval = f" [{figure.interval[0]:.4g}, {figure.interval[1]:.4g}]" if figure.interval else ""
    unit = "" if figure.unit == "1" else f" {figure.unit}"
    return f"{figure.value:.4g}{error}{interval}{unit}"
