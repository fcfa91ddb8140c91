"""A worker process: started clean, confined, spoken to in JSON, killed as a group on time-out."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from evals.sandbox import Limits, clean_environment, die_with_parent, ending, enter

MAX_MESSAGE = 64 << 20
_LOG_TAIL = 4000
_HEAD = struct.Struct("!I")


class Handler(Protocol):
    """What runs inside: built once from a configuration, then asked again and again."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        ...


class WorkerTimeout(Exception):
    """The worker took too long and was killed with all its children."""


class WorkerCrashed(Exception):
    """The worker died, or said something that is no answer."""


class WorkerFailed(Exception):
    """The handler raised: the fault is ours."""


class WorkerProcess:
    """One worker, started on first use and again after it was killed.

    Args:
        handler: dotted name, ``package.module:Class``.
        config: JSON data that the handler is built from.
        readable, writable: paths beside Python, the packages and its scratch folder.
    """

    def __init__(
        self,
        handler: str,
        config: Mapping[str, Any],
        *,
        limits: Limits | None = None,
        threads: int = 1,
        readable: tuple[Path, ...] = (),
        writable: tuple[Path, ...] = (),
        start_seconds: float = 180.0,
    ) -> None:
        self.setup = {
            "handler": handler,
            "config": dict(config),
            "limits": asdict(limits or Limits()),
            "readable": [str(p) for p in readable],
            "writable": [str(p) for p in writable],
        }
        self.threads, self.start_seconds = threads, start_seconds
        self.report: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._send = self._receive = -1
        # Another thread may end a worker while its own thread waits for it, or starts it again.
        self._lock, self._closed = threading.Lock(), False

    def call(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The handler's answer.

        Raises:
            WorkerTimeout, WorkerCrashed, WorkerFailed.
        """
        if self._process is None:
            self._start()
        return self._exchange(request, timeout)

    def kill(self) -> None:
        """SIGKILL to the whole process group; the scratch folder goes with it."""
        with self._lock:
            process, self._process = self._process, None
            scratch, self._scratch = self._scratch, None
            pipes = (self._send, self._receive)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in pipes:
                os.close(pipe)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def close(self) -> None:
        """Kill it for good: it does not start again."""
        with self._lock:
            self._closed = True
        self.kill()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise WorkerCrashed("the worker was closed")
            self._spawn()
        self.report = self._exchange(self.setup, self.start_seconds)

    def _spawn(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="vortex-worker-"))
        child_in, self._send = os.pipe()
        self._receive, child_out = os.pipe()
        log = (self._scratch / "log").open("wb")
        # The coordinator's death must not leave orphans: the child asks for that itself.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evals.worker", str(child_in), str(child_out),
             str(self._scratch), str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(child_in, child_out),
            env=clean_environment(self._scratch, self.threads), start_new_session=True,
        )  # fmt: skip
        log.close()
        os.close(child_in)
        os.close(child_out)

    def _exchange(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        try:
            with self._pipes() as (send, receive):
                _write(send, message)
                answer = json.loads(_read(receive, deadline))
        except TimeoutError:
            self.kill()
            raise WorkerTimeout(f"no answer within {timeout:.0f} s") from None
        except (EOFError, OSError, ValueError) as error:
            reason = self._obituary(error)
            self.kill()
            raise WorkerCrashed(reason) from None
        if "failed" in answer:
            raise WorkerFailed(str(answer["failed"]))
        return dict(answer)

    @contextlib.contextmanager
    def _pipes(self) -> Iterator[tuple[int, int]]:
        """Both ends of ours, as copies that stay open while another thread kills the worker."""
        with self._lock:
            if self._process is None:
                raise EOFError("the worker was ended")
            pair = os.dup(self._send), os.dup(self._receive)
        try:
            yield pair
        finally:
            for descriptor in pair:
                os.close(descriptor)

    def _obituary(self, error: Exception) -> str:
        process, scratch = self._process, self._scratch
        if process is None or scratch is None:
            return "the worker was ended"
        try:
            code = process.wait(2)
            log = (scratch / "log").read_bytes()[-_LOG_TAIL:].decode(errors="replace")
        except subprocess.TimeoutExpired:
            return f"the worker's answer cannot be read: {error}"
        except OSError:
            return "the worker was ended"
        return f"the worker ended {ending(code, log)}"


def _write(descriptor: int, message: Mapping[str, Any]) -> None:
    data = json.dumps(message).encode()
    view = memoryview(_HEAD.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, deadline: float | None) -> bytes:
    (size,) = _HEAD.unpack(_read_exactly(descriptor, _HEAD.size, deadline))
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size:,} bytes is over the limit")
    return _read_exactly(descriptor, size, deadline)


def _read_exactly(descriptor: int, size: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while size:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not selector.select(left):
                raise TimeoutError
            part = os.read(descriptor, min(size, 1 << 20))
            if not part:
                raise EOFError("the other side is gone")
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def _build(setup: Mapping[str, Any]) -> Handler:
    module, _, name = str(setup["handler"]).partition(":")
    made: Handler = getattr(importlib.import_module(module), name)(setup["config"])
    return made


def main(argv: list[str]) -> None:
    """The worker's side: build the handler, confine, then answer until the pipe closes."""
    receive, send, scratch, parent = int(argv[0]), int(argv[1]), Path(argv[2]), int(argv[3])
    die_with_parent()
    if os.getppid() != parent:
        return
    try:
        setup = json.loads(_read(receive, None))
        handler = _build(setup)
        readable = tuple(Path(p) for p in setup["readable"])
        writable = (scratch, *(Path(p) for p in setup["writable"]))
        report = enter(Limits(**setup["limits"]), readable=readable, writable=writable)
        _write(send, report)
        while True:
            _write(send, _answer(handler, json.loads(_read(receive, None))))
    except (EOFError, BrokenPipeError):
        return


def _answer(handler: Handler, request: Mapping[str, Any]) -> dict[str, Any]:
    """The worker boundary: whatever the handler raises becomes an answer."""
    try:
        return handler.handle(request)
    except MemoryError:
        raise
    except Exception as error:  # the one catch-all of the project
        place = traceback.extract_tb(error.__traceback__)[-1]
        return {"failed": f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"}


if __name__ == "__main__":
    main(sys.argv[1:])
