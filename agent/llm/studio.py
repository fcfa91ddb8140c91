"""Holds the turns of language models beside the evaluations; what they hand in are candidates."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agent.llm.account import Account, Agent, Books, TurnEnds, caps_of
from agent.llm.dialogue import Ended
from agent.llm.submission import Submission
from agent.llm.turns import NOTES, PROPOSE, claim_of, hold, rewrite_notes, scene
from agent.providers.records import ProviderError
from runs.ledger import Ledger, Turn
from runs.records import RunConfig
from runs.store import Store
from vortex.compile import compile_text

# In a row, before an agent is left alone for the rest of this process.
MOST_FAILURES, MOST_FRUITLESS = 3, 10


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of the turns that asked for a program.

    Attributes:
        valid: handed in a program that was taken; ``ended`` counts those that were not too, but
            not what a cap, a failure or a stop cut off.
    """

    open: int
    ended: int
    valid: int


class Studio:
    """The language models of a run, at most ``config.parallel_turns`` turns at a time.

    Args:
        system: the stable prefix of every request.
        stop: whether the search is being stopped.
        say: told, in a line, what a user should know.
    """

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        agents: Sequence[Agent],
        system: str,
        *,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ledger, self.config, self.system = Ledger(store), config, system
        self.agents = {a.name: a for a in agents}
        self._store, self._stop, self._say, self._sleep = store, stop, say, sleep
        self._threads = ThreadPoolExecutor(config.parallel_turns, thread_name_prefix="vortex-turn")
        self._running: dict[Future[None], Turn] = {}
        self._failures: Counter[str] = Counter()
        self._fruitless: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._handed: set[str] = set()  # hashes of candidates that came from here
        self._closing = False
        self.capped = False  # a cap was reached: no more turns

    def take_up(self) -> None:
        """Go on with what an ended process left: what was in flight is booked, never sent again."""
        lost = self.ledger.book_unknown()
        if lost:
            self._store.note(
                "unknown", f"requests {', '.join(map(str, lost))}: in flight at a kill"
            )
            self._say(f"{len(lost)} requests were in flight when the run ended; booked, not resent")
        for turn in self.ledger.turns():
            if turn.outcome is not None or self.capped:
                continue
            if turn.agent in self.agents and turn.purpose in (PROPOSE, NOTES):
                self._submit(turn)
            else:
                self.ledger.close_turn(turn.id, "lost", "its agent is not part of the run now")

    @property
    def futures(self) -> set[Future[None]]:
        """Turns that run: a coordinator waits for them."""
        return set(self._running)

    def open_turns(self) -> int:
        """Turns that may yet bring a candidate."""
        return sum(t.purpose == PROPOSE for f, t in self._running.items() if not f.done())

    def well(self) -> list[str]:
        """Agents that have not failed, or brought nothing, again and again."""
        with self._lock:
            return [n for n in self.agents if not self._is_left(n)]

    def _is_left(self, name: str) -> bool:
        many = self._failures[name] >= MOST_FAILURES
        return many or self._fruitless[name] >= MOST_FRUITLESS

    def begin(self, agent: str) -> bool:
        """Begin a turn; False where no thread is free or a cap was reached."""
        self.collect()
        if self.capped or self._stop() or len(self._running) >= self.config.parallel_turns:
            return False
        purpose = NOTES if self._notes_due() else PROPOSE
        seen = self.ledger.seen()
        number = self.ledger.open_turn(purpose, agent, seen)
        self._submit(Turn(number, purpose, agent, seen, None, "", None))
        return True

    def collect(self) -> None:
        """Let go of turns that ended; a fault of ours comes out here."""
        for future in [f for f in self._running if f.done()]:
            del self._running[future]
            future.result()

    def tally(self) -> Tally:
        """How many turns brought a program."""
        return tally(self.ledger)

    def close(self) -> None:
        """Wait for the replies that are on their way: they are paid for. No more are asked for."""
        self._closing = True
        waiting = [f for f in self._running if not f.done()]
        if waiting:
            self._say(f"waiting for {len(waiting)} replies that are on their way")
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _stops(self) -> bool:
        return self._closing or self._stop()

    def _submit(self, turn: Turn) -> None:
        self._running[self._threads.submit(self._hold, turn)] = turn

    def _notes_due(self) -> bool:
        if self.config.strategy == "independent":
            return False
        if any(t.purpose == NOTES for t in self._running.values()):
            return False
        turns = self.ledger.turns()
        before = max((t.seen.candidate for t in turns if t.purpose == NOTES), default=0)
        fresh = [t.candidate for t in turns if t.candidate is not None and t.candidate > before]
        judged = self._store.stages()
        return sum(c in judged for c in fresh) >= self.config.notes_every

    def _hold(self, turn: Turn) -> None:
        agent, config = self.agents[turn.agent], self.config
        account = Account(
            Books(self.ledger, agent, turn.id, caps_of(config)), stop=self._stops,
            on_retry=lambda error, seconds: self._retried(agent, error, seconds),
            sleep=self._sleep,
        )  # fmt: skip
        try:
            view = scene(self._store, config, turn.seen)
            if turn.purpose == NOTES:
                text = rewrite_notes(self.system, view, account.ask)
                self.ledger.write_notes(turn.id, text)
            else:
                brief, ended = hold(self.system, view, turn.id, account.ask, tools=agent.tools)
                parents = [] if brief.parent is None else [brief.parent]
                self._take(turn, agent, ended, parents)
        except TurnEnds as end:
            self._ended(turn, end)
            return
        with self._lock:
            self._failures[agent.name] = 0

    def _take(self, turn: Turn, agent: Agent, ended: Ended, parents: list[int]) -> None:
        said = ended.submission
        if said is None:
            self.ledger.close_turn(turn.id, ended.outcome, ended.detail)
            why = f"{MOST_FRUITLESS} turns in a row brought no program; the last: {ended.detail}"
            self._count(self._fruitless, agent.name, why)
            return
        fresh = self._is_fresh(said)
        if said.compared_to is not None and said.compared_to not in parents:
            parents = [*parents, said.compared_to]
        _, new = self.ledger.submit(
            turn.id, text=said.text, knobs=said.knobs, proposer=agent.name, parents=parents,
            note=said.hypothesis, claim=claim_of(said),
        )  # fmt: skip
        if fresh and new:
            with self._lock:
                self._fruitless[agent.name] = 0
        else:  # it takes no evaluation, so a model that only repeats would be asked for ever
            why = f"{MOST_FRUITLESS} turns in a row brought nothing new"
            self._count(self._fruitless, agent.name, why)

    def _is_fresh(self, said: Submission) -> bool:
        """Whether no candidate before is the same algorithm with the same knobs."""
        digest = compile_text(said.text, said.knobs).candidate_hash
        known = {c.candidate_hash for c in self._store.candidates()}
        with self._lock:
            fresh = digest not in known | self._handed
            self._handed.add(digest)
        return fresh

    def _ended(self, turn: Turn, end: TurnEnds) -> None:
        if end.outcome is None:
            return  # it stays open, and goes on when the run is resumed
        self.ledger.close_turn(turn.id, end.outcome, end.detail)
        if end.outcome == "budget":
            self.capped = True
        if end.outcome == "failed":
            self._store.note("agent_failed", f"{turn.agent}: {end.detail}")
            self._count(self._failures, turn.agent, end.detail)

    def _count(self, counter: Counter[str], name: str, why: str) -> None:
        with self._lock:
            before = self._is_left(name)
            counter[name] += 1
            gone = self._is_left(name) and not before
        if gone:
            self._store.note("agent_left", f"{name}: {why}")
            self._say(f"{name} is left alone from now on: {why}")

    def _retried(self, agent: Agent, error: ProviderError, seconds: float) -> None:
        self._store.note("retry", f"{agent.name}: {error.message}; again in {seconds:.1f} s")


def tally(ledger: Ledger) -> Tally:
    """What came of a run's turns."""
    turns = [t for t in ledger.turns() if t.purpose == PROPOSE]
    ended = [t for t in turns if t.outcome not in (None, "budget", "failed", "lost")]
    valid = [t for t in ended if t.outcome in ("submitted", "repeated")]
    return Tally(sum(t.outcome is None for t in turns), len(ended), len(valid))
