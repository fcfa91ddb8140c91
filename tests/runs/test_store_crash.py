"""What was recorded outlives a killed process; a full disk ends in a message and loses nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs.store import Store
from tests.runs.synthetic import new_store
from vortex.errors import ExitCode, VortexError

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
from evals.result import Stage
from runs.store import Store
from tests.runs.synthetic import evaluation, samples, stage

store = Store.open_to_write(Path(sys.argv[1]))
for i in range(len(store.candidates()), 10**6):
    candidate, _ = store.add(text=f"program {i}", knobs={}, proposer="seed")
    stages = stage(Stage.PRICE), stage(samples=samples([1.0] * 24))
    store.record(candidate, evaluation(*stages, digest=str(i)))
    print(candidate, flush=True)
"""

FILLER = """
import sys
from pathlib import Path
from runs.store import Store
from vortex.errors import VortexError

store = Store.open_to_write(Path(sys.argv[1]))
try:
    for i in range(10**4):
        print(store.add(text=f"{i} " * 2000, knobs={}, proposer="seed")[0], flush=True)
except VortexError as error:
    print(error.code, flush=True)
    sys.exit(error.exit_code)
"""


def started(code: str, folder: Path, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, **more,
    )  # type: ignore[call-overload,no-any-return] # fmt: skip


def test_a_killed_writer_loses_no_recorded_evaluation(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.close()
    acknowledged: list[int] = []
    for pause in (0.0, 0.03, 0.1):
        process = started(WRITER, store.folder)
        assert process.stdout is not None
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines()]
        process.wait()

        reader = Store.open_to_read(store.folder)
        stages, kept = reader.stages(), reader.samples()
        reader.close()
        assert set(acknowledged) <= set(stages), "an acknowledged evaluation was lost"
        assert all(len(found) == 2 for found in stages.values()), "half an evaluation was kept"
        assert all(len(kept[i]) == 24 for i in stages)
    # The kernel gave the lock back each time, and the last process left none behind.
    Store.open_to_write(store.folder).close()


def test_a_full_disk_is_said_and_what_was_kept_can_be_read(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.close()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    process = started(FILLER, store.folder, preexec_fn=limit)
    *kept, said = process.communicate(timeout=60)[0].split()
    assert (said, process.returncode) == ("E604", ExitCode.ENVIRONMENT)
    reader = Store.open_to_read(store.folder)
    assert [str(c.id) for c in reader.candidates()] == kept
    reader.close()
    Store.open_to_write(store.folder).add(text="room again", knobs={}, proposer="seed")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_runs_folder_that_cannot_be_made_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VortexError) as caught:
        new_store(tmp_path / name)
    assert (caught.value.code, caught.value.exit_code) == ("E604", ExitCode.ENVIRONMENT)
    said = f"{tmp_path / 'file'} is a file where a folder is needed: move it, or choose another"
    assert str(caught.value.hint).startswith(said)


def test_a_run_that_cannot_begin_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, *args: object) -> None:
        raise VortexError("no space", code="E604")

    monkeypatch.setattr(Store, "_begin", full)
    with pytest.raises(VortexError):
        new_store(tmp_path)
    assert list(tmp_path.iterdir()) == []
