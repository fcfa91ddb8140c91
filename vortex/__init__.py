"""The Vortex language: page-sparse attention algorithms as data."""

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


def __getattr__(name: str) -> object:
    """Ops of the language as attributes, for editors and trusted files."""
    import vortex.dsl

    return getattr(vortex.dsl, name)
