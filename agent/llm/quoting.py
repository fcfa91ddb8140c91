"""Untrusted text as data: one line, printable, bounded, and unable to leave its quotes or fence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from vortex.compile import parse
from vortex.errors import VortexError
from vortex.ir import Program
from vortex.knobs import Choice, Knob, KnobValue
from vortex.ops import AxisError
from vortex.printer import print_program

_EXCERPT = 400
_LABEL = re.compile(r"[A-Za-z0-9_.:@/+-]{1,60}")
_NO_DOC = '    """No description."""\n\n'  # what the printer says where there is none
_NEUTRAL = str.maketrans({"`": "'", "<": "‹", ">": "›", '"': "'"})


def one_line(text: str, limit: int = 200) -> str:
    """One printable line of at most ``limit`` characters, without backticks, angles or quotes."""
    short = text[: 8 * limit]
    clean = " ".join("".join(c if c.isprintable() else " " for c in short).split())
    clean = clean.translate(_NEUTRAL)
    whole = len(clean) <= limit and len(short) == len(text)
    return clean if whole else clean[: limit - 1] + "…"


def quoted(text: str, limit: int = 200) -> str:
    """The same between double quotes, which it cannot hold."""
    return f'"{one_line(text, limit)}"'


def label(text: str) -> str:
    """A name of ours or of the user's as it is; what looks like anything else, quoted."""
    return text if _LABEL.fullmatch(text) else quoted(text, 48)


def printable_lines(text: str, limit: int) -> str:
    """Lines that cannot drive a terminal, at most ``limit`` characters in all."""
    lines = text[: 2 * limit].splitlines()
    clean = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)
    if len(clean) <= limit and len(text) <= 2 * limit:
        return clean
    note = "\n… cut"
    return clean[: limit - len(note)] + note


def fenced(text: str) -> str:
    """A block whose fence is longer than every run of backticks inside."""
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def knobs_line(knobs: Mapping[str, KnobValue], limit: int = 160) -> str:
    """``name = value`` of every knob, strings between quotes; those beyond ``limit`` left out."""
    line = ""
    for name, value in knobs.items():
        shown = quoted(value, 24) if isinstance(value, str) else f"{value}"[:24]
        part = f"{', ' if line else ''}{one_line(name, 32)} = {shown}"
        if len(line) + len(part) > limit:
            return line + ", …"
        line += part
    return line or "no knobs"


def program_text(text: str) -> str | None:
    """A program printed anew from its IR, without its description; None: it does not parse.

    Only what the language means is left: no comment, docstring or layout of its author's.
    """
    try:
        program = parse(text, reserved=True)
        shown = print_program(replace(_plain(program), doc="")).replace(_NO_DOC, "", 1)
    except (AxisError, VortexError):
        return None
    return "\n".join(
        "".join(c if c.isprintable() else " " for c in line) for line in shown.splitlines()
    )


def _plain(program: Program) -> Program:
    """With the strings that a knob may take neutralised: they are the author's free text."""
    knobs = {name: _neutral(knob) for name, knob in program.knobs.items()}
    return replace(program, knobs=knobs)


def _neutral(knob: Knob) -> Knob:
    if not isinstance(knob, Choice):
        return knob
    options = tuple(one_line(o, 24) if isinstance(o, str) else o for o in knob.options)
    default = one_line(knob.default, 24) if isinstance(knob.default, str) else knob.default
    return Choice(options, default)


def escaped(text: str) -> str:
    """The beginning of a text that is no program, as a string of ASCII with escapes."""
    cut = "" if len(text) <= _EXCERPT else f" … {len(text) - _EXCERPT:,} characters cut"
    plain = json.dumps(text[:_EXCERPT].replace('"', "'"))
    for char in "`<>":
        plain = plain.replace(char, f"\\u{ord(char):04x}")
    return f"not in the language, begins: {plain}{cut}"


def program_block(text: str, *, limit: int, more: str = "") -> str:
    """A program as a fenced block of at most about ``limit`` characters.

    Args:
        more: said where it was cut, as how to see the rest.
    """
    shown = program_text(text)
    return escaped(text) if shown is None else cut_block(shown, limit=limit, more=more)


def cut_block(shown: str, *, limit: int, more: str = "") -> str:
    """The same of a program that is printed already."""
    if len(shown) <= limit:
        return fenced(shown)
    cut = f"(cut: {len(shown) - limit:,} of {len(shown):,} characters{more})"
    return f"{fenced(shown[:limit] + '…')}\n{cut}"
