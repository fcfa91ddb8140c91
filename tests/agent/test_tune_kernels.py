"""`tune-kernels`: what it refuses, what it keeps, and that it goes on where it stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("triton")

import agent.commands.tune_kernels as command
from evals.device import tuning
from evals.device.tuning import Job
from tests.agent.test_cli import vortex
from vortex.errors import ExitCode, VortexError
from vortex.triton.schedules import Tuned, by_rule, schedule_for, user_table

WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@WITHOUT
def test_without_a_gpu_it_says_so_and_how_schedules_are_found_then() -> None:
    done = vortex("tune-kernels")
    assert done.returncode == ExitCode.ENVIRONMENT and not done.stdout
    assert "error[E413]" in done.stderr and "hint:" in done.stderr
    assert "--device" not in done.stderr  # it has no such option


@pytest.mark.parametrize(
    "words", [("--batch", "0"), ("--context", "x"), ("--page-size", "16,24"), ("--tokens", ""),
              ("--seconds", "0")],
)  # fmt: skip
def test_a_wrong_option_is_named(words: tuple[str, str]) -> None:
    with pytest.raises(VortexError) as error:
        command.tune_kernels.main(words, standalone_mode=False)
    assert error.value.code == "E303" and error.value.hint
    assert str(error.value).startswith(f"{words[0]}: ")


@pytest.fixture
def tuned_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """A machine with "A GPU" on which tuning answers at once; the jobs it was asked for."""
    asked: list[Job] = []

    def tune(job: Job, failed: object) -> Tuned:
        asked.append(job)
        if job.page_size == 64:
            raise VortexError("nothing runs", code="E615", hint="another page size")
        return Tuned(job.shape, by_rule(job.shape), {"score": 1.5, "attend": 2.5, "full": 9.0})

    properties = SimpleNamespace(total_memory=80e9)
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    monkeypatch.setattr(command, "run_device", lambda _: "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(tuning, "compile_all", lambda jobs, processes: {})
    monkeypatch.setattr(tuning, "tune", tune)
    return asked


def ran(*words: str) -> Result:
    return CliRunner().invoke(command.tune_kernels, words, catch_exceptions=False)


def test_it_keeps_a_table_and_does_only_what_is_missing(tuned_jobs: list[Job]) -> None:
    first = ran("--batch", "1,8", "--page-size", "16")
    lines = first.stdout.splitlines()
    assert first.exit_code == 0 and len(lines) == len(tuned_jobs) == 2
    assert "attend 2.5 us" in lines[0] and "batch 8, 32,768 tokens" in lines[1]
    table = user_table("A GPU")
    assert table and table.versions["torch"] == torch.__version__ and table.date
    assert schedule_for("A GPU", tuned_jobs[0].shape) == table.entries[0].schedule
    more = ran("--batch", "1,8,32", "--page-size", "16")
    assert [j.workload.batch for j in tuned_jobs[2:]] == [32] and len(more.stdout.splitlines()) == 1
    assert "2 in the table already" in more.stderr
    again = ran("--batch", "1", "--page-size", "16", "--again")
    kept = user_table("A GPU")
    assert len(again.stdout.splitlines()) == 1 and kept and len(kept.entries) == 3


def test_a_shape_that_fails_does_not_stop_the_others(tuned_jobs: list[Job]) -> None:
    done = ran("--batch", "1", "--page-size", "64,16")
    assert done.exit_code == ExitCode.FAILED and "error[E615]" in done.stderr
    assert len(done.stdout.splitlines()) == 1 and len(tuned_jobs) == 2


def test_out_of_time_it_stops_before_the_next_shape(
    tuned_jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 99.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    done = ran("--batch", "1,8", "--page-size", "16", "--seconds", "50")
    assert done.exit_code == ExitCode.INTERRUPTED and "run the command again" in done.stderr
    assert len(tuned_jobs) == 1


@pytest.mark.parametrize("words", [("--tokens", "40000"), ("--batch", "4096")])
def test_no_shape_left_is_an_error_not_a_success(
    tuned_jobs: list[Job], words: tuple[str, str]
) -> None:
    with pytest.raises(VortexError) as error:
        ran(*words)
    assert error.value.code == "E303" and not tuned_jobs


def test_it_is_a_command() -> None:
    from agent.cli import main

    assert main.get_command(click.Context(main), "tune-kernels") is not None


def test_ctrl_c_does_not_end_processes_that_compile_before_their_parent_says_so() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=tuning.be_the_parents) as pool:
        one = pool.submit(os.getpid).result()
        os.kill(one, signal.SIGINT)
        assert pool.submit(os.getpid).result() == one
