"""Re-runs the recorded turns of a run: the same state and replies in, the same requests out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from agent.llm.dialogue import Ask
from agent.llm.turns import NOTES, PROPOSE, claim_of, hold, rewrite_notes, scene
from agent.providers.codec import reply_from_json, request_to_json
from agent.providers.records import Reply, Request
from runs.ledger import Entry, Ledger, State, Turn
from runs.store import Store
from vortex.errors import VortexError

_CONTEXT = 2  # lines around a change


@dataclass(frozen=True, slots=True)
class Change:
    """A request or result that is not what was recorded, as a diff."""

    turn: int
    step: int
    what: str
    diff: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        turns: re-run; ``requests``: compared with the record.
        partial: turns whose record ends before they do (lost, failed, capped, still open).
    """

    turns: int
    requests: int
    partial: int
    changes: tuple[Change, ...]


class _RecordEnds(Exception):
    """The next reply was never received."""


def replay(store: Store, system: str) -> Replay:
    """Re-run every recorded turn; nothing is sent and nothing is written.

    Args:
        system: the stable prefix as this version writes it.
    """
    ledger, config = Ledger(store), store.config()
    recorded = ledger.turns()  # first: a run that goes on adds to all of them
    candidates = {c.id: c for c in store.candidates()}
    claims = ledger.claims()
    changes: list[Change] = []
    turns = requests = partial = 0
    for turn in recorded:
        if turn.purpose not in (PROPOSE, NOTES):
            continue
        tape = _Tape(turn, ledger.entries(turn.id))
        if not tape.replies:
            partial += 1
            continue
        turns += 1
        try:
            view = scene(store, config, turn.seen)
            if turn.purpose == NOTES:
                rewrite_notes(system, view, tape.ask)
            else:
                brief, ended = hold(system, view, turn.id, tape.ask, tools=tape.tools)
                del brief
                said = ended.submission
                if turn.candidate is not None and turn.outcome == "submitted":
                    record = candidates[turn.candidate]
                    old = [record.text, json.dumps(claims[turn.candidate], sort_keys=True)]
                    new = [said.text, json.dumps(claim_of(said), sort_keys=True)] if said else []
                    changes += _compared(turn.id, -1, "submission", old, new)
                elif turn.outcome is None:  # a process ended between the reply and its use
                    partial += 1
                elif said is None and ended.outcome != turn.outcome:
                    changes += _compared(
                        turn.id, -1, "outcome", [str(turn.outcome)], [ended.outcome]
                    )
        except _RecordEnds:
            partial += 1
        except VortexError as error:
            changes.append(Change(turn.id, -1, "error", error.render()))
        requests += tape.asked
        changes += tape.changes
    return Replay(turns, requests, partial, tuple(changes))


class _Tape:
    """The recorded replies of a turn, handed out in their order."""

    def __init__(self, turn: Turn, entries: list[Entry]) -> None:
        self.turn = turn
        self.replies: Mapping[int, Entry] = {
            e.step: e for e in entries if e.state == State.ANSWERED and e.reply is not None
        }
        self.tools = any(json.loads(e.content["texts"][1]) for e in entries)
        self.asked = 0
        self.changes: list[Change] = []
        self.ask: Ask = self._ask

    def _ask(self, step: int, request: Request) -> Reply:
        entry = self.replies.get(step)
        if entry is None or entry.reply is None:
            raise _RecordEnds
        self.asked += 1
        new, old = request_to_json(request), entry.content
        for name, was, now in (
            ("system prompt", old["texts"][:1], new["texts"][:1]),
            ("tools", old["texts"][1:], new["texts"][1:]),
            ("messages", old["messages"], new["messages"]),
            ("limits", [str(old["max_tokens"])], [str(new["max_tokens"])]),
        ):
            # A change of the system prompt is the same in every turn: it is shown once.
            if name in ("system prompt", "tools") and (step or self.changes):
                continue
            self.changes += _compared(self.turn.id, step, name, list(was), list(now))
        return reply_from_json(entry.reply)


def _compared(turn: int, step: int, what: str, old: list[str], new: list[str]) -> list[Change]:
    if old == new:
        return []
    lines = [_lines(texts) for texts in (old, new)]
    diff = difflib.unified_diff(lines[0], lines[1], "recorded", "now", lineterm="", n=_CONTEXT)
    return [Change(turn, step, what, "\n".join(diff) or "differs in white space only")]


def _lines(texts: list[str]) -> list[str]:
    """Texts by line; messages are JSON, whose text is shown as it reads."""
    found: list[str] = []
    for text in texts:
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if isinstance(message, dict) and "text" in message:
            rest = {k: v for k, v in message.items() if k != "text" and v}
            found += [json.dumps(rest, sort_keys=True), *str(message["text"]).splitlines()]
        else:
            found += text.splitlines()
    return found


def distinct(changes: tuple[Change, ...]) -> list[tuple[Change, int]]:
    """Changes with the same diff once, with how often they came."""
    found: dict[tuple[str, str], tuple[Change, int]] = {}
    for change in changes:
        key = (change.what, change.diff)
        first, count = found.get(key, (change, 0))
        found[key] = (first, count + 1)
    return list(found.values())
