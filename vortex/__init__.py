"""The Vortex language: page-sparse attention algorithms as data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch lies behind most of it, and an error or a version needs none
    from vortex.compile import bind, compile_text, parse
    from vortex.dsl import Algorithm, Scores, Summary, choice, integer, layers, real
    from vortex.errors import ProgramError, VortexError
    from vortex.ir import Candidate, Program

__all__ = [
    "Algorithm",
    "Candidate",
    "Program",
    "ProgramError",
    "Scores",
    "Summary",
    "VortexError",
    "bind",
    "choice",
    "compile_text",
    "integer",
    "layers",
    "parse",
    "real",
]


_HOMES = {
    "bind": "compile", "compile_text": "compile", "parse": "compile", "ProgramError": "errors",
    "VortexError": "errors", "Candidate": "ir", "Program": "ir",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """What is listed above, when it is asked for; else ops of the language, for editors and
    trusted files."""
    return getattr(importlib.import_module(f"vortex.{_HOMES.get(name, 'dsl')}"), name)
