"""What a run is made of: its configuration and its candidates, as typed records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from evals.result import Record

SCHEMA_VERSION = 4  # 4: results of the stage "engine"
MOST_WORKERS = 1024  # processes on one machine


class RunConfig(Record):
    """All that decides a run; changing it (but for the budgets) makes another run.

    Attributes:
        device: where candidates run: ``cpu``, or a GPU as ``cuda:0``.
        price_for: the device that times are predicted for.
        model: the target, whose attention is made sparse; its geometry is priced.
        accuracy_model: the model that really runs: the target itself, or a stand-in.
        rungs: numbers of contexts at which a candidate is looked at again (racing).
        keep: share of the candidates that each rung passes on.
        min_recovered: fidelity below which a candidate is not run at all.
        agents: language models that propose, as ``--agent`` names them.
        strategy: ``independent`` samples them without feedback: the best-of-N baseline.
        max_cost, max_tokens, gpu_seconds: caps of the run, what is in flight included; dollars,
            tokens sent and received, seconds of evaluation on a GPU.
        prices: dollars per million tokens by model: sent, read from a cache, kept in one, received.
        parallel_turns: turns of language models at a time.
        fill: the largest share of the evaluations that other proposers take from language models.
        notes_every: proposals of language models between two rewritings of their notes.
    """

    schema_version: int = SCHEMA_VERSION
    model: str = "smollm2-135m"
    accuracy_model: str = "smollm2-135m"
    device: str = Field(default="cpu", pattern=r"cpu|cuda:[0-9]+")
    price_for: str = "h200"
    context: int = Field(default=32768, gt=0)
    batch: int = Field(default=16, gt=0)
    kv_dtype: Literal["bf16", "fp8"] = "bf16"
    evaluations: int = Field(default=60, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    seed: int = 0
    workers: int = Field(default=2, ge=1, le=MOST_WORKERS)
    rungs: tuple[int, ...] = (3, 8, 24)
    keep: float = Field(default=0.34, gt=0, le=1)
    context_tokens: int = Field(default=2048, ge=256)
    min_recovered: float = 0.3
    throughput: bool = True
    throughput_batch: int = Field(default=4, gt=0)
    throughput_context: int = Field(default=8128, gt=0)
    throughput_pairs: int = Field(default=8, ge=2)
    timeout: float = Field(default=120.0, gt=0, description="seconds per context of evaluation")
    seeds_dir: str | None = None
    sweep: tuple[int, ...] = ()
    agents: tuple[str, ...] = ()
    strategy: Literal["search", "independent"] = "search"
    max_cost: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    gpu_seconds: float | None = Field(default=None, gt=0)
    prices: dict[str, tuple[float, float, float, float]] = Field(default_factory=dict)
    parallel_turns: int = Field(default=2, ge=1, le=64)
    reply_tokens: int = Field(default=8192, ge=256)
    fill: float = Field(default=0.5, ge=0, le=1)
    notes_every: int = Field(default=8, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: object) -> object:
        """Version 1 ran on CPUs only, and called the priced device ``device``."""
        if isinstance(values, dict) and values.get("schema_version") == 1:
            return {**values, "schema_version": SCHEMA_VERSION, "device": "cpu",
                    "price_for": values.get("device", "h200")}  # fmt: skip
        return values

    @property
    def on_gpu(self) -> bool:
        """Whether candidates run on a GPU."""
        return self.device != "cpu"

    @property
    def standin(self) -> bool:
        """Whether accuracy comes from another model than the target."""
        return self.model != self.accuracy_model


class CandidateRecord(Record):
    """A candidate as proposed; its results are rows of their own."""

    id: int
    name: str
    text: str
    knobs: dict[str, int | float | str]
    structure_hash: str | None
    candidate_hash: str | None
    proposer: str
    parents: tuple[int, ...]
    note: str
    control: bool
