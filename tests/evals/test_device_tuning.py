"""Tuning keeps the fastest schedule of those that agree, and refuses the others."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from evals.device import tuning  # noqa: E402
from evals.device.tuning import KINDS, Job, Kind, _Bench, grid, listed, same, tune  # noqa: E402
from tests.vortex.test_triton_decode import (  # noqa: E402
    CONTEXT,
    DEVICE,
    DIM,
    GROUP,
    KV,
    LAYERS,
    ROWS,
    drawn,
    pools,
    setting,
)  # fmt: skip
from vortex.errors import VortexError  # noqa: E402
from vortex.geometry import geometry  # noqa: E402
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule  # noqa: E402
from vortex.triton.choose import KernelChooser  # noqa: E402
from vortex.triton.schedules import StepShape, by_rule  # noqa: E402
from vortex.workload import Workload  # noqa: E402

JOB = Job(
    replace(geometry("qwen3-1.7b"), layers=LAYERS, heads=KV * GROUP, kv_heads=KV, head_dim=DIM),
    Workload(ROWS, CONTEXT), 16, 96,
)  # fmt: skip
OTHER = Schedule(
    ScoreSchedule(64, 8, 4, False), AttendSchedule(32, 3, 4, 2, True), AttendSchedule(64, 2)
)


@pytest.fixture
def bench() -> _Bench:
    _, pool = pools(JOB.candidate, 0)
    chooser = KernelChooser(JOB.candidate, pool, setting())
    chooser.summarise()
    q = [drawn(ROWS, KV * GROUP, DIM, seed=n).to(DEVICE, torch.bfloat16) for n in range(LAYERS)]
    made = _Bench(JOB, pool, setting(), chooser, q, torch.empty_like(q[0]))
    pages, counts = chooser.choose(0, 0, q[0], ranks=True)
    made.lists = pages.clone(), counts.clone()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_two_schedules_of_a_stage_agree(bench: _Bench, kind: Kind) -> None:
    _, wanted = bench.tried(kind, by_rule(JOB.shape))
    _, found = bench.tried(kind, OTHER)
    assert len(wanted) and same(kind, found, wanted)
    if kind == "score":
        assert set(found.tolist()) == set(wanted.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_that_writes_nothing_is_refused(
    bench: _Bench, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted = bench.tried(kind, by_rule(JOB.shape))
    for name in ("route", "attend"):
        monkeypatch.setattr(tuning, name, lambda *_, **__: None)
    _, found = bench.tried(kind, OTHER)
    assert not same(kind, found, wanted)


def test_lists_are_compared_by_their_pages_however_many_slots_are_empty() -> None:
    counts = torch.full((2, 4), 64, dtype=torch.int32)
    pages = torch.arange(8192).expand(2, 4, 8192).to(torch.int32)
    wanted = listed(pages, counts)
    assert len(wanted) == 2 * 4 * 64 == len(set(wanted.tolist()))
    moved = pages.clone()
    moved[0, 0, :64] = torch.cat([pages[0, 0, 1:64], torch.tensor([5000])])  # one page exchanged
    assert same("score", listed(moved, counts), wanted)
    assert not same("score", listed(pages + 64, counts), wanted)  # other pages in every list
    assert not same("score", listed(pages, counts - 4), wanted)
    assert not same("score", listed(pages, counts * 0), listed(pages, counts * 0))


def test_the_fastest_that_agrees_is_kept(bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = by_rule(JOB.shape)
    wrong, slow, broken = (
        replace(OTHER, attend=replace(OTHER.attend, splits=n)) for n in (1, 2, 4)
    )
    seconds = {rule: 3.0, wrong: 1.0, slow: 4.0, OTHER: 2.0}

    def tried(_: Kind, schedule: Schedule) -> tuple[Schedule, torch.Tensor]:
        if schedule is broken:
            raise RuntimeError("out of resource: shared memory")
        return schedule, torch.ones(4) * (1.1 if schedule is wrong else 1.0)

    monkeypatch.setattr(bench, "tried", tried)
    monkeypatch.setattr(tuning, "replayed", lambda run, *_: [seconds[run]] * 9)
    schedules = [rule, wrong, slow, broken, OTHER]
    assert tuning._fastest(bench, "attend", schedules) == (OTHER, 2.0)
    with pytest.raises(RuntimeError, match="no schedule of 'attend' runs: out of resource"):
        tuning._fastest(bench, "attend", [broken])


def test_a_shape_that_does_not_run_ends_in_an_error_with_a_repair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> _Bench:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_Bench, "of", full)
    with pytest.raises(VortexError) as error:
        tune(JOB, {})
    assert error.value.code == "E615" and "--batch" in str(error.value.hint)


def test_a_shape_of_which_nothing_compiles_says_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, bench: _Bench
) -> None:
    monkeypatch.setattr(_Bench, "of", lambda *_: bench)
    other = replace(JOB, tokens=JOB.tokens + 64)
    failed: dict[tuning.Task, str] = {(other, "score", OTHER): "another shape's"}
    failed |= {(JOB, "score", s): "its own reason" for s in grid("score", JOB.shape)}
    with pytest.raises(VortexError, match="score: its own reason"):
        tune(JOB, failed)


def test_what_a_compiling_process_answers_crosses_to_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> _Bench:
        raise VortexError("no such matrix", code="E206")

    monkeypatch.setattr(_Bench, "of", refused)
    task: tuple[Job, Kind, Schedule] = (JOB, "score", OTHER)
    assert pickle.loads(pickle.dumps(task)) == task
    assert tuning.warm(task) == "VortexError: no such matrix"


def test_what_a_process_without_its_device_was_given_goes_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def answers(tasks: list[tuning.Task], processes: int) -> list[str | None]:
        asked.append(len(tasks))
        if len(asked) == 1:
            return [None, "RuntimeError: a fault", *[tuning._AGAIN] * (len(tasks) - 2)]
        return [None] * (len(tasks) - 1) + [tuning._AGAIN] if len(asked) == 2 else [tuning._AGAIN]

    monkeypatch.setattr(tuning, "_answers", answers)
    failed = tuning.compile_all([JOB], 2)
    assert asked == [asked[0], asked[0] - 2, 1]
    assert set(failed.values()) == {"RuntimeError: a fault", "no process kept its device"}
    monkeypatch.setattr(tuning, "_lost", lambda: True)
    assert tuning.warm((JOB, "score", OTHER)) == tuning._AGAIN


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 2048), context=st.sampled_from([64, 4096, 32768, 131072]),
    page=st.sampled_from([16, 64]),
    attended=st.integers(16, 8192), mla=st.booleans(), stage=st.sampled_from(KINDS),
)  # fmt: skip
def test_every_schedule_of_a_grid_can_be_launched(
    rows: int, context: int, page: int, attended: int, mla: bool, stage: Kind
) -> None:
    heads = (20, 576, 512) if mla else (2, 128, 128)
    shape = StepShape("mla" if mla else "gqa", rows, *heads, page, context, attended, 256)
    found = list(grid(stage, shape))
    assert found[0] == by_rule(shape)
    for schedule in found:
        part = schedule.full if stage == "full" else schedule.attend
        tokens = context if stage == "full" else attended
        assert 1 <= part.splits <= max(1, -(-tokens // part.block))
        assert all(b & (b - 1) == 0 for b in (part.block, schedule.score.block))
