"""One self-contained HTML file about a run: the front as a plot, the table, the programs."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from runs.board import PROPOSER_COLUMNS, Board, cell_of, columns, proposer_cells, shown
from runs.leaderboard import facts, render_json
from vortex.errors import printable, unwritable


def render_report(board: Board) -> str:
    """The page. Every text is escaped; the data is JSON that cannot close its element."""
    loader = PackageLoader("runs", package_path="")
    environment = Environment(loader=loader, autoescape=select_autoescape(("html", "j2")))
    data = json.loads(render_json(board))
    data["columns"] = [{"title": t, "name": n, "origin": o} for t, n, _, o in columns(board)]
    for row, full in zip(data["rows"], board.rows, strict=True):
        row["step_ms"] = None if row["step_seconds"] is None else row["step_seconds"] * 1e3
        row["contexts"] = full.contexts
        row["title"] = full.called
        row["shown"] = [shown(cell_of(full, n), f) for _, n, f, _ in columns(board)]
    text = json.dumps(data, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return environment.get_template("report.html.j2").render(
        board=board,
        facts=facts(board),
        data=text,
        proposer_columns=PROPOSER_COLUMNS,
        proposers=[[printable(c) for c in proposer_cells(p)] for p in board.proposers],
    )


def write_report(board: Board, path: Path) -> None:
    """Write the page.

    Raises:
        VortexError: E604, it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_report(board), encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error, "name another file with -o") from None
