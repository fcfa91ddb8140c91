"""Writes a candidate as a folder that anyone can read, check and run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.engine.outcome import ENGINE
from runs.board import MORE, UNITS, Board, Row, cell_of, columns, finite, shown, workload_of
from runs.engine import EngineFigure, figure_lines, main_figures
from runs.leaderboard import escaped, facts
from vortex.errors import ExitCode, VortexError, unwritable

TOLERABLE, SURE = 0.25, 1.64  # a loss gap, and the standard errors that are added to one
BEST_RULE = (
    f"the front's fastest member whose loss gap plus {SURE} standard errors is at most {TOLERABLE};"
    " if none is, the one with the smallest loss gap"
)


def best_of(board: Board) -> tuple[Row, str]:
    """The candidate that :data:`BEST_RULE` says, and why it is that one.

    Raises:
        VortexError: E609, nothing is on the front.
    """
    members = [r for r in board.rows if r.on_front and not r.control]
    if not members:
        raise VortexError(
            f"run {board.run} has no front yet", code="E609", hint="vortex-search resume goes on",
            exit_code=ExitCode.FAILED,
        )  # fmt: skip

    def bound(row: Row) -> float:
        value, error = row.loss_gap.value, row.loss_gap.error
        return math.inf if value is None or error is None else value + SURE * error

    def known(value: float | None) -> float:
        return math.inf if value is None else value

    good = [r for r in members if bound(r) <= TOLERABLE]
    if good:
        best = min(good, key=lambda r: known(r.seconds))
        said = f"at most {TOLERABLE}, and the fastest of {len(good)} such on the front"
        return best, f"its loss gap {_gap(best)} plus {SURE} standard errors is {said}"
    best = min(members, key=lambda r: known(r.loss_gap.value))
    return best, (
        f"its loss gap {_gap(best)} is the smallest of the {len(members)} on the front, of which "
        f"none is at most {TOLERABLE} with {SURE} standard errors added"
    )


def _gap(row: Row) -> str:
    return "(not measured)" if row.loss_gap.value is None else shown(row.loss_gap, ".3f")


def export(
    row: Row, board: Board, canonical: Mapping[str, object], out: Path, *, force: bool,
    more: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write program.py, program.json, metrics.json, README.md and manifest.json.

    Args:
        more: other files by their path in the folder; scripts may be run.

    Raises:
        VortexError: E607, the folder holds something; E604, it cannot be written.
    """
    # os.path answers no where pathlib raises; what may not be looked at cannot be written either.
    if os.path.lexists(out) and not os.path.isdir(out):
        raise VortexError(f"{out} is a file", code="E607", hint="name a folder with -o")
    ours = os.path.isfile(out / "manifest.json")  # only what we wrote is ever replaced
    if os.path.isdir(out) and _holds(out) and not (force and ours):
        hint = "name another folder, or pass --force" if ours else "name another folder"
        raise VortexError(f"{out} is not empty", code="E607", hint=hint)
    files = {
        "program.py": row.program,
        "program.json": json.dumps(canonical, indent=2) + "\n",
        "metrics.json": json.dumps(_metrics(row, board), indent=2) + "\n",
        "README.md": _readme(row, board, sorted(more or {})), **(more or {}),
    }  # fmt: skip
    sums = {n: hashlib.sha256(t.encode()).hexdigest() for n, t in files.items()}
    files["manifest.json"] = json.dumps({"format": 1, "sha256": sums}, indent=2) + "\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".export-"))
    except OSError as error:
        raise unwritable(out, error, "name another folder with -o") from None
    try:
        for name, text in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                (aside / name).chmod(0o755)
        aside.chmod(0o755)
        if out.exists():
            old = aside.with_name(aside.name + ".old")  # kept until the new one is in place
            out.rename(old)
            try:
                aside.rename(out)
            except OSError:
                old.rename(out)
                raise
            shutil.rmtree(old)
        else:
            aside.rename(out)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise unwritable(out, error, "name another folder with -o") from None


def _holds(folder: Path) -> bool:
    """Whether a folder holds something.

    Raises:
        VortexError: E604, it may not be looked into.
    """
    try:
        return any(folder.iterdir())
    except OSError as error:
        raise unwritable(folder, error, "name another folder with -o") from None


def _metrics(row: Row, board: Board) -> dict[str, object]:
    numbers = {}
    for title, attribute, _, origin in (*columns(board), *MORE):
        if attribute == "engine_speedup":
            continue  # among those of the engine, each with its own device and model
        cell = cell_of(row, attribute)
        timed = attribute.startswith("gpu_")  # at the target's shapes, on the run's GPU
        here = board.gpu if timed else board.environment.get("processor", "")
        where = board.device if origin == "predicted" else here
        numbers[attribute] = {
            "title": title, **dataclasses.asdict(cell), "unit": UNITS.get(attribute, "1"),
            "origin": origin, "device": where, "workload": workload_of(board, attribute, origin),
            "model": board.target if timed or origin == "predicted" else board.accuracy_model,
        }  # fmt: skip
    served = [dataclasses.asdict(f) for f in row.engine]
    found = finite(
        {"run": board.run, "candidate": row.id, "metrics": numbers, "engine": served}
    )  # fmt: skip
    assert isinstance(found, dict)
    return found


_ROLES = {
    "serve.sh": "serves a model with this program in SGLang: `sh serve.sh MODEL`",
    "verify.py": "checks this folder as far as the machine allows: `python verify.py`",
    "evidence.json": "where all this comes from: run, hashes, versions, machine",
    "kernels/README.md": "the generated kernels, to read",
}


def _readme(row: Row, board: Board, more: list[str]) -> str:
    roles = "".join(f"\n- `{n}`: {_ROLES[n]}." for n in more if n in _ROLES)
    table = "\n".join(
        f"| {title} | {shown(cell_of(row, a), f)} | {origin} |"
        for title, a, f, origin in columns(board)
    )
    knobs = ", ".join(f"{escaped(k)} = {escaped(str(v))}" for k, v in row.knobs.items())
    said = "\n".join(f"- {escaped(f)}" for f in facts(board))
    return f"""# {escaped(row.called)}

Candidate {row.id} of run {escaped(board.run)}, found by {escaped(row.proposer)}: \
{escaped(row.note)}

Knobs: {knobs}.

- `program.py`: the program, to read and change. `vortex-search check program.py` shows its cost,
  `vortex-search evaluate program.py` runs it.
- `program.json`: the same with knobs bound, as a graph that needs no Python to be read.
- `metrics.json`: every number with its error and origin. `manifest.json`: hashes of the
  files.{roles}

| | value | |
| --- | ---: | --- |
{table}

{said}

{_unverified(row, board)}
"""


def _unverified(row: Row, board: Board) -> str:
    """What the evidence shows of serving, and what it does not."""
    timed = row.gpu_attention.value is not None or row.gpu_speedup.value is not None
    gpu = f"timed it on {escaped(board.gpu)}" if timed else "did not time it on a GPU"
    served = [f for f in main_figures(row.engine) if f.name.startswith(ENGINE)]
    answered = [f for f in main_figures(row.engine) if not f.name.startswith(ENGINE)]
    parts = [f"The run {gpu}."]
    if answered:
        parts.append("Answers of our own executor, without an engine:\n\n" + _figures(answered))
    if served:
        parts.append("Served in an inference engine, beside full attention:\n\n" + _figures(served))
        parts.append("`vortex-search verify FOLDER --model MODEL` checks it again where it serves.")
    parts += [escaped(note) for note in row.engine_notes]
    if not served:
        parts.append(
            "Not verified: it has not been served in an inference engine; "
            "`vortex-search verify FOLDER --model MODEL` and `vortex-search serve-eval FOLDER` do."
        )
    return ("\n\n" if row.engine else " ").join(parts)


def _figures(figures: Sequence[EngineFigure]) -> str:
    """A list; the lines of a setting below it."""
    lines = figure_lines(figures)
    return "\n".join(f"{'  ' if x[0] == ' ' else ''}- {escaped(x.strip())}" for x in lines)
