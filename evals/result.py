"""The records of evaluation: what was measured, how, and how surely. Pure data."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Status(StrEnum):
    """The verdict of a stage, or of a candidate: the verdict of its last stage."""

    OK = "ok"
    REJECTED = "rejected"  # not a program
    DUPLICATE = "duplicate"  # the same algorithm was evaluated before
    DOMINATED = "dominated"  # clearly worse than the front before it cost anything
    MISMATCH = "mismatch"  # the backend disagrees with the reference
    INACCURATE = "inaccurate"  # the model's answers suffer too much
    SLOW = "slow"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OVERFITTED = "overfitted"
    INFRA_ERROR = "infra_error"  # our fault or the machine's: never a verdict, retried


class Stage(StrEnum):
    """The rungs of the ladder, in order."""

    PARSE = "parse"
    DEDUP = "dedup"
    PRICE = "price"
    PARITY = "parity"
    FIDELITY = "fidelity"
    ACCURACY = "accuracy"
    THROUGHPUT = "throughput"
    SEALED = "sealed"
    ENGINE = "engine"  # beside full attention in an engine that serves


class Metric(Record):
    """A number with its error and its origin."""

    name: str
    value: float
    stderr: float | None = Field(description="standard error; None for a deterministic number")
    n: int = Field(description="independent units behind the value: contexts, timed pairs, ...")
    unit: str
    origin: Literal["measured", "predicted"]
    device: str
    model: str
    workload: str
    interval: tuple[float, float] | None = Field(
        default=None, description="of 95%, where it says more than the error: shares, few units"
    )


class Sample(Record):
    """One raw measurement: the mean of a metric over the questions of one task in one context."""

    context: str
    task: str
    metric: str
    value: float
    n: int = Field(default=1, description="questions or tokens averaged in the value")


class StageResult(Record):
    """The outcome of one stage for one candidate; ``rung`` counts the racing steps of accuracy, or
    the times that it was evaluated in an engine."""

    stage: Stage
    rung: int = 0
    status: Status
    message: str = ""
    seconds: float = 0.0
    metrics: tuple[Metric, ...] = ()
    samples: tuple[Sample, ...] = ()


class Evaluation(Record):
    """All that a worker has to say about one request for one candidate."""

    schema_version: int = SCHEMA_VERSION
    evaluator_version: str
    structure_hash: str | None = None
    candidate_hash: str | None = None
    stages: tuple[StageResult, ...]
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The verdict: that of the last stage."""
        return self.stages[-1].status
