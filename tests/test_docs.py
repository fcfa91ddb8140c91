"""The documents say what is there: every error code is listed, and every listed code exists."""

from __future__ import annotations

import re
from pathlib import Path

from vortex.errors import ExitCode

ROOT = Path(__file__).resolve().parent.parent
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def codes_in_source() -> set[str]:
    packages = ("vortex", "search_spaces", "evals", "runs", "agent")
    files = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    return {c for f in files for c in re.findall(r'"(E[1-9]\d\d)"', f.read_text(encoding="utf-8"))}


def rows(pattern: str) -> set[str]:
    return set(re.findall(rf"^\| ({pattern}) \| \S", ERRORS, re.MULTILINE))


def test_every_error_code_is_documented_and_every_documented_code_exists() -> None:
    assert rows(r"E\d{3}") == codes_in_source()


def test_every_exit_code_is_documented() -> None:
    codes = {str(value) for name, value in vars(ExitCode).items() if name.isupper()}
    assert rows(r"\d+") == codes
