"""Errors carry the repair that their cause asks for, and are the same as text and as data."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vortex import compile_text
from vortex.errors import ExitCode, ProgramError, VortexError, error_facts, unwritable

ELSEWHERE = "name another folder"


def hint(path: Path, number: int) -> str:
    error = unwritable(path, OSError(number, "why"), ELSEWHERE)
    assert (error.code, error.exit_code) == ("E604", ExitCode.ENVIRONMENT)
    assert error.message == f"cannot write {path}: why" and error.hint is not None
    assert ELSEWHERE in error.hint
    return error.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_wants_space(tmp_path: Path, number: int) -> None:
    assert hint(tmp_path / "x", number).startswith("free some space")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_forbidden_place_wants_permissions_of_the_folder_that_is_there(
    tmp_path: Path, number: int
) -> None:
    said = hint(tmp_path / "a" / "b", number)
    assert f"permissions of {tmp_path}," in said and "space" not in said


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    assert "mounted read-only" in hint(tmp_path / "a", errno.EROFS)


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EEXIST])
def test_a_file_in_the_way_is_named(tmp_path: Path, number: int) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert hint(path, number).startswith(f"{tmp_path / 'file'} is a file")


def test_a_folder_where_a_file_is_to_be_is_named(tmp_path: Path) -> None:
    assert hint(tmp_path, errno.EISDIR).startswith(f"{tmp_path} is a folder")


def test_a_place_that_takes_nothing_is_named(tmp_path: Path) -> None:
    assert hint(tmp_path / "a", errno.ENOENT).startswith(f"nothing can be made in {tmp_path}")


def test_an_error_is_data_with_code_message_and_hint() -> None:
    facts = error_facts(VortexError("wrong", code="E303"))
    assert facts == {"ok": False, "error": {"code": "E303", "message": "wrong", "hint": None}}


def test_all_errors_of_a_program_are_data_with_their_places() -> None:
    with pytest.raises(ProgramError) as caught:
        compile_text("class A:\n    pass\nimport os\n")
    facts = error_facts(caught.value)
    listed = facts["errors"]
    assert isinstance(listed, list) and len(listed) == len(caught.value.diagnostics)
    assert all(e.keys() == {"code", "message", "span", "hint"} for e in listed)
