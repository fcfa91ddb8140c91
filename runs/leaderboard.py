"""The leaderboard as Markdown, CSV and JSON, and what stands above it in every form."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

from runs.board import (
    MORE,
    PROPOSER_COLUMNS,
    Board,
    Row,
    cell_of,
    columns,
    crashes,
    finite,
    proposer_cells,
    shown,
)
from vortex.errors import printable

PROPOSERS = "who proposed (share now: of the next evaluations)"


def facts(board: Board) -> list[str]:
    """What must be said above every table."""
    lines = [
        f"run {board.run}: {judged(board)} for {board.target} "
        f"({', '.join(f'{n} {s}' for s, n in board.statuses.items())})",
        f"accuracy: measured on {board.accuracy_model}, {board.budgets}",
        f"step time: predicted for {board.device}, {board.workload}",
        _throughput(board),
        *_in_engine(board),
        "loss gap: 0 = full attention, 1 = random pages; mean of needle and copy; "
        "± one standard error over contexts",
    ]
    lines += crashes(board)
    if board.standin_note:
        lines.insert(1, f"STAND-IN: {board.standin_note}")
    if board.controls_problem:
        lines.append(f"WARNING: the controls are out of order: {board.controls_problem}")
    return lines


def judged(board: Board) -> str:
    """How many candidates of the budget, and the controls apart, which count as no evaluation."""
    budget = board.config.get("evaluations")
    many = f"{board.evaluated}" if budget is None else f"{board.evaluated} of {budget}"
    noun = "candidate" if (budget or board.evaluated) == 1 else "candidates"
    controls = sum(r.control and r.status != "waiting" for r in board.rows)
    more = f" (+ {controls} control{'s' if controls > 1 else ''})" if controls else ""
    return f"{many} {noun} judged{more}"


def _throughput(board: Board) -> str:
    if not board.gpu:
        return f"CPU speed-up: measured against full attention, {board.throughput_workload}"
    whole = "a whole decode step of random weights, measured"
    if board.gpu_step_origin == "predicted":
        whole = "measured attention and a priced rest of the step, so predicted"
    return (
        f"GPU attention: measured against full attention on {board.gpu}, {board.workload}; "
        f"GPU speed-up: {whole}"
    )


def _in_engine(board: Board) -> list[str]:
    if not board.engine:
        return []
    return [f"engine speed-up: decode rate over full attention's, measured in {board.engine}"]


def blocks(board: Board, top: int | None) -> list[tuple[str, list[Row]]]:
    """Candidates and controls, each under its title."""
    found = [r for r in board.rows if not r.control]
    more = f", {top} of {len(found)}; --top for more" if top and top < len(found) else ""
    return [
        (f"candidates (* on the front{more})", found[:top]),
        ("controls", [r for r in board.rows if r.control]),
    ]


def knobs_of(row: Row) -> str:
    """Those that every program has."""
    text = " ".join(f"{k}={v}" for k, v in row.knobs.items() if k in ("budget", "page_size"))
    return printable(text.replace("page_size", "page"), limit=40)


def render_markdown(board: Board, *, top: int | None = None) -> str:
    """Tables as GitHub renders them."""
    lines = [f"- {escaped(line)}" for line in facts(board)]
    for title, rows in blocks(board, top):
        headings = [f"{h} ({o})" for h, _, _, o in columns(board)]
        lines += ["", f"**{title}**", "", f"| id | name | from | knobs | {' | '.join(headings)} |"]
        lines.append("|" + " --- |" * 4 + " ---: |" * len(columns(board)))
        for row in rows:
            cells = [shown(cell_of(row, a), f) for _, a, f, _ in columns(board)]
            first = f"{row.id}{'*' if row.on_front else ''}"
            texts = [first, row.called, row.proposer, knobs_of(row), *cells]
            lines.append("| " + " | ".join(escaped(t) for t in texts) + " |")
    if board.proposers:
        lines += ["", f"**{PROPOSERS}**", "", f"| {' | '.join(PROPOSER_COLUMNS)} |"]
        lines.append("| --- |" + " ---: |" * (len(PROPOSER_COLUMNS) - 1))
        for source in board.proposers:
            lines.append("| " + " | ".join(escaped(c) for c in proposer_cells(source)) + " |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that neither Markdown nor HTML takes for its own."""
    clean = printable(text, limit=400)
    for char in "\\|`*_<>[]":
        clean = clean.replace(char, {"<": "&lt;", ">": "&gt;"}.get(char, "\\" + char))
    return clean


def render_csv(board: Board) -> str:
    """Raw numbers: ``measured_NAME``, its ``_se`` and ``_n``, and ``predicted_NAME``."""
    output = io.StringIO()
    writer = csv.writer(output)
    # Contexts are measured_loss_gap_n here.
    names = [(a, f"{o}_{a}") for _, a, _, o in (*columns(board), *MORE) if a != "contexts"]
    header = ["id", "name", "proposer", "control", "on_front", "status", "knobs"]
    for attribute, name in names:
        header += [name] if name.startswith("predicted") else [name, f"{name}_se", f"{name}_n"]
        del attribute
    writer.writerow(header)
    for row in board.rows:
        line: list[object] = [
            row.id, _plain_cell(row.name), _plain_cell(row.proposer), int(row.control),
            int(row.on_front), row.status, json.dumps(dict(row.knobs)),
        ]  # fmt: skip
        for attribute, name in names:
            cell = cell_of(row, attribute)
            line += [cell.value] if name.startswith("predicted") else [
                cell.value, cell.error, cell.n]  # fmt: skip
        writer.writerow(line)
    return output.getvalue()


def _plain_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    clean = printable(text)
    return f"'{clean}" if clean[:1] in "=+-@" and clean else clean


def render_json(board: Board) -> str:
    """Everything, with the origin of each number."""
    data = dataclasses.asdict(board)
    data["origins"] = {attribute: origin for _, attribute, _, origin in (*columns(board), *MORE)}
    return json.dumps(finite(data), indent=2, sort_keys=False)
