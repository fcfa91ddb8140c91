"""Ctrl-C ends a command in order, Ctrl-C again at once: exit code 130, a message, no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.interrupts import told
from agent.loop import Search
from agent.presentation import board_of
from evals.result import Stage
from runs.store import Store
from tests.runs.synthetic import new_store
from vortex.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FAKE = "tests.fake_evaluator:FakeEvaluator"


@contextlib.contextmanager
def running(*words: str, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.drive_command", *words], cwd=ROOT,
        env=os.environ | {"VORTEX_CACHE": str(cache)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """Standard error up to the line with these words."""
    assert process.stderr is not None
    lines = b""
    for line in process.stderr:
        lines += line
        if words in line:
            return lines
    raise AssertionError(f"it ended without {words!r}: {lines!r}")


def ended(process: subprocess.Popen[bytes]) -> str:
    """The rest of standard error; it must end soon, as it should."""
    _, errors = process.communicate(timeout=30)
    text = errors.decode()
    assert process.returncode == ExitCode.INTERRUPTED, text
    assert "Traceback" not in text and "Exception ignored" not in text
    return text


def test_any_command_is_interrupted_and_its_tidying_is_cut_short(tmp_path: Path) -> None:
    with running("hang", cache=tmp_path) as process:
        said(process, b"begun")
        process.send_signal(signal.SIGINT)
        said(process, b"tidying")
        process.send_signal(signal.SIGINT)
        assert "interrupted" in ended(process)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = new_store(
        tmp_path_factory.mktemp("runs"), evaluations=7, rungs=(3, 4), workers=1, throughput=False
    )
    Search(store, (), lambda p: None, lambda: False, handler=FAKE).run()
    store.close()
    return store.folder


def sealing(searched: Path, cache: Path) -> contextlib.AbstractContextManager[
    subprocess.Popen[bytes]
]:  # fmt: skip
    where = ("--runs-dir", str(searched.parent), "--contexts", "3", "--workers", "1")
    return running("seal", searched.name, *where, cache=cache)


def test_seal_ends_when_what_runs_has_come_back_and_goes_on_from_there(
    searched: Path, tmp_path: Path
) -> None:
    with sealing(searched, tmp_path) as process:
        said(process, b"] sealed 0/")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said(process, b"stopping when what runs has come back; Ctrl-C again stops at once")
        assert f"stopped; go on with: vortex-search seal {searched.name}" in ended(process)
    store = Store.open_to_read(searched)
    sealed = [x for s in store.stages().values() for x in s if x.stage == Stage.SEALED]
    assert len(sealed) == 1 < len(board_of(store).rows), "what ran came back and is kept"


def test_seal_stops_at_once_when_it_is_asked_twice(searched: Path, tmp_path: Path) -> None:
    with sealing(searched, tmp_path) as process:
        said(process, b"] sealed 0/")
        process.send_signal(signal.SIGINT)
        said(process, b"stopping when")
        process.send_signal(signal.SIGINT)
        text = ended(process)
        assert "interrupted" in text and "go on with" not in text


def test_an_ignored_interrupt_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with told() as stopped:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not stopped.is_set()
    finally:
        signal.signal(signal.SIGINT, previous)
