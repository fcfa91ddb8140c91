"""Writes a candidate of a run as the folder that serves it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from runs.board import Board, Row
from runs.export import export
from runs.serving import serving_files
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.geometry import Geometry, geometry
from vortex.ir import graph_text


def write_export(row: Row, board: Board, out: Path, *, force: bool = False) -> str:
    """Write the folder.

    Returns:
        Why no engine can serve it yet, or ''.

    Raises:
        VortexError: E607, the folder holds something; E604, it cannot be written.
        ProgramError: the candidate's text is no program.
    """
    from vortex.triton.launches import unservable

    bound = compile_text(row.program, row.knobs)
    canonical = {
        "format": 1, "name": row.name, "knobs": dict(bound.knobs), "page_size": bound.page_size,
        "dtype": bound.dtype, "policies": dataclasses.asdict(bound.policies),
        "structure_hash": bound.structure_hash, "candidate_hash": bound.candidate_hash,
        "summarize": graph_text(bound.fields), "score": graph_text(bound.scores),
        "select": graph_text({"select": bound.select}), "states": dict(bound.states),
        "update": graph_text(bound.updates),
    }  # fmt: skip
    target = _target(board)
    more = serving_files(row, board, bound, target)
    export(row, board, canonical, out, force=force, more=more)
    return unservable(bound, target)


def _target(board: Board) -> Geometry | None:
    try:
        return geometry(board.target)
    except VortexError:  # a configuration that was moved since
        return None
