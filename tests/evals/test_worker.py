"""A worker is confined, is killed as a group on time-out, and cannot confuse the coordinator."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.landlock import abi
from evals.sandbox import Limits
from evals.worker import WorkerCrashed, WorkerFailed, WorkerProcess, WorkerTimeout

HANDLER = "tests.evals.misbehaving:Misbehaving"


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    made = WorkerProcess(HANDLER, {}, limits=Limits(memory=1 << 30, file=1 << 20))
    yield made
    made.kill()


def ask(worker: WorkerProcess, what: str, timeout: float = 20, **more: Any) -> Mapping[str, Any]:
    return worker.call({"what": what, **more}, timeout)


def test_a_hang_is_killed_with_its_children_and_the_worker_starts_anew(
    worker: WorkerProcess,
) -> None:
    child = ask(worker, "spawn")["pid"]
    with pytest.raises(WorkerTimeout):
        ask(worker, "hang", timeout=0.5)
    time.sleep(0.2)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()
    assert ask(worker, "echo", text="again")["text"] == "again"


def test_eating_memory_ends_the_worker_not_us(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        ask(worker, "eat")
    assert "MemoryError" in str(caught.value) or "SIGKILL" in str(caught.value)
    assert ask(worker, "echo", text="x")["text"] == "x"


def test_an_exception_is_our_fault_and_is_told_in_one_line(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerFailed, match="ValueError: on purpose"):
        ask(worker, "raise")


def test_death_says_how(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerCrashed, match="exit code 7"):
        ask(worker, "exit")


def test_prints_do_not_reach_the_protocol(worker: WorkerProcess) -> None:
    assert ask(worker, "print")["ok"]


def test_the_environment_holds_no_secret(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-planted")
    assert "sk-planted" not in str(ask(worker, "environment"))


def test_a_huge_answer_is_refused(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerCrashed, match=r"over the limit|cannot be read"):
        ask(worker, "shout")


@pytest.mark.skipif(abi() == 0, reason="this kernel has no Landlock")
def test_files_outside_are_neither_written_nor_read(worker: WorkerProcess, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("planted")
    home = Path.home() / f".vortex-test-{os.getpid()}"
    assert ask(worker, "read", path=str(secret))["error"] == "PermissionError"
    assert ask(worker, "write", path=str(tmp_path / "new"))["error"] == "PermissionError"
    assert ask(worker, "write", path=str(home))["error"] == "PermissionError"
    assert not home.exists()


@pytest.mark.skipif(abi() < 4, reason="this kernel's Landlock knows no network")
def test_there_is_no_network(worker: WorkerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "Error" in ask(worker, "connect", port=port)["error"]


def test_a_worker_finds_the_user_s_cache_without_the_user_s_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.models.fetch import cache_dir
    from evals.sandbox import clean_environment

    for name in ("VORTEX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        environment = clean_environment(tmp_path / "scratch", 1)
        assert environment["VORTEX_CACHE"] == str(cache_dir())
        assert environment["VORTEX_CACHE"].startswith(str(tmp_path / name))


def test_a_confined_process_still_finds_packages_that_are_installed_for_editing(
    tmp_path: Path,
) -> None:
    root = Path(__file__).resolve().parents[2]
    # Such an install is found by a hook: neither the folder nor a path leads to it.
    script = f"""
import importlib.util, sys
class Hook:
    def find_spec(name, path=None, target=None):
        if name in ("evals", "vortex"):
            folder = {str(root)!r} + "/" + name
            return importlib.util.spec_from_file_location(
                name, folder + "/__init__.py", submodule_search_locations=[folder])
sys.meta_path.append(Hook)
from pathlib import Path
from evals.sandbox import Limits, enter
enter(Limits(), readable=(), writable=(Path({str(tmp_path)!r}),))
import vortex.importer
"""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=clean, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("after", [0.0, 0.05, 0.5, 2.0])
def test_a_worker_closed_by_another_thread_ends_and_does_not_start_again(after: float) -> None:
    made, ends = WorkerProcess(HANDLER, {}), []

    def work() -> None:
        for _ in range(3):  # as a thread of a crew does: a crash is followed by a probe
            try:
                made.call({"what": "hang"}, 30)
            except WorkerCrashed as error:
                ends.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(after)
    spares = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    made.close()
    thread.join(10)
    assert not thread.is_alive() and len(ends) == 3 and ends[-1] == "the worker was closed"
    made.close()
    for descriptor in spares:
        os.close(descriptor)  # none of ours was closed by mistake
