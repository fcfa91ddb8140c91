"""The leaderboard for a terminal: the columns that its width has room for, the others named."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runs.board import PROPOSER_COLUMNS, Board, Row, cell_of, columns, proposer_cells, shown
from runs.leaderboard import PROPOSERS, blocks, facts, knobs_of
from vortex.errors import printable

# The first is always there; of the others as many as fit, in this order.
_IMPORTANCE = (
    "loss_gap", "engine_speedup", "gpu_speedup", "step_speedup", "sealed_gap", "gpu_step_ms",
    "step_ms", "contexts", "from", "cpu_speedup", "worst_gap", "knobs", "gpu_attention",
    "needle_exact", "copy_top1", "index_bytes", "needle_nll",
)  # fmt: skip
_WHOLE = 10_000  # characters: no line is broken
_NAME, _FEWER, _MARK, _PAD = 40, 24, 6, 2  # characters: names, in a narrow table, "*  12 ", edges
_SOURCE, _LEAST = 48, 8


@dataclass(frozen=True, slots=True)
class _Column:
    key: str
    heading: str
    texts: tuple[str, ...]
    number: bool = True

    @property
    def width(self) -> int:
        """With its padding."""
        return max(map(cell_len, (*self.heading.split("\n"), *self.texts))) + _PAD

    @property
    def empty(self) -> bool:
        """Whether nothing was measured."""
        return all(text == "–" for text in self.texts)


def render_terminal(
    board: Board, *, color: bool, width: int | None = None, top: int | None = None
) -> str:
    """Tables; numbers are never cut, columns are left out where there is no room, and named.

    Args:
        width: characters of a line; None: all columns, and no line is broken.
    """
    parts = blocks(board, top)
    rows = [row for _, listed in parts for row in listed]
    every = _columns(board, rows)
    longest = max((cell_len(printable(row.called, limit=_FEWER)) for row in rows), default=0)
    kept = every if width is None else _fitting(every, width - longest - _MARK - _PAD)
    name, sources = _name(rows, kept, width), _proposers(board, width)
    needed = max(_needed(kept, name.width), _needed(sources, 0))
    console = Console(
        file=io.StringIO(), force_terminal=color, no_color=not color, highlight=False,
        width=_WHOLE if width is None else max(width, needed),
    )  # fmt: skip
    for line in facts(board):
        console.print(Text(printable(line, limit=400)))
    index = {row.id: i for i, row in enumerate(rows)}
    for title, listed in parts:
        console.print()
        lines = [(index[row.id], row.on_front) for row in listed]
        console.print(_table(title, [name, *kept], lines, color=color))
    left_out = [c.heading.split("\n")[0] for c in every if c not in kept]
    if left_out:
        said = f"left out, for want of room: {', '.join(left_out)}; --wide or --json shows all"
        console.print()
        console.print(Text(said))
    if board.proposers:
        title = PROPOSERS if width is None or len(PROPOSERS) <= width else PROPOSERS.split(" (")[0]
        console.print()
        console.print(_table(title, sources, ((i, False) for i in range(len(board.proposers)))))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def _columns(board: Board, rows: Sequence[Row]) -> list[_Column]:
    """All but the first, in their order."""

    def texts(of: Callable[[Row], str]) -> tuple[str, ...]:
        return tuple(of(row) for row in rows)

    found = [
        _Column("from", "from", texts(lambda r: printable(r.proposer, limit=_FEWER)), number=False),
        _Column("knobs", "knobs", texts(knobs_of), number=False),
    ]
    for heading, key, form, origin in columns(board):
        cells = tuple(shown(cell_of(row, key), form) for row in rows)
        found.append(_Column(key, f"{heading}\n({origin})", cells))
    return found


def _fitting(every: Sequence[_Column], width: int) -> list[_Column]:
    """Those that there is room for beside names, the most important first; empty ones last."""
    order = sorted(every, key=lambda c: (c.key != "loss_gap", c.empty, _IMPORTANCE.index(c.key)))
    kept = order[:1]
    for column in order[1:]:
        if _needed([*kept, column], 0) <= width:
            kept.append(column)
    return [c for c in every if c in kept]


def _needed(kept: Sequence[_Column], name: int) -> int:
    return name + sum(c.width for c in kept)


def _name(rows: Sequence[Row], kept: Sequence[_Column], width: int | None) -> _Column:
    """The first column: names get the room that is left."""
    limit = _NAME
    if width is not None:
        limit = max(_FEWER, min(_NAME, width - _needed(kept, _MARK + _PAD)))
    names = tuple(
        f"{'*' if row.on_front else ' '}{row.id:>4} {printable(row.called, limit=limit)}"
        for row in rows
    )
    return _Column("name", "  id name", names, number=False)


def _table(
    title: str, kept: Sequence[_Column], lines: Iterable[tuple[int, bool]], *, color: bool = False
) -> Table:
    """Lines of the columns, by their number; some are bold."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), show_edge=False)
    for column in kept:
        table.add_column(
            column.heading, justify="right" if column.number else "left", no_wrap=True,
            min_width=column.width - _PAD,
        )  # fmt: skip
    for at, bold in lines:
        style = "bold" if bold and color else ""
        table.add_row(*(Text(c.texts[at]) for c in kept), style=style)
    return table


def _proposers(board: Board, width: int | None) -> list[_Column]:
    """Columns of the table of proposers; their names get the room that is left."""
    heads = PROPOSER_COLUMNS if width is None else [h.replace(" ", "\n") for h in PROPOSER_COLUMNS]
    cells = [proposer_cells(row) for row in board.proposers]
    if not cells:
        return []
    numbers = [
        _Column(head, head, texts)
        for head, texts in zip(heads[1:], [*zip(*cells, strict=True)][1:], strict=True)
    ]
    limit = _SOURCE
    if width is not None:
        limit = max(_LEAST, min(_SOURCE, width - _needed(numbers, _PAD)))
    names = tuple(printable(first, limit=limit) for first, *_ in cells)
    return [_Column(heads[0], heads[0], names, number=False), *numbers]
