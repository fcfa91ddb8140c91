"""A run held open for one outside agent: its calls answered, its submissions judged in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.llm.prefix import prefix
from agent.llm.tools import TOOLS
from agent.outside import (
    desk_for,
    fault_of,
    front_facts,
    front_text,
    hand_in,
    judge_pending,
    outcome_facts,
    outcome_of,
    outcome_text,
    waits,
)
from agent.presentation import board_of
from agent.providers.records import ToolCall, ToolSpec
from agent.workers import HANDLER
from runs.store import Store
from vortex.errors import VortexError, printable

WAIT = 50.0  # seconds: many clients give up on a call after a minute
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
_SAID_HERE = {
    "price_program": "Predict a program's decode step on the target, beside the front. Costs no "
    "evaluation.",
    "submit_program": "Hand in a program with what you expect of it: it is recorded, evaluated and "
    "judged, and the verdict comes back with its numbers. Counts as one of the run's evaluations.",
}
DOOR_TOOLS: tuple[ToolSpec, ...] = (
    ToolSpec("guide", "Read this first: the language, how candidates are judged, what the target "
             "costs, and the rules.", _NOTHING),
    *(dataclasses.replace(t, description=_SAID_HERE.get(t.name, t.description)) for t in TOOLS),
    ToolSpec("front", "The candidates that no other beats, fastest first, and the evaluations "
             "left.", _NOTHING),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A tool's answer; ``data``: the same as values of JSON, where there are numbers."""

    text: str
    ok: bool = True
    data: Mapping[str, object] | None = None


class Door:
    """Answers calls from any thread; one thread of its own judges what was handed in.

    Args:
        store: open to write; closed by :meth:`close`.
        source: who proposes, see :func:`agent.outside.source_of`.
        wait: seconds that a submission waits for its verdict before it is told to look again.
    """

    def __init__(
        self, store: Store, source: str, *, handler: str = HANDLER, wait: float = WAIT
    ) -> None:
        self._store, self._source, self._handler, self._wait = store, source, handler, wait
        self._stopped = threading.Event()
        self._news = threading.Condition()
        # What waits is judged first, known algorithms above all.
        self._asked, self._done = int(waits(store)), 0
        self._problem = ""
        self._taking = threading.Lock()  # of two submissions the second sees the first
        self._judge = threading.Thread(target=self._passes, name="vortex-door", daemon=True)
        self._judge.start()

    def close(self) -> None:
        """End in order: what is not judged by now waits in the record."""
        self._stopped.set()
        with self._news:
            self._news.notify_all()
        self._judge.join()
        self._store.close()

    def call(self, name: str, arguments: Mapping[str, Any] | None) -> Reply:
        """Answer a call of one of :data:`DOOR_TOOLS`; bad input is told, never raised."""
        given = {} if arguments is None else arguments
        try:
            if name == "guide":
                return Reply(prefix(self._store.config()))
            if name == "front":
                board = board_of(self._store)
                return Reply(front_text(board), data=front_facts(board))
            if name == "submit_program":
                return self._submit(given)
            desk, _ = desk_for(self._store)
            answer = desk.answer(ToolCall("", name, given, ""))
            return Reply(answer.text, answer.ok)
        except VortexError as error:
            return Reply(error.render(), False)

    def _submit(self, given: Mapping[str, Any]) -> Reply:
        with self._taking:
            answer, candidate = hand_in(self._store, given, self._source)
        if candidate is None:
            return Reply(answer.text, False)
        finished = self._judged()
        found = outcome_of(self._store, candidate)
        data = {"taken": True, "finished": finished, **outcome_facts(found)}
        if not finished:
            text = (
                f"{outcome_text(found)}\nIt is recorded, and its evaluation goes on. Do not hand "
                f"it in again: read_candidate {candidate} tells how it stands."
            )
            return Reply(text, True, data)
        if found.row.status == "waiting":
            why = self._problem or fault_of(self._store, candidate)
            text = f"candidate {candidate} is recorded and not judged: {why}"
            return Reply(text, False, data)
        return Reply(outcome_text(found), True, data)

    def _judged(self) -> bool:
        """Wait until a pass that began after now has ended; False: it takes longer."""
        limit = time.monotonic() + self._wait
        with self._news:
            self._asked += 1
            ticket = self._asked
            self._news.notify_all()
            while self._done < ticket and not self._stopped.is_set():
                left = limit - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(left)
            return self._done >= ticket

    def _passes(self) -> None:
        """Judge whenever something is asked for, until the door is closed."""
        while not self._stopped.is_set():
            with self._news:
                while self._asked == self._done and not self._stopped.is_set():
                    self._news.wait()
                ticket = self._asked
            if self._stopped.is_set():
                return
            problem = self._pass()
            with self._news:
                self._done, self._problem = ticket, problem
                self._news.notify_all()

    def _pass(self) -> str:
        """Judge what waits; what went wrong, or ''. A fault is in the record, and ends no door."""
        try:
            judge_pending(self._store, handler=self._handler, interrupted=self._stopped.is_set)
        except VortexError as error:
            print(error.render(), file=sys.stderr, flush=True)
            return error.render()
        except Exception as error:  # as at the boundary of a worker: our fault, never a verdict
            traceback.print_exc(file=sys.stderr)
            what = printable(f"{type(error).__name__}: {error}", limit=200)
            with contextlib.suppress(VortexError):  # a record that cannot be written is said above
                self._store.note("infra_error", f"a pass of the door ended: {what}")
            return (
                f"an error of ours ended the evaluation ({what}); it is tried again with the next "
                "submission, and standard error has more"
            )
        return ""
