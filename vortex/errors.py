"""Errors a user can meet: a stable code, the place, and the repair."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self


class ExitCode:
    """Process exit codes of the command line, documented in docs/errors.md."""

    OK = 0
    FAILED = 1  # the work ran and its answer is no (a stage that fails, an empty front)
    USAGE = 2  # the input is wrong: a flag, a file, a program, a name
    ENVIRONMENT = 3  # the machine is in the way: disk full, no network, run locked
    INTERRUPTED = 130


class Span(NamedTuple):
    """A region of program text; lines and columns count from 1, the end column is exclusive."""

    line: int
    col: int
    end_line: int
    end_col: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One located complaint about a program."""

    code: str
    message: str
    span: Span | None = None
    hint: str | None = None


class VortexError(Exception):
    """Base of every error that is shown to a user as one message without a traceback.

    Args:
        message: what is wrong, in one sentence.
        code: stable identifier, listed in docs/errors.md.
        hint: what to do about it.
        exit_code: what the process returns.

    Attributes:
        span: the place in the program's text, where one is known.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        hint: str | None = None,
        exit_code: int = ExitCode.USAGE,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.exit_code = exit_code
        self.span: Span | None = None

    def at(self, span: Span | None) -> Self:
        """This error, placed there unless a place is known already."""
        self.span = self.span or span
        return self

    def render(self) -> str:
        """The message as the command line prints it."""
        text = f"error[{self.code}]: {self.message}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text


class ProgramError(VortexError):
    """A program that is not in the language, with every complaint found in it.

    Args:
        diagnostics: at least one, in source order.
        source: the program text the spans point into.
        filename: how to call the text in messages.
    """

    def __init__(
        self, diagnostics: Sequence[Diagnostic], *, source: str = "", filename: str = "program"
    ) -> None:
        first = diagnostics[0]
        super().__init__(first.message, code=first.code, hint=first.hint)
        self.diagnostics = tuple(diagnostics)
        self.source = source
        self.filename = filename

    def render(self) -> str:
        """All diagnostics, each with its line, a caret and a hint."""
        return "\n\n".join(
            render_diagnostic(d, source=self.source, filename=self.filename)
            for d in self.diagnostics
        )


def unwritable(path: Path, error: OSError, other: str) -> VortexError:
    """E604 for what could not be made or written, with the repair that its cause asks for.

    Args:
        path: what was to be written.
        other: what helps in any case, as ``name another folder``.
    """
    return VortexError(
        f"cannot write {path}: {error.strerror or error}", code="E604",
        hint=_repair(path, error.errno, other), exit_code=ExitCode.ENVIRONMENT,
    )  # fmt: skip


def _repair(path: Path, number: int | None, other: str) -> str:
    # os.path answers where pathlib raises: below what may not be looked at.
    above = next((p for p in (path, *path.absolute().parents) if os.path.lexists(p)), path)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"free some space, or {other}"
    if number in (errno.EACCES, errno.EPERM):
        return f"you may not write there: change the permissions of {above}, or {other}"
    if number == errno.EROFS:
        return f"{above} is on a disk that is mounted read-only: {other}"
    if number == errno.EISDIR or os.path.isdir(path):
        return f"{path} is a folder: {other}"
    if number in (errno.ENOTDIR, errno.EEXIST) and not os.path.isdir(above):
        return f"{above} is a file where a folder is needed: move it, or {other}"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return f"nothing can be made in {above}: {other}"
    return other


def error_facts(error: VortexError) -> dict[str, object]:
    """An error as JSON's values: ``error`` has its code, message and hint.

    Of a program, whose ``error`` is the first, ``errors`` has all, each with its ``span`` (line,
    column, end line, end column) or None.
    """
    first = {"code": error.code, "message": error.message, "hint": error.hint}
    facts: dict[str, object] = {"ok": False, "error": first}
    if isinstance(error, ProgramError):
        facts["errors"] = [
            {"code": d.code, "message": d.message, "span": d.span, "hint": d.hint}
            for d in error.diagnostics
        ]
    return facts


def render_diagnostic(diagnostic: Diagnostic, *, source: str, filename: str) -> str:
    """One diagnostic in the style ``file:line:col: error[CODE]: message`` with a caret."""
    head = f"error[{diagnostic.code}]: {diagnostic.message}"
    tail = f"\n\nhint: {diagnostic.hint}" if diagnostic.hint else ""
    span = diagnostic.span
    if span is None:
        return f"{filename}: {head}{tail}"
    lines = source.splitlines()
    text = printable(lines[span.line - 1]) if 0 < span.line <= len(lines) else ""
    width = span.end_col - span.col if span.end_line == span.line else len(text) - span.col + 1
    caret = " " * (span.col - 1) + "^" * max(1, min(width, 120))
    return f"{filename}:{span.line}:{span.col}: {head}\n    {text}\n    {caret}{tail}"


def printable(text: str, *, limit: int = 160) -> str:
    """Text that cannot drive a terminal: control characters become spaces, long lines are cut."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
