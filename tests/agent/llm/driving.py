"""Agent runs for tests: the fake evaluator judges, a server on loopback answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.crew import Crew
from agent.llm.prefix import prefix
from agent.llm.recruit import recruit
from agent.llm.studio import Studio
from agent.loop import Search
from agent.proposers.ablate import Ablate
from agent.proposers.base import Proposer
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from agent.workers import crew_for, worker_config
from runs.records import RunConfig
from runs.store import Store
from search_spaces.grammar import program
from tests.agent.providers.wire import Recorded, Scripted, tool_calls
from tests.fake_evaluator import FakeEvaluator


class ThreadCrew(Crew):
    """Judges in threads of this process: workers of their own take seconds to start."""

    def __init__(self, config: RunConfig, size: int) -> None:
        super().__init__("", {}, size=size)
        self._evaluator = FakeEvaluator(worker_config(config))

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        return self._evaluator.handle(request)


FAKE = f"{FakeEvaluator.__module__}:{FakeEvaluator.__name__}"


def quick_crew_for(config: RunConfig, size: int, *, handler: str, **more: Any) -> Crew:
    """In place of ``agent.loop.crew_for``: threads for the fake evaluator, processes for others."""
    if handler == FAKE:
        return ThreadCrew(config, size)
    return crew_for(config, size, handler=handler, **more)


@contextmanager
def in_threads() -> Iterator[None]:
    """While it is open, searches with the fake evaluator judge in threads of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.loop.crew_for", quick_crew_for)
        yield


class QuickSearch(Search):
    """A search with such a crew."""

    def _crew(self, config: RunConfig, size: int, *, prefilling: bool = False) -> Crew:
        return ThreadCrew(config, size)


OTHERS: tuple[Proposer, ...] = (Evolve(), Tune(), Ablate())


def submission(seed: int, **more: Any) -> tuple[str, dict[str, Any]]:
    """A call that hands in a program drawn from the grammar."""
    claim = {"hypothesis": f"Guess {seed}.", "compared_to": 4, "expected_loss": "lower",
             "expected_time": "same"}  # fmt: skip
    return "submit_program", {"program": program(seed), **claim, **more}


class Guesser:
    """Answers every request with another program."""

    def __init__(self, first: int = 1000) -> None:
        self.next = first

    def __call__(self, request: Recorded) -> Scripted:
        self.next += 1
        return tool_calls(submission(self.next))


def config_for(*agents: str, **more: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "evaluations": 20, "rungs": (3, 4), "workers": 2, "throughput": False, "agents": agents,
    }  # fmt: skip
    return RunConfig.model_validate(fields | more)


def search_of(
    store: Store,
    *,
    proposers: tuple[Proposer, ...] = OTHERS,
    said: list[str] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Search:
    """A search as the command line makes it."""
    config = store.config()
    lines = [] if said is None else said
    agents = recruit(store, config, lines.append)
    search = QuickSearch(store, proposers, lambda p: None, stop)
    search.studio = Studio(
        store, config, agents, prefix(config), stop=stop, say=lines.append, sleep=lambda s: None
    )
    return search


def run(folder: Path, config: RunConfig, **more: Any) -> Store:
    """A whole run."""
    store = Store.create(folder, config, {"test": "yes"})
    search_of(store, **more).run()
    return store
