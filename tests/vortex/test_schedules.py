"""Schedules by shape: tuned ones where they are near, a rule elsewhere; all can be launched."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from vortex.errors import ExitCode, VortexError
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.triton.schedules import (
    StepShape,
    Table,
    Tuned,
    by_rule,
    distance,
    entries,
    schedule_for,
    user_path,
    write_table,
)

SHAPE = StepShape("gqa", 64, 2, 128, 128, 16, 32768, 1024, 256)
FOUND = Schedule(
    ScoreSchedule(128, 4, 16, False), AttendSchedule(32, 3, 4, 3), AttendSchedule(64, 6)
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    return tmp_path


def tuned(shape: StepShape = SHAPE, schedule: Schedule = FOUND) -> None:
    write_table(Table("A GPU", "2026-01-01", {"triton": "0"}, (Tuned(shape, schedule, {}),)))


def test_a_shape_that_was_tuned_gets_what_was_found() -> None:
    tuned()
    assert schedule_for("A GPU", SHAPE) == FOUND


def test_a_near_shape_gets_as_many_programs() -> None:
    tuned()
    half = schedule_for("A GPU", replace(SHAPE, rows=32))
    assert (half.attend.splits, half.full.splits) == (6, 12)
    assert half.score == FOUND.score


def test_a_far_shape_another_kind_and_another_device_get_the_rule() -> None:
    tuned()
    for device, shape in (
        ("A GPU", replace(SHAPE, kind="mla")), ("another", SHAPE),
        ("A GPU", replace(SHAPE, dim=64, vdim=64, context=2048, rows=1, page_size=64)),
    ):  # fmt: skip
        assert schedule_for(device, shape) == by_rule(shape)


def test_the_user_s_own_table_comes_before_what_ships() -> None:
    device = "NVIDIA H200"
    shipped = entries(device)
    assert shipped
    write_table(Table(device, "", {}, (Tuned(shipped[0].shape, FOUND, {}),)))
    assert schedule_for(device, shipped[0].shape) == FOUND != shipped[0].schedule


NO_SHAPE = '{"device": "x", "date": "", "versions": {}, "entries": [{"shape": {"rows": 1}}]}'


@pytest.mark.parametrize("text", ["", "{}", '{"device": 1}', "[1]", NO_SHAPE])
def test_a_damaged_table_is_named_with_its_repair(text: str) -> None:
    path = user_path("A GPU")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(VortexError) as error:
        schedule_for("A GPU", SHAPE)
    assert (error.value.code, error.value.exit_code) == ("E614", ExitCode.ENVIRONMENT)
    assert str(path) in str(error.value) and "tune-kernels" in str(error.value.hint)


DAMAGE = {
    "shape": {"rows": "8", "context": 0, "page_size": True, "kind": "mha"},
    "attend": {"block": 48, "splits": 0, "warps": "4", "stages": 2.5},
    "score": {"block": 8, "choose_warps": None},
}


@pytest.mark.parametrize(("part", "name"), [(p, n) for p in DAMAGE for n in DAMAGE[p]])
def test_a_number_that_no_kernel_could_take_is_damage_too(part: str, name: str) -> None:
    path = write_table(Table("A GPU", "", {}, (Tuned(SHAPE, FOUND, {}),)))
    data = json.loads(path.read_text())
    entry = data["entries"][0]
    (entry if part == "shape" else entry["schedule"])[part][name] = DAMAGE[part][name]
    path.write_text(json.dumps(data))
    with pytest.raises(VortexError, match=repr(str(DAMAGE[part][name])) + "|48") as error:
        schedule_for("A GPU", SHAPE)
    assert error.value.code == "E614"


def test_a_table_that_cannot_be_written_is_no_traceback(home: Path) -> None:
    (home / "kernels").write_text("in the way")
    with pytest.raises(VortexError) as error:
        tuned()
    assert (error.value.code, error.value.exit_code) == ("E604", ExitCode.ENVIRONMENT)


def test_what_ships_is_looked_up_exactly_and_without_triton() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "from vortex.triton.schedules import entries, schedule_for\n"
        "known = entries('NVIDIA H200')\n"
        "assert {e.shape.kind for e in known} == {'gqa', 'mla'}\n"
        "assert all(schedule_for('NVIDIA H200', e.shape) == e.schedule for e in known)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 2048), page=st.sampled_from([8, 16, 32, 64, 128]),
    context=st.integers(1, 300_000), attended=st.integers(1, 20_000),
    kind=st.sampled_from(["gqa", "mla"]), known=st.booleans(),
)  # fmt: skip
def test_every_schedule_can_be_launched(
    rows: int, page: int, context: int, attended: int, kind: str, known: bool
) -> None:
    shape = replace(
        SHAPE, kind=kind, rows=rows, page_size=page, context=context, attended=attended
    )  # fmt: skip
    tuned(replace(SHAPE, kind=kind))
    found = schedule_for("A GPU" if known else "none", shape)
    for part, tokens in ((found.attend, attended), (found.full, context)):
        assert 1 <= part.splits <= max(1, -(-tokens // part.block))
        assert part.block & (part.block - 1) == 0 and part.block >= 16
    assert found.score.block & (found.score.block - 1) == 0


def test_distance_is_zero_to_itself_and_grows_with_doublings() -> None:
    assert distance(SHAPE, SHAPE) == 0
    assert 0 < distance(SHAPE, replace(SHAPE, rows=128)) < distance(SHAPE, replace(SHAPE, rows=512))
