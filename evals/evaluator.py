"""The handler inside a worker: runs the stages of the ladder on one candidate at a time."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from evals.contexts import Context, ContextSpec, build_context
from evals.fidelity import fidelity
from evals.models.load import load_model
from evals.models.transformer import Attend
from evals.parity import Shape, disagreement
from evals.prefill import Prefilled, prefill
from evals.result import Evaluation, Metric, Stage, StageResult, Status
from evals.scoring import score
from evals.texts import Split
from evals.throughput import Bench, measure
from vortex.compile import compile_text, placed
from vortex.cost import Price, price
from vortex.devices import device
from vortex.errors import ProgramError, VortexError
from vortex.geometry import Workload, geometry
from vortex.ir import Candidate
from vortex.plan import dense_layers, raised
from vortex.suffix import SuffixAttend

EVALUATOR_VERSION = "3"
_FIDELITY = (
    ("mass", "share"), ("best", "share"), ("chance", "share"), ("recovered", "share"),
    ("error", "ratio"), ("not_finite", "share"),
)  # fmt: skip


class Evaluator:
    """Answers requests of the coordinator.

    The configuration names the stand-in model, the target geometry, the device that is priced, and
    the workload. Another backend overrides :meth:`place`, :meth:`attend` and the like.
    """

    kept_contexts = 4

    def __init__(self, config: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.model = load_model(str(config["accuracy_model"]))
        self.geometry = geometry(str(config["target"]))
        self.device = device(str(config["price_for"]))
        self.workload = Workload(
            batch=int(config["batch"]), context=int(config["context"]),
            kv_dtype=str(config["kv_dtype"]),
        )  # fmt: skip
        self._contexts: dict[str, Prefilled] = {}
        self.waited = 0.0  # seconds of this request in which a shared device was another's

    def place(self) -> AbstractContextManager[Any]:
        """Where new tensors are made while a model runs."""
        return contextlib.nullcontext()

    def name_of_device(self) -> str:
        """What measures."""
        return processor()

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One of ``prefill``, ``screen``, ``accuracy``, ``throughput``."""
        kind = str(request["kind"])
        if kind == "prefill":
            self.prefilled(request)
            return {"name": self._spec(request).name}
        started, self.waited = time.perf_counter(), 0.0
        stages: list[StageResult] = []
        candidate = self._parse(request, stages)
        if candidate is not None:
            run = {"screen": self._screen, "accuracy": self._accuracy,
                   "throughput": self._throughput}[kind]  # fmt: skip
            if kind != "screen":
                stages.clear()
            try:
                with placed(candidate.program):
                    run(request, candidate, stages)
            except ProgramError as error:  # it does not fit this model's shapes
                stages.append(failed(Stage.PARITY, Status.REJECTED, error.render()))
        taken = time.perf_counter() - started - self.waited
        stages[-1] = stages[-1].model_copy(update={"seconds": taken})
        evaluation = Evaluation(
            evaluator_version=EVALUATOR_VERSION,
            structure_hash=candidate.structure_hash if candidate else None,
            candidate_hash=candidate.candidate_hash if candidate else None,
            stages=tuple(stages),
            environment=environment(),
        )
        return {"evaluation": evaluation.model_dump(mode="json"),
                "name": candidate.program.name if candidate else "",
                "knobs": dict(candidate.knobs) if candidate else {}}  # fmt: skip

    def _parse(self, request: Mapping[str, Any], stages: list[StageResult]) -> Candidate | None:
        try:
            candidate = compile_text(
                str(request["text"]), request.get("knobs") or {},
                filename=str(request.get("filename", "program")),
                reserved=bool(request.get("control")),
                files=Path(str(request["files"])) if request.get("files") else None,
            )  # fmt: skip
            with placed(candidate.program):
                price(candidate, self.geometry, self.workload, self.device)
        except VortexError as error:
            stages.append(failed(Stage.PARSE, Status.REJECTED, error.render()))
            return None
        stages.append(StageResult(stage=Stage.PARSE, status=Status.OK))
        return candidate

    def _screen(
        self, request: Mapping[str, Any], candidate: Candidate, stages: list[StageResult]
    ) -> None:
        """Dedup, price, parity and fidelity; stops at the first that fails."""
        known = request.get("known") or {}
        if candidate.candidate_hash in known:
            twin = known[candidate.candidate_hash]
            stages.append(failed(Stage.DEDUP, Status.DUPLICATE, f"the same as candidate {twin}"))
            return
        control = bool(request.get("control"))
        cost = price(candidate, self.geometry, self.workload, self.device)
        stages.append(self._priced(candidate, cost))
        if not control and not request.get("promote") and cost.speedup_step <= 1.0:
            stages[-1] = stages[-1].model_copy(
                update={"status": Status.DOMINATED,
                        "message": "predicted to be no faster than full attention"}
            )  # fmt: skip
            return
        unfit = "" if control else self._unfit(candidate)
        if unfit:
            stages[-1] = stages[-1].model_copy(update={"status": Status.REJECTED, "message": unfit})
            return
        cache = self.model.spec.cache
        shape = Shape(
            cache.kv_heads, self.model.spec.heads // cache.kv_heads, cache.key_dim,
            latent=cache.value_dim if cache.shared else None, rope=cache.rope,
        )  # fmt: skip
        problem = disagreement(candidate, shape, seed=int(request.get("seed", 0)))
        if problem:
            stages.append(failed(Stage.PARITY, Status.MISMATCH, problem))
            return
        stages.append(StageResult(stage=Stage.PARITY, status=Status.OK))
        stages.append(self._fidelity(request, candidate, exempt=control))

    def _unfit(self, candidate: Candidate) -> str:
        """Why another model or shorter contexts than the target's cannot judge it, or ''."""
        if len(self.dense_layers(candidate)) == self.model.spec.layers:
            return (
                f"it cannot be judged here: scaled to the {self.model.spec.layers} layers that "
                "it would be measured on, its dense layers are all of them; declare fewer"
            )
        context = int(self.config.get("context_tokens", self.workload.context))
        if context >= self.workload.context:
            return ""
        tokens = raised(candidate, context, self.workload.context, layers=self.geometry.layers)
        if not tokens:
            return ""
        return (
            f"its budget cannot be judged here: {tokens:,} tokens' worth of pages are kept on "
            "contexts this short; use smaller pages or a larger one"
        )

    def _priced(self, candidate: Candidate, cost: Price) -> StageResult:
        workload = (
            f"batch {self.workload.batch}, {self.workload.context} tokens, {self.workload.kv_dtype}"
        )

        def predicted(name: str, value: float, unit: str) -> Metric:
            return Metric(
                name=name, value=value, stderr=None, n=1, unit=unit, origin="predicted",
                device=self.device.name, model=self.geometry.name, workload=workload,
            )  # fmt: skip

        return StageResult(
            stage=Stage.PRICE,
            status=Status.OK,
            metrics=(
                predicted("step_seconds", cost.sparse.seconds, "s"),
                predicted("step_speedup", cost.speedup_step, "ratio"),
                predicted("attention_speedup", cost.speedup_attention, "ratio"),
                predicted("index_bytes_per_token", cost.index_bytes_per_token, "B"),
                predicted("attended_tokens", cost.attended_tokens, "tokens"),
                predicted("index_read", cost.sparse.index_bytes, "B"),
                predicted("attended_read", cost.sparse.attended_bytes, "B"),
                predicted("launches", cost.sparse.launches, "launches"),
            ),
        )

    def attend(self, candidate: Candidate, prefilled: Prefilled) -> Attend:
        """Attention of a context's questions under a candidate."""
        spec = self.model.spec
        return SuffixAttend(
            candidate, spec.cache.split(prefilled.kv), scale=spec.scale,
            workload_context=self.workload.context, dense=self.dense_layers(candidate),
            rope=spec.cache.rope,
        )  # fmt: skip

    def dense_layers(self, candidate: Candidate) -> frozenset[int]:
        """Layers of the model that attend to everything."""
        return dense_layers(candidate, self.model.spec.layers, self.geometry.layers)

    def _fidelity(
        self, request: Mapping[str, Any], candidate: Candidate, *, exempt: bool
    ) -> StageResult:
        found = []
        for index in request["contexts"]:
            prefilled = self._context({**request, "index": index})
            with self.place():
                found.append(
                    fidelity(
                        candidate, prefilled, cache=self.model.spec.cache,
                        scale=self.model.spec.scale, workload_context=self.workload.context,
                        dense=self.dense_layers(candidate),
                    )
                )  # fmt: skip
        recovered = [f.recovered for f in found]
        metrics = tuple(
            self._measured(name, [getattr(f, name) for f in found], unit)
            for name, unit in _FIDELITY
        )
        floor = float(self.config["min_recovered"])
        low = sum(recovered) / len(recovered) < floor and not exempt
        return StageResult(
            stage=Stage.FIDELITY,
            status=Status.INACCURATE if low else Status.OK,
            message=f"finds less than {floor:.0%} of the attention mass that the best pages add "
            "over random ones" if low else "",
            metrics=metrics,
        )  # fmt: skip

    def _measured(self, name: str, values: list[float], unit: str) -> Metric:
        mean = sum(values) / len(values)
        spread = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
        error = (spread / len(values)) ** 0.5 if len(values) > 1 else None
        return Metric(
            name=name, value=mean, stderr=error, n=len(values), unit=unit, origin="measured",
            device=self.name_of_device(), model=self.model.spec.name,
            workload=f"{self.config['context_tokens']} tokens, recorded queries",
        )  # fmt: skip

    def _accuracy(
        self, request: Mapping[str, Any], candidate: Candidate, stages: list[StageResult]
    ) -> None:
        samples = []
        for index in request["contexts"]:
            prefilled = self._context({**request, "index": index})
            with self.place():
                samples += score(
                    self.model, prefilled.context.questions, self.attend(candidate, prefilled),
                    context=prefilled.context.name, start=len(prefilled.context.tokens),
                    full=prefilled.full,
                )  # fmt: skip
        stage = Stage.SEALED if request.get("split") == "sealed" else Stage.ACCURACY
        rung = int(request.get("rung", 0))
        if not all(math.isfinite(s.value) for s in samples):
            message = "the model's losses are not finite under this program"
            stages.append(
                StageResult(stage=stage, rung=rung, status=Status.INACCURATE, message=message)
            )
            return
        stages.append(StageResult(stage=stage, rung=rung, status=Status.OK, samples=tuple(samples)))

    def _throughput(
        self, request: Mapping[str, Any], candidate: Candidate, stages: list[StageResult]
    ) -> None:
        steps = int(request["pairs"])
        context = min(int(request["context"]), self.model.spec.max_context - 2 * steps)
        contexts = [self._context({**request, "index": i}) for i in request["contexts"]]
        kv = torch.cat([c.kv for c in contexts], 3)
        threads = int(request["threads"])
        torch.set_num_threads(threads)
        try:
            timing = measure(
                self.model,
                candidate,
                Bench(kv, int(request["batch"]), context, steps, self.workload.context,
                      self.dense_layers(candidate)),
            )  # fmt: skip
        finally:
            torch.set_num_threads(1)
        if timing.mismatch:
            stages.append(failed(Stage.THROUGHPUT, Status.MISMATCH, timing.mismatch))
            return
        workload = f"batch {request['batch']}, {context} tokens, {threads} threads"

        def timed(name: str, value: float, error: float | None, unit: str) -> Metric:
            return Metric(
                name=name, value=value, stderr=error, n=timing.pairs, unit=unit,
                origin="measured", device=processor(), model=self.model.spec.name,
                workload=workload,
            )  # fmt: skip

        stages.append(
            StageResult(
                stage=Stage.THROUGHPUT,
                status=Status.OK,
                metrics=(
                    timed("cpu_speedup", timing.speedup, timing.speedup_error, "ratio"),
                    timed("cpu_tokens_per_second", timing.tokens_per_second, None, "1/s"),
                    timed("cpu_full_tokens_per_second", timing.full_tokens_per_second, None, "1/s"),
                ),
            )
        )

    def _spec(self, request: Mapping[str, Any]) -> ContextSpec:
        split: Split = "sealed" if request.get("split") == "sealed" else "search"
        return ContextSpec(split, int(request["index"]), int(self.config["context_tokens"]))

    def _context(self, request: Mapping[str, Any]) -> Prefilled:
        """A prefilled context; the last few stay in memory."""
        name = self._spec(request).name
        if name not in self._contexts:
            while len(self._contexts) >= self.kept_contexts:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[name] = self.prefilled(request)
        return self._contexts[name]

    def prefilled(self, request: Mapping[str, Any]) -> Prefilled:
        """A context under full attention, from disk or computed and kept there."""
        context: Context = build_context(self._spec(request), self.model.tokenizer)
        with self.place():
            return prefill(self.model, context)


def failed(stage: Stage, status: Status, message: str) -> StageResult:
    """A stage that ends a candidate's climb."""
    return StageResult(stage=stage, status=status, message=message)


def processor() -> str:
    """The CPU's name and how many of its cores we see."""
    names = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def environment() -> dict[str, str]:
    """What a result depends on beside its inputs."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system() + " " + platform.release(),
    }
