"""Reads an exported folder, or a program file, back as a candidate."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ir import Candidate

_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What a folder serves.

    Attributes:
        folder: where stored matrices lie.
        name: of the program.
        hashed: whether a manifest vouched for every file that it lists.
    """

    candidate: Candidate
    folder: Path
    name: str
    hashed: bool


def read_exported(path: Path, *, reserved: bool = False) -> Exported:
    """The candidate of an exported folder, or of a program file with its knobs at their defaults.

    Args:
        reserved: allow selectors that are kept for controls.

    Raises:
        VortexError: E801, there is nothing to read; E802, a file is not what was exported.
        ProgramError: the text is no program.
    """
    if os.path.isfile(path):
        text = _text(path)
        candidate = compile_text(text, filename=str(path), reserved=reserved, files=path.parent)
        return Exported(candidate, path.parent, candidate.program.name, hashed=False)
    if not os.path.isdir(path):
        raise VortexError(
            f"there is no program at {path}", code="E801",
            hint="name a folder that `vortex-search export` wrote",
        )  # fmt: skip
    bad = mismatches(path)
    if bad:
        raise VortexError(
            f"{path} is not as it was exported: {', '.join(bad)}", code="E802",
            hint="export it again",
        )  # fmt: skip
    facts = _json(path / "program.json")
    knobs = facts.get("knobs")
    if not isinstance(knobs, Mapping):
        raise _damaged(path / "program.json", "it names no knobs")
    source = path / "program.py"
    candidate = compile_text(
        _text(source), knobs, filename=str(source), reserved=reserved, files=path
    )
    stated = facts.get("candidate_hash")
    if stated != candidate.candidate_hash:
        raise _damaged(source, "it is another algorithm than program.json says")
    return Exported(candidate, path, str(facts.get("name", candidate.program.name)), hashed=True)


def mismatches(folder: Path) -> list[str]:
    """Files that the manifest lists and that are absent or changed, by name with what is wrong.

    Raises:
        VortexError: E801, there is no manifest; E802, it is none.
    """
    listed = _json(folder / "manifest.json").get("sha256")
    if not isinstance(listed, Mapping):
        raise _damaged(folder / "manifest.json", "it lists no hashes")
    found = []
    for name, wanted in listed.items():
        file = folder / str(name)
        if "\0" in str(name):
            raise _damaged(folder / "manifest.json", "it lists what is no file name")
        if not file.resolve().is_relative_to(folder.resolve()) or not os.path.isfile(file):
            found.append(f"{name} is absent")
        elif _sha256(file) != wanted:
            found.append(f"{name} was changed")
    return found


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise _damaged(path, "it is no JSON") from None
    if not isinstance(data, dict):
        raise _damaged(path, "it is no JSON object")
    return data


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _damaged(path, "it is too large")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it is no UTF-8 text") from None


def _unreadable(path: Path, why: str) -> VortexError:
    return VortexError(
        f"cannot read {path}: {why}", code="E801",
        hint="name a folder that `vortex-search export` wrote",
    )  # fmt: skip


def _damaged(path: Path, why: str) -> VortexError:
    return VortexError(f"{path} is damaged: {why}", code="E802", hint="export it again")
