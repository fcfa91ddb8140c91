"""What rows of a board are called where they are shown, so that no two are called alike."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from runs.board import Row

_SHORT = {"page_size": "page"}


def titled(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows with a title each: the name, and where another had it first what is different.

    A name is a class's in a program's text. Tuning takes over its parent's text, and leaving a
    part out does not rename what is left; records keep those names, since a proposal's identity
    goes by its text.
    """
    titles: dict[int, str] = {}
    names: set[str] = set()
    programs: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: r.id):
        base = programs.setdefault(row.program, row)
        if base is not row:
            titles[row.id] = f"{titles[base.id]} {knob_words(_changed(row, base))}".rstrip()
        elif row.name not in names:
            titles[row.id] = row.name
        else:
            titles[row.id] = f"{row.name} {row.note}" if row.proposer == "ablate" else row.name
        names.add(row.name)
    many = Counter(titles.values())
    alike = {i: f"{title} #{i}" for i, title in titles.items() if many[title] > 1}
    return tuple(dataclasses.replace(r, title=alike.get(r.id, titles[r.id])) for r in rows)


def _changed(row: Row, base: Row) -> Mapping[str, int | float | str]:
    return {k: v for k, v in row.knobs.items() if base.knobs.get(k) != v}


def knob_words(knobs: Mapping[str, int | float | str]) -> str:
    """Knobs in few characters."""
    return " ".join(f"{_SHORT.get(k, k)}={v}" for k, v in knobs.items())
