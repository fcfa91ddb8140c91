"""A worker's handler that judges by a formula, so that the search itself can be tested."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

from evals.models.fetch import cache_dir
from evals.result import Evaluation, Metric, Sample, Stage, StageResult, Status
from vortex import compile_text


class FakeEvaluator:
    """Losses follow from the candidate's hash, the step time from its budget."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if request["kind"] == "prefill":
            return {"name": str(request["index"])}
        time.sleep(0.02)
        text = str(request["text"])
        candidate = compile_text(text, request.get("knobs"), reserved=bool(request.get("control")))
        name = candidate.program.name
        stages = {
            "screen": lambda: self._screen(request, candidate.candidate_hash, candidate.knobs),
            "accuracy": lambda: self._accuracy(request, name, candidate.candidate_hash),
            "throughput": lambda: self._throughput(candidate.knobs),
        }[str(request["kind"])]()
        evaluation = Evaluation(
            evaluator_version="fake",
            structure_hash=candidate.structure_hash,
            candidate_hash=candidate.candidate_hash,
            stages=(stages,),
        )
        return {"evaluation": evaluation.model_dump(mode="json"), "name": name,
                "knobs": dict(candidate.knobs)}  # fmt: skip

    def _screen(
        self, request: Mapping[str, Any], digest: str, knobs: Mapping[str, Any]
    ) -> StageResult:
        if digest in request["known"]:
            return StageResult(stage=Stage.DEDUP, status=Status.DUPLICATE)
        metric = Metric(
            name="step_seconds", value=1e-7 * int(knobs.get("budget", 32768)), stderr=None, n=1,
            unit="s", origin="predicted", device="fake", model="fake", workload="fake",
        )  # fmt: skip
        return StageResult(stage=Stage.PRICE, status=Status.OK, metrics=(metric,))

    def _throughput(self, knobs: Mapping[str, Any]) -> StageResult:
        seconds = 1e-7 * int(knobs.get("budget", 32768))
        metrics = tuple(
            Metric(name=name, value=value, stderr=None, n=1, unit="", origin="measured",
                   device="fake", model="fake", workload="fake")
            for name, value in (("gpu_speedup", 1e-2 / seconds), ("gpu_full_step_seconds", 1e-2))
        )  # fmt: skip
        return StageResult(stage=Stage.THROUGHPUT, status=Status.OK, metrics=metrics)

    def _accuracy(self, request: Mapping[str, Any], name: str, digest: str) -> StageResult:
        fixed = {"Full": 1.0, "Oracle": 1.1, "RandomPages": 10.0, "StreamingLLM": 9.0}
        draw = int(hashlib.sha256(digest.encode()).hexdigest()[:8], 16) / 2**32
        loss = fixed.get(name, 2 + 6 * draw)
        split = request.get("split", "search")
        samples = tuple(
            Sample(context=f"{split}-{i:03d}", task=task, metric="nll", value=loss + 0.01 * i)
            for i in request["contexts"]
            for task in ("needle", "copy")
        )
        stage = Stage.SEALED if request.get("split") == "sealed" else Stage.ACCURACY
        return StageResult(stage=stage, rung=int(request.get("rung", 0)), status=Status.OK,
                           samples=samples)  # fmt: skip


class BrokenEvaluator(FakeEvaluator):
    """Answers nothing of use about programs called Fresh: a fault of ours, not of theirs."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if "class Fresh" in str(request.get("text", "")):
            return {"evaluation": {"stages": []}, "name": "", "knobs": None}
        return super().handle(request)


class SlowSealer(FakeEvaluator):
    """Takes its time over sealed contexts."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if request["kind"] == "accuracy" and request.get("split") == "sealed":
            time.sleep(3)
        return super().handle(request)


CRASH = "CUDA error (launch.h:203): device kernel image is invalid"


def die_unless_mended() -> None:
    """End the process as a library may from C++, until a file says that the machine was mended."""
    if not (cache_dir() / "mended").exists():
        os.write(2, f"{CRASH}\n".encode())
        os._exit(1)


class DyingTimer(FakeEvaluator):
    """Its process ends where a candidate is timed."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if request["kind"] == "throughput":
            die_unless_mended()
        return super().handle(request)


class DyingJudge(FakeEvaluator):
    """Its process ends at every program, a known one too."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if request["kind"] != "prefill":
            die_unless_mended()
        return super().handle(request)


class DyingControls(FakeEvaluator):
    """Its process ends where a control is judged."""

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Evaluator."""
        if request.get("control"):
            die_unless_mended()
        return super().handle(request)
