"""Why a search ended: in full, or before its budget was spent, with what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.loop import Search
from agent.standing import Standing, Standings, standings
from evals.result import Status
from runs.store import Store
from vortex.errors import ExitCode, printable

AGAIN = (Status.CRASHED, Status.TIMEOUT)  # verdicts that a mended machine may change


@dataclass(frozen=True, slots=True)
class Ending:
    """How a search ended.

    Attributes:
        why: '' where every evaluation was made and something is on the front.
        repair: what to do about it.
    """

    why: str = ""
    repair: str = ""
    exit_code: int = ExitCode.OK

    def line(self) -> str:
        """For a person, in one line."""
        return f"stopped: {printable(self.why, limit=600)}; {self.repair}"


def ending(search: Search) -> Ending:
    """Why a search that nobody interrupted has ended."""
    store = search.store
    config = store.config()
    now, done = standings(store, config), store.evaluated()
    again = f"vortex-search resume {store.name}"
    code = ExitCode.OK if now.front() else ExitCode.FAILED
    made = f"{done} of {config.evaluations} evaluations were made"
    waiting = [s for s in now.by_id.values() if not s.stages]
    if search.broken():
        why = f"no worker can judge a known program now ({made}): {search.last_fault}"
        return Ending(why, f"mend it, then: {again}", ExitCode.ENVIRONMENT)
    if done >= config.evaluations and not waiting:
        return Ending() if now.front() else _nothing_stands(now, made, again)
    if search.late(now):
        return _late(search, made, again, code)
    if now.scale is None:
        return _no_scale(now, search.last_fault, again)
    if waiting:
        why = f"the machine failed on {_number(waiting)} ({made}): {search.last_fault}"
        return Ending(why, f"mend it, then: {again}", code)
    if not now.judged():
        return _nothing_stands(now, made, again)
    if search.studio is not None and search.studio.capped:
        why = f"a cap on language models was reached ({made})"
        return Ending(why, f"{again} with a larger --max-cost or --max-tokens", code)
    who = "no proposer has a program that was not tried"
    if search.studio is not None and not search.studio.well():
        who = "every language model failed or brought nothing new again and again"
    return Ending(f"{who} ({made})", f"to ask again: {again}", code)


def _late(search: Search, made: str, again: str, code: int) -> Ending:
    config = search.store.config()
    if search.out_of_time():
        return Ending(f"{config.minutes:g} minutes are over ({made})", f"go on with: {again}", code)
    why = f"{config.gpu_seconds:g} seconds of evaluation are used ({made})"
    return Ending(why, f"{again} with a larger --gpu-seconds", code)


def _no_scale(now: Standings, fault: str, again: str) -> Ending:
    """Without full attention and random pages no loss means anything."""
    bad = [s for s in now.by_id.values() if s.record.control and s.status != Status.OK]
    said = "; ".join(f"{s.record.name}: {_said(s) or fault or 'not judged'}" for s in bad)
    why = f"the controls could not be judged, and nothing is compared without them: {said}"
    return Ending(why, f"mend it, then: {again}", ExitCode.ENVIRONMENT)


def _nothing_stands(now: Standings, made: str, again: str) -> Ending:
    """Evolution and tuning start from what stands: without it nothing is left to try."""
    judged = [s for s in now.by_id.values() if not s.record.control]
    states = Counter(str(s.status or "waiting") for s in judged)
    counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
    why = f"no candidate passed every stage, so nothing is left to vary ({made}; {counts})"
    last = next((s for s in judged if s.status in AGAIN), None)
    if last is None:
        most = next((m for s in judged if (m := _said(s))), "")
        repair = "a new run with a longer --context, a larger --batch or other --seeds"
        return Ending(f"{why}: {most}" if most else why, repair, ExitCode.FAILED)
    return Ending(f"{why}: {_said(last)}", f"mend it, then: {again} judges them again",
                  ExitCode.FAILED)  # fmt: skip


def _number(waiting: Sequence[Standing]) -> str:
    return "1 candidate" if len(waiting) == 1 else f"{len(waiting)} candidates"


def _said(standing: Standing) -> str:
    """The verdict that ended it and its reason; '' while none did."""
    bad = next((s for s in standing.stages if s.status != Status.OK), None)
    return "" if bad is None else ": ".join(t for t in (str(bad.status), bad.message) if t)


def retry(store: Store) -> int:
    """Where no candidate stands, let those that crashed or took too long be judged again.

    A verdict is kept otherwise: it may well be the candidate's own fault.

    Returns:
        How many wait again.
    """
    now = standings(store, store.config())
    return 0 if now.scale is not None and now.judged() else store.forget(AGAIN)
