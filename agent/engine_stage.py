"""The last stage of the ladder: candidates of a run in an inference engine, kept in its record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.exporting import write_export
from agent.presentation import board_of
from agent.standing import Standing, standings
from evals.engine.outcome import place_of, result_of
from evals.engine.report import EngineReport
from evals.evaluator import EVALUATOR_VERSION
from evals.result import Evaluation
from runs.engine import NOTES, PLACE, SETTINGS, engine_results
from runs.store import Store
from vortex.compile import compile_text
from vortex.errors import ExitCode, VortexError
from vortex.geometry import Geometry

Measure = Callable[[int, Path], EngineReport]  # of a candidate's number and its exported folder


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be evaluated, and how.

    Attributes:
        settings: identifies how; a candidate with results of the same is left out.
        shape: of the served model; None: it is not known, or nothing is served.
        again: evaluate also what has results.
    """

    chosen: Sequence[Standing]
    settings: str
    shape: Geometry | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate.

    Attributes:
        state: ``kept``: its results were there; ``unservable``: a part of it has no kernel;
            ``failed``: a load could not be measured, or its tokens are wrong.
        why: of the last two.
    """

    candidate: int
    state: Literal["measured", "kept", "unservable", "failed"]
    why: str = ""


def chosen_of(store: Store, ids: Sequence[int]) -> list[Standing]:
    """The candidates of these numbers, or the front, fastest first.

    Raises:
        VortexError: E609, nothing is on the front; E610, no candidate, or a control.
    """
    now = standings(store, store.config())
    if not ids:
        found = now.front()
        if not found:
            raise VortexError(
                f"run {store.name} has no front yet", code="E609",
                hint="vortex-search resume goes on, or name a candidate: --id 12",
                exit_code=ExitCode.FAILED,
            )  # fmt: skip
        return found
    for i in ids:
        if i not in now.by_id or now.by_id[i].record.control:
            raise VortexError(
                f"run {store.name} has no candidate {i} that could be served", code="E610",
                hint="vortex-search leaderboard lists the candidates",
            )  # fmt: skip
    return [now.by_id[i] for i in dict.fromkeys(ids)]


def evaluate_chosen(store: Store, asked: Asked, measure: Measure) -> Iterator[Outcome]:
    """Export, measure and record one candidate after the other.

    Each is in the record before the next is begun: what a kill ends is evaluated again.

    Raises:
        VortexError: what ``measure`` raises, which says nothing about a candidate.
    """
    lacking = {s.record.id: _lacks(s, asked.shape) for s in asked.chosen}  # texts are read first
    board = board_of(store)
    rows = {r.id: r for r in board.rows}
    known = engine_results(store)
    for s in asked.chosen:
        i = s.record.id
        mine = known.get(i, [])
        if lacking[i]:
            yield Outcome(i, "unservable", lacking[i])
            continue
        if not asked.again and any(r.complete and r.settings == asked.settings for r in mine):
            yield Outcome(i, "kept")
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "export"
            write_export(rows[i], board, folder)
            report = measure(i, folder)
        rung = 1 + max((r.rung for r in mine), default=-1)
        why = record(store, s, report, asked.settings, rung, time.monotonic() - began)
        yield Outcome(i, "failed" if why else "measured", why)


def record(
    store: Store, s: Standing, report: EngineReport, settings: str, rung: int, seconds: float
) -> str:
    """Keep a report as a result of the candidate; returns what was not measured, and why."""
    result = result_of(report, rung=rung, seconds=seconds)
    if result is None:
        return "; ".join(report.failures) or "nothing was measured"
    notes = "\n".join(" ".join(note.split()) for note in report.notes)
    facts = {SETTINGS: settings, PLACE: place_of(report), NOTES: notes}
    engine = report.engines.get("sparse") or next(iter(report.engines.values()), {})
    evaluation = Evaluation(
        evaluator_version=EVALUATOR_VERSION, structure_hash=s.record.structure_hash,
        candidate_hash=s.record.candidate_hash, stages=(result,), environment=engine | facts,
    )  # fmt: skip
    store.record(s.record.id, evaluation, name=s.record.name)
    return result.message


def _lacks(s: Standing, shape: Geometry | None) -> str:
    """Why no engine can serve it.

    Raises:
        ProgramError: its text is no program.
    """
    from vortex.triton.launches import unservable

    return unservable(compile_text(s.record.text, s.record.knobs), shape)
