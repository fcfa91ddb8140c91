"""The search: proposes, evaluates, races and measures until its budget is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from agent.crew import Crew, MachineFault, Unsound
from agent.enlisting import enlist
from agent.llm.studio import Studio
from agent.proposers.base import Proposer
from agent.proposing import Sources
from agent.standing import Standing, Standings, promotable, standings
from agent.workers import HANDLER, crew_for
from evals.models.fetch import make_cache
from evals.result import Evaluation, Sample, Stage, Status
from runs.quality import order_problem
from runs.records import RunConfig
from runs.store import Store
from search_spaces.block_topk import seeds
from vortex.errors import VortexError

_SCREEN_SECONDS, _PREFILL_SECONDS, _TRIES = 120.0, 600.0, 2
# Controls and the known algorithm between them, worst first, and what the leaderboard calls them.
_ORDER = {"RandomPages": "random pages", "StreamingLLM": "StreamingLLM", "Oracle": "the oracle"}


@dataclass(frozen=True, slots=True)
class Progress:
    """What a view shows; ``controls`` are judged beside what is ``done``."""

    phase: str
    done: int
    total: int
    running: int
    front: tuple[str, ...] = ()
    seconds_left: float | None = None
    turns: int = 0
    dollars: float | None = None
    controls: int = 0


@dataclass
class Search:
    """One coordinator. All state that matters is in the store; a new Search takes it up.

    Attributes:
        report: called with progress; ``interrupted`` makes the loop end in order.
        studio: the language models that propose too.
        proposers: without any, what is pending is judged, and nothing new is proposed.
        measures: whether it ends with the throughput of the front on this CPU.
        last_fault: what the machine failed with last; '' if it did not.
    """

    store: Store
    proposers: Sequence[Proposer]
    report: Callable[[Progress], None]
    interrupted: Callable[[], bool]
    handler: str = HANDLER
    studio: Studio | None = None
    measures: bool = True
    started: float = field(default_factory=time.monotonic)
    last_fault: str = ""
    _faults: dict[int, int] = field(default_factory=dict)
    _unsound: int = 0

    def run(self) -> None:
        """Prefill, then search, then measure throughput.

        Raises:
            VortexError: E608, the controls come out in the wrong order; E509, the machine fails.
        """
        config = self.store.config()
        enlist(self.store, config)
        self._prefill(config)
        crew = self._crew(config, config.workers)
        try:
            if self.studio is not None:
                self.studio.take_up()
            self._search(config, crew)
        finally:
            crew.close()
            if self.studio is not None:
                self.studio.close()
        wanted = self.measures and config.throughput and not config.on_gpu
        if wanted and not self.interrupted() and not self.broken():
            self._measure(config)

    def _crew(self, config: RunConfig, size: int, *, prefilling: bool = False) -> Crew:
        probe = {"kind": "screen", "text": seeds()[0].text, "contexts": [0], "known": {}}
        return crew_for(config, size, handler=self.handler, prefilling=prefilling, probe=probe)

    def _prefill(self, config: RunConfig) -> None:
        make_cache()
        crew = self._crew(config, config.workers, prefilling=True)
        total = config.rungs[-1]
        pending = {
            crew.submit([({"kind": "prefill", "index": i}, _PREFILL_SECONDS)]) for i in range(total)
        }
        try:
            while pending and not self.interrupted():
                self.report(Progress("prefill", total - len(pending), total, config.workers))
                done, pending = wait(pending, timeout=2, return_when=FIRST_COMPLETED)
                for future in done:
                    answer = self._answers(future)[0]
                    if "evaluation" in answer:  # it ended badly
                        raise _machine(answer["evaluation"]["stages"][-1]["message"])
        finally:
            crew.close()

    def _answers(self, future: Future[list[Any]]) -> list[Any]:
        try:
            return future.result()
        except MachineFault as fault:
            raise _machine(str(fault)) from None

    def _search(self, config: RunConfig, crew: Crew) -> None:
        running: dict[Future[list[Any]], int] = {}
        checked = False
        while not self.interrupted() and not self.broken():
            asking = bool(self._turns())
            now, free = self._state(config)
            if not checked:
                checked = _check_controls(now)
            late = self.late(now)
            while not late and len(running) < config.workers:
                task = self._next(now, free, frozenset(running.values()))
                if task is None:
                    break
                candidate, requests = task
                running[crew.submit(requests)] = candidate
                now, free = self._state(config)
            if now.scale is not None and not late:
                asking = self._sources.ask(now, free) > 0 or asking
            self.report(self._progress(now, len(running)))
            turns = self._turns()
            # A turn that ended meanwhile may have changed who proposes: then look once more.
            if not running and not turns and not asking:
                return
            both: set[Future[Any]] = {*running, *turns}
            done, _ = wait(both, timeout=2, return_when=FIRST_COMPLETED)
            for future in [f for f in running if f in done]:
                self._take(running.pop(future), future)

    def _turns(self) -> set[Future[None]]:
        if self.studio is None:
            return set()
        self.studio.collect()
        return self.studio.futures

    @property
    def _sources(self) -> Sources:
        return Sources(self.store, self.proposers, self.studio)

    def late(self, now: Standings) -> bool:
        """Whether a cap on time was reached: then nothing new is begun."""
        config = now.config
        spent = sum(x.seconds for s in now.by_id.values() for x in s.stages)
        used = config.gpu_seconds is not None and spent > config.gpu_seconds
        return self.out_of_time() or (config.on_gpu and used)

    def out_of_time(self) -> bool:
        """Whether ``minutes`` are over."""
        minutes = self.store.config().minutes
        return minutes is not None and time.monotonic() - self.started > minutes * 60

    def broken(self) -> bool:
        """Whether workers fail their proof one after the other, so that nothing can be judged."""
        return self._unsound > 2 * self.store.config().workers + 1

    def _take(self, candidate: int, future: Future[list[Any]]) -> None:
        """Keep what a worker says, all of it or nothing."""
        try:
            answers = [_read(answer) for answer in future.result()]
        except VortexError:
            raise
        except Exception as fault:  # the boundary of a worker: its fault is never a verdict
            self._faults[candidate] = self._faults.get(candidate, 0) + 1
            what = fault if isinstance(fault, MachineFault) else f"{type(fault).__name__}: {fault}"
            self.last_fault = str(what)
            self._unsound += isinstance(fault, Unsound)
            self.store.note("infra_error", f"{fault_head(candidate)} {what}")
            return
        self._unsound = 0
        for evaluation, name, knobs in answers:
            self.store.record(candidate, evaluation, name=name, knobs=knobs)

    def _given_up(self, candidate: int) -> bool:
        """Whether the machine failed on it so often that only a later process tries again."""
        return self._faults.get(candidate, 0) >= _TRIES

    def _next(
        self, now: Standings, free: int, running: frozenset[int]
    ) -> tuple[int, list[tuple[dict[str, Any], float]]] | None:
        """The most useful request: pending work, a promotion, or a new proposal."""
        for standing in now.by_id.values():
            if standing.record.id in running or self._given_up(standing.record.id):
                continue
            if not standing.stages:
                return standing.record.id, self._screen(now, standing)
            # A kill may come between the screen and the first rung. Controls set the scale: they
            # see every context as soon as they are sound.
            wanted = len(now.config.rungs) if standing.record.control else 1
            if standing.status == Status.OK and standing.rung < wanted:
                return standing.record.id, [self._rung(now, standing)]
            if standing.status == Status.OK and standing.rung and _untimed(now.config, standing):
                return standing.record.id, [self._timing(now.config, standing)]
        if now.scale is None:
            return None
        for rung in range(len(now.config.rungs) - 1, 0, -1):
            found = promotable(now, rung, running)
            if found is not None:
                return found.record.id, [self._rung(now, found)]
        fresh = self._sources.fresh(now, free)
        if fresh is None:
            return None
        now = standings(self.store, now.config)
        return fresh, self._screen(now, now.by_id[fresh])

    def _state(self, config: RunConfig) -> tuple[Standings, int]:
        """All standings, and how many evaluations neither a candidate nor a turn has a claim to.

        Turns are counted first: one that ends meanwhile counts twice for a moment, not never.
        """
        asked = self.studio.open_turns() if self.studio else 0
        now = standings(self.store, config)
        # What is given up keeps its claim: else a program that breaks workers would cost nothing.
        claimed = sum(not s.record.control and not s.stages for s in now.by_id.values())
        return now, config.evaluations - self.store.evaluated() - claimed - asked

    def _screen(self, now: Standings, standing: Standing) -> list[tuple[dict[str, Any], float]]:
        record = standing.record
        known = {
            s.record.candidate_hash: s.record.id
            for s in now.by_id.values()
            if s.record.candidate_hash and s.record.id != record.id
        }
        rng = random.Random(f"{now.config.seed}/{record.id}")
        request = {
            "kind": "screen", "text": record.text, "knobs": record.knobs, "seed": record.id,
            "control": record.control, "contexts": [0, 1], "known": known,
            "promote": rng.random() < 0.05,
        }  # fmt: skip
        requests = [(request, _SCREEN_SECONDS), self._rung(now, standing)]
        if _untimed(now.config, standing):
            requests.append(self._timing(now.config, standing))
        return requests

    def _rung(self, now: Standings, standing: Standing) -> tuple[dict[str, Any], float]:
        config, record = now.config, standing.record
        ends = (0, *config.rungs)
        contexts = list(range(ends[standing.rung], ends[standing.rung + 1]))
        request = {
            "kind": "accuracy", "text": record.text, "knobs": record.knobs,
            "control": record.control, "contexts": contexts, "rung": standing.rung,
        }  # fmt: skip
        return request, config.timeout * len(contexts)

    def _timing(self, config: RunConfig, standing: Standing) -> tuple[dict[str, Any], float]:
        """Throughput; on a GPU, batch and context are the workload's own."""
        request = {
            "kind": "throughput", "text": standing.record.text, "knobs": standing.record.knobs,
            "batch": config.throughput_batch, "context": config.throughput_context,
            "pairs": config.throughput_pairs, "threads": config.workers,
            "contexts": list(range(config.rungs[0])),
        }  # fmt: skip
        return request, 5 * config.timeout

    def _measure(self, config: RunConfig) -> None:
        """Throughput of the front, one at a time, when nothing else of ours runs."""
        now = standings(self.store, config)
        members = [*now.front(), *(s for s in now.by_id.values() if s.record.proposer == "seed")]
        wanted = {
            s.record.id: s
            for s in members
            if s.status == Status.OK and s.losses and s.metric("cpu_speedup") is None
            and not any(x.stage == Stage.THROUGHPUT for x in s.stages)
        }  # fmt: skip
        crew = self._crew(config, 1)
        try:
            for done, standing in enumerate(wanted.values()):
                self.report(Progress("throughput", done, len(wanted), 1, _names(now)))
                future = crew.submit([self._timing(config, standing)])
                while not future.done():
                    wait([future], timeout=1)
                    if self.interrupted():
                        return
                self._take(standing.record.id, future)
            self.report(Progress("throughput", len(wanted), len(wanted), 0, _names(now)))
        finally:
            crew.close()

    def _progress(self, now: Standings, running: int) -> Progress:
        config, done = now.config, self.store.evaluated()
        spent = time.monotonic() - self.started
        left = None
        if config.minutes is not None:
            left = max(0.0, config.minutes * 60 - spent)
        elif done:
            left = spent / done * max(0, config.evaluations - done)
        turns = len(self.studio.futures) if self.studio else 0
        dollars = self.studio.ledger.spent().dollars if self.studio else None
        controls = sum(s.record.control and bool(s.stages) for s in now.by_id.values())
        return Progress("search", done, config.evaluations, running, _names(now), left, turns,
                        dollars, controls)  # fmt: skip


def fault_head(candidate: int) -> str:
    """How the record of a machine's fault on a candidate begins."""
    return f"candidate {candidate}:"


def _read(answer: Mapping[str, Any]) -> tuple[Evaluation, str, dict[str, Any] | None]:
    """What a worker says of a candidate: evaluation, name, knobs."""
    return (
        Evaluation.model_validate(answer["evaluation"]), answer["name"], answer["knobs"] or None,
    )  # fmt: skip


def _untimed(config: RunConfig, standing: Standing) -> bool:
    """Whether a candidate waits for its turn on the GPU."""
    wanted = config.on_gpu and config.throughput and not standing.record.control
    return wanted and not any(s.stage == Stage.THROUGHPUT for s in standing.stages)


def _names(now: Standings) -> tuple[str, ...]:
    return tuple(
        f"{s.record.name}#{s.record.id} {s.entry().loss:.2f}@{s.seconds * 1e3:.2f}ms"
        for s in now.front()
    )


def _controls(now: Standings) -> list[tuple[str, Sequence[Sample]]]:
    """The controls that were evaluated, from the one that must be worst to the best."""
    found: list[tuple[str, Sequence[Sample]]] = []
    for name, words in _ORDER.items():
        standing = now.control(name) or next(
            (s for s in now.by_id.values() if s.record.name == name), None
        )
        if standing is not None and standing.samples:
            found.append((words, standing.samples))
    return found


def controls_problem(now: Standings) -> str:
    """What is wrong with the order of the controls, or ''."""
    return order_problem(_controls(now))


def _check_controls(now: Standings) -> bool:
    """Whether the controls saw every context; refuses a run in which they make no sense."""
    last = len(now.config.rungs)
    if any(s.rung < last for s in now.by_id.values() if s.record.control) or now.scale is None:
        return False
    problem = controls_problem(now)
    if problem:
        raise VortexError(
            f"the controls come out in the wrong order: {problem}",
            code="E608",
            hint="the evaluation cannot be trusted: use more contexts, or another model",
        )
    return True


def _machine(why: str) -> VortexError:
    return VortexError(f"evaluation failed on this machine: {why}", code="E509", exit_code=3,
                       hint="mend it, then: vortex-search resume")  # fmt: skip
