"""The workers of a run: one thread and one confined process each, and what their ends mean."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evals.result import Evaluation, Stage, StageResult, Status
from evals.sandbox import Limits
from evals.worker import WorkerCrashed, WorkerFailed, WorkerProcess, WorkerTimeout

_PROBE_SECONDS = 300.0
_STAGE_OF = {"screen": Stage.PARITY, "accuracy": Stage.ACCURACY, "throughput": Stage.THROUGHPUT}


class MachineFault(Exception):
    """Evaluation failed for a reason that is not the candidate's."""


class Unsound(MachineFault):
    """After a crash, a worker could not judge a known program either."""


class Crew:
    """Hands requests to workers; every worker belongs to one thread.

    Args:
        handler, config: see WorkerProcess.
        probe: a request whose success shows that a worker is sound.
    """

    def __init__(
        self,
        handler: str,
        config: Mapping[str, Any],
        *,
        size: int,
        readable: tuple[Path, ...] = (),
        writable: tuple[Path, ...] = (),
        probe: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.make: Callable[[], WorkerProcess] = lambda: WorkerProcess(
            handler, config, readable=readable, writable=writable, limits=limits
        )
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="vortex-worker")
        self._local = threading.local()
        self._all: list[WorkerProcess] = []
        self._closed = False
        self._probe = probe
        self.report: dict[str, str] = {}

    def submit(self, requests: Sequence[tuple[Mapping[str, Any], float]]) -> Future[list[Any]]:
        """Run requests (with their seconds) in one worker, stopping at the first failed stage."""
        return self._threads.submit(self._run, requests)

    def close(self) -> None:
        """Kill all workers; what they were doing is lost and will be done again."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in [*self._all]:
            worker.close()
        self._threads.shutdown(wait=True)
        for worker in self._all:
            worker.close()

    def _worker(self) -> WorkerProcess:
        worker: WorkerProcess | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = self.make()
            self._all.append(worker)
            if self._closed:  # looked at last: close() goes through the list after it says so
                raise MachineFault("the crew was dismissed")
        return worker

    def _run(self, requests: Sequence[tuple[Mapping[str, Any], float]]) -> list[Any]:
        answers = []
        for request, seconds in requests:
            answer = self._ask(request, seconds)
            answers.append(answer)
            if "evaluation" in answer and answer["evaluation"]["stages"][-1]["status"] != "ok":
                break
        return answers

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        worker = self._worker()
        try:
            answer = worker.call(request, seconds)
            self.report = worker.report
            return answer
        except WorkerTimeout as error:
            return self._ended(request, Status.TIMEOUT, str(error), seconds)
        except WorkerCrashed as error:
            self._check(str(error))
            return self._ended(request, Status.CRASHED, str(error), 0.0)
        except WorkerFailed as error:
            worker.kill()  # what raised once may be unusable from now on, as a GPU's context is
            raise MachineFault(str(error)) from None

    def _check(self, why: str) -> None:
        """After a crash the worker proves itself on a known program before it judges again."""
        if self._probe is None:
            return
        try:
            answer = self._worker().call(self._probe, _PROBE_SECONDS)
        except (WorkerTimeout, WorkerCrashed, WorkerFailed) as error:
            raise Unsound(f"{why}; a known program fails too: {error}") from None
        if answer["evaluation"]["stages"][-1]["status"] != "ok":
            raise Unsound(f"{why}; a known program is no longer judged ok")

    def _ended(
        self, request: Mapping[str, Any], status: Status, message: str, seconds: float
    ) -> dict[str, Any]:
        stage = StageResult(
            stage=_STAGE_OF.get(str(request["kind"]), Stage.PARITY),
            rung=int(request.get("rung", 0)),
            status=status,
            message=message,
            seconds=seconds,
        )
        evaluation = Evaluation(evaluator_version="", stages=(stage,))
        return {"evaluation": evaluation.model_dump(mode="json"), "name": "", "knobs": None}
