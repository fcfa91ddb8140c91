"""Writes a candidate as a folder that anyone can read, check and run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runs.board import COLUMNS, Board, Row, cell_of, shown
from runs.leaderboard import facts
from vortex.errors import ExitCode, VortexError, printable


def best_of(board: Board, *, tolerable: float = 0.25) -> Row:
    """The front's fastest member that is surely tolerable.

    Its loss gap plus 1.64 standard errors is at most ``tolerable``; if none is, the member with
    the smallest loss gap.

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
        return float("inf") if value is None or error is None else value + 1.64 * error

    good = [r for r in members if bound(r) <= tolerable]
    if good:
        return min(good, key=lambda r: r.step_seconds or float("inf"))
    return min(members, key=lambda r: r.loss_gap.value or float("inf"))


def export(
    row: Row, board: Board, canonical: Mapping[str, object], out: Path, *, force: bool
) -> None:
    """Write program.py, program.json, metrics.json, README.md and manifest.json.

    Raises:
        VortexError: E607, the folder holds something; E604, it cannot be written.
    """
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    ours = (out / "manifest.json").is_file()  # only what we wrote is ever replaced
    if taken and not (force and ours):
        hint = "name another folder, or pass --force" if ours else "name another folder"
        raise VortexError(f"{out} is not empty", code="E607", hint=hint)
    files = {
        "program.py": row.program,
        "program.json": json.dumps(canonical, indent=2) + "\n",
        "metrics.json": json.dumps(_metrics(row, board), indent=2) + "\n",
        "README.md": _readme(row, board),
    }
    sums = {n: hashlib.sha256(t.encode()).hexdigest() for n, t in files.items()}
    files["manifest.json"] = json.dumps({"format": 1, "sha256": sums}, indent=2) + "\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".export-"))
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8")
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
        raise VortexError(
            f"cannot write {out}: {error.strerror or error}", code="E604",
            hint="free some space, or name another folder", exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip


def _metrics(row: Row, board: Board) -> dict[str, object]:
    numbers = {}
    for title, attribute, _, origin in COLUMNS:
        cell = cell_of(row, attribute)
        where = board.device if origin == "predicted" else board.environment.get("processor", "")
        numbers[attribute] = {
            "title": title, **dataclasses.asdict(cell), "origin": origin, "device": where,
            "model": board.target if origin == "predicted" else board.accuracy_model,
        }  # fmt: skip
    return {"run": board.run, "candidate": row.id, "workload": board.workload,
            "accuracy_workload": board.budgets, "metrics": numbers}  # fmt: skip


def _readme(row: Row, board: Board) -> str:
    table = "\n".join(
        f"| {title} | {shown(cell_of(row, a), f)} | {origin} |" for title, a, f, origin in COLUMNS
    )
    knobs = ", ".join(f"`{k}` = {v}" for k, v in row.knobs.items())
    said = "\n".join(f"- {printable(f, limit=400)}" for f in facts(board))
    return f"""# {printable(row.name)}

Candidate {row.id} of run {board.run}, found by `{row.proposer}`: {printable(row.note, limit=400)}

Knobs: {knobs}.

- `program.py`: the program, to read and change. `vortex-search check program.py` shows its cost,
  `vortex-search evaluate program.py` runs it.
- `program.json`: the same with knobs bound, as a graph that needs no Python to be read.
- `metrics.json`: every number with its error and origin. `manifest.json`: hashes of the files.

| | value | |
| --- | ---: | --- |
{table}

{said}

Not verified: this program has not been served in an inference engine, nor run on a GPU.
"""
