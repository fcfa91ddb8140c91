"""The ladder's handler on a GPU: accuracy and throughput through the kernels that serve."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import torch

from evals.device.baselines import unusable
from evals.device.throughput import DeviceTiming, Pairs, measure
from evals.device.trials import Rows
from evals.evaluator import Evaluator, failed
from evals.models.fetch import cache_dir
from evals.models.transformer import Attend
from evals.prefill import Prefilled
from evals.result import Metric, Stage, StageResult, Status
from vortex.cost import price
from vortex.ir import Candidate
from vortex.triton.suffix import DeviceSuffix
from vortex.triton.tiles import Unfused


class DeviceEvaluator(Evaluator):
    """Answers requests as :class:`evals.evaluator.Evaluator` does, on one GPU.

    Several workers may share it: what is timed has it alone.
    """

    kept_contexts = 64

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.cuda = torch.device(str(config["run_on"]))
        torch.cuda.set_device(self.cuda)
        # Compiled kernels outlive a worker; its home does not.
        home = cache_dir() / "triton"
        home.mkdir(parents=True, exist_ok=True)
        os.environ["TRITON_CACHE_DIR"] = str(home)
        self.model.to(self.cuda)
        self._lock, self._turns = (cache_dir() / "gpu.lock").open("a"), 0
        torch.zeros(1, device=self.cuda)
        # Now, not where they are timed: a process that a confined worker starts may get no GPU.
        rows = Rows.of(self.geometry, self.workload, self.cuda)
        self.unusable = unusable(rows, cache_dir() / "kernels" / "baselines")

    def place(self) -> AbstractContextManager[Any]:
        """New tensors are made on the GPU."""
        return torch.device(self.cuda)

    def name_of_device(self) -> str:
        """The GPU's name."""
        return str(torch.cuda.get_device_name(self.cuda))

    @contextlib.contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        """The GPU shared (``LOCK_SH``) or alone (``LOCK_EX``), between workers of this machine."""
        if self._turns == 0:
            started = time.perf_counter()
            fcntl.flock(self._lock, kind)
            self.waited += time.perf_counter() - started
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            if self._turns == 0:
                torch.cuda.synchronize()
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def attend(self, candidate: Candidate, prefilled: Prefilled) -> Attend:
        """The kernels, or the executor in torch for programs that have none."""
        cache = self.model.spec.cache
        k, v = cache.split(prefilled.kv)
        if candidate.policies.reuse_steps == 1:
            with contextlib.suppress(Unfused):
                return DeviceSuffix(
                    candidate, k, v, heads=self.model.spec.heads, scale=self.model.spec.scale,
                    workload_context=self.workload.context, dense=self.dense_layers(candidate),
                    rope=cache.rope, latent=cache.shared,
                )  # fmt: skip
        return super().attend(candidate, prefilled)

    def prefilled(self, request: Mapping[str, Any]) -> Prefilled:
        """A context in the GPU's memory."""
        with self._turn(fcntl.LOCK_SH):
            found = super().prefilled(request)
        moved = {n: getattr(found, n).to(self.cuda) for n in ("kv", "full", "queries")}
        return replace(found, **moved)

    def _fidelity(
        self, request: Mapping[str, Any], candidate: Candidate, *, exempt: bool
    ) -> StageResult:
        with self._turn(fcntl.LOCK_SH):
            return super()._fidelity(request, candidate, exempt=exempt)

    def _accuracy(
        self, request: Mapping[str, Any], candidate: Candidate, stages: list[StageResult]
    ) -> None:
        with self._turn(fcntl.LOCK_SH):
            super()._accuracy(request, candidate, stages)

    def _throughput(
        self, request: Mapping[str, Any], candidate: Candidate, stages: list[StageResult]
    ) -> None:
        """At the target's geometry and workload; the stand-in has no part in it."""
        cost = price(candidate, self.geometry, self.workload, self.device)
        self._contexts.clear()
        torch.cuda.empty_cache()
        try:
            with self._turn(fcntl.LOCK_EX):
                timing = measure(
                    candidate, self.geometry, self.workload, attended=cost.attended_tokens,
                    index_bytes=cost.page_bytes, left_out=self.unusable,
                )  # fmt: skip
        except Unfused as reason:
            stages.append(failed(Stage.THROUGHPUT, Status.REJECTED, reason.message))
            return
        except torch.OutOfMemoryError:
            stages.append(
                failed(Stage.THROUGHPUT, Status.REJECTED, "it does not fit the GPU's memory")
            )
            return
        finally:
            torch.cuda.empty_cache()
        if timing.mismatch:
            stages.append(failed(Stage.THROUGHPUT, Status.MISMATCH, timing.mismatch))
            return
        rest = cost.full.seconds - cost.full.attention_seconds
        stages.append(self._timed(timing, rest))

    def _timed(self, timing: DeviceTiming, rest: float) -> StageResult:
        """Metrics of a measurement; where the step was not built, what lies beside attention is
        added as priced, and the result is called predicted."""
        attention = timing.attention
        assert attention is not None
        workload = (
            f"batch {self.workload.batch}, {self.workload.context} tokens, "
            f"{self.workload.kv_dtype}, full attention by {timing.full_by}"
        )

        def metric(name: str, value: float, error: float | None, unit: str, n: int) -> Metric:
            measured = timing.step is not None or "attention" in name
            origin: Literal["measured", "predicted"] = "measured" if measured else "predicted"
            return Metric(
                name=name, value=value, stderr=error, n=n, unit=unit, origin=origin,
                device=self.name_of_device(), model=self.geometry.name, workload=workload,
            )  # fmt: skip

        step = timing.step or Pairs(
            attention.seconds + rest, attention.full_seconds + rest,
            (attention.full_seconds + rest) / (attention.seconds + rest), 0.0, attention.pairs,
        )  # fmt: skip
        n, batch = attention.pairs, self.workload.batch
        how = [] if timing.captured else ["not captured in a CUDA graph"]
        how += ["pages are chosen by torch"] if timing.chosen_by == "torch" else []
        slow = step.speedup <= 1.0
        how += ["no faster than full attention"] if slow else []
        return StageResult(
            stage=Stage.THROUGHPUT,
            status=Status.SLOW if slow else Status.OK,
            message="; ".join(how),
            metrics=(
                metric("gpu_attention_speedup", attention.speedup, attention.error, "ratio", n),
                metric("gpu_attention_seconds", attention.seconds, None, "s", n),
                metric("gpu_attended_attention_tokens", timing.attended, None, "tokens", n),
                metric("gpu_speedup", step.speedup, step.error, "ratio", n),
                metric("gpu_step_seconds", step.seconds, None, "s", n),
                metric("gpu_full_step_seconds", step.full_seconds, None, "s", n),
                metric("gpu_tokens_per_second", batch / step.seconds, None, "1/s", n),
            ),
        )
