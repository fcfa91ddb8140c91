"""Runs a search with the fake evaluator in its own process; logs what it asks and keeps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agent.crew import Crew
from agent.loop import Search
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from evals.result import Evaluation
from runs.naming import list_runs
from runs.records import RunConfig
from runs.store import Store

HANDLER = "tests.fake_evaluator:FakeEvaluator"
CONFIG = RunConfig(evaluations=30, rungs=(3, 4), workers=2, throughput=False)


def logged(path: Path) -> None:
    """Append what is asked and what is kept to a file."""

    def say(kind: str, identity: object) -> None:
        with path.open("a") as file:
            file.write(json.dumps([kind, identity]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    submit, record = Crew.submit, Store.record

    def submit_logged(
        self: Crew, requests: Sequence[tuple[Mapping[str, Any], float]]
    ) -> Future[list[Any]]:
        for request, _ in requests:
            if request["kind"] == "accuracy":
                say("asked", [request["text"], request["knobs"], request["rung"]])
        return submit(self, requests)

    def record_logged(self: Store, candidate: int, evaluation: Evaluation, **more: Any) -> None:
        record(self, candidate, evaluation, **more)
        row = next(c for c in self.candidates() if c.id == candidate)
        for stage in evaluation.stages:
            if stage.samples:
                say("kept", [row.text, row.knobs, stage.rung])

    Crew.submit, Store.record = submit_logged, record_logged  # type: ignore[method-assign]


def main(runs_dir: Path) -> None:
    """Start a run in an empty folder, else go on with the one that is there."""
    logged(runs_dir / "log.jsonl")
    names = list_runs(runs_dir)
    store = (
        Store.open_to_write(runs_dir / names[0])
        if names
        else Store.create(runs_dir, CONFIG, {"test": "yes"})
    )
    Search(store, (Evolve(), Tune()), lambda p: None, lambda: False, handler=HANDLER).run()
    store.close()
    print("finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
