"""What a turn is told and what comes of it: a pure function of the run's state when it began."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.llm.brief import Brief, plan
from agent.llm.desk import Desk
from agent.llm.dialogue import Ask, Ended, converse
from agent.llm.hypotheses import Judged, judge
from agent.llm.notes import kept, notes_request
from agent.llm.opening import nothing_known, opening
from agent.llm.submission import Submission
from agent.providers.records import Message, Request
from agent.standing import Standings, standings
from runs.ledger import Ledger, Seen
from runs.records import RunConfig
from runs.store import Store

NOTES_TOKENS = 2048
PROPOSE, NOTES, PROBE = "propose", "notes", "probe"


@dataclass(frozen=True, slots=True)
class Scene:
    """The state that a turn begins on.

    Attributes:
        notes: of the run; ``judged``: its hypotheses so far.
    """

    config: RunConfig
    now: Standings
    notes: str
    judged: tuple[Judged, ...]


def scene(store: Store, config: RunConfig, seen: Seen) -> Scene:
    """The run as it was when its last rows were those of ``seen``."""
    ledger = Ledger(store)
    now = standings(store, config, seen)
    claims = {i: submission_of(c) for i, c in ledger.claims(seen).items()}
    return Scene(config, now, ledger.notes(seen)[0], tuple(judge(now, claims)))


def submission_of(claim: Mapping[str, Any]) -> Submission:
    """What was claimed of a candidate, from its record."""
    return Submission(text="", knobs={}, **claim)


def claim_of(submission: Submission) -> dict[str, Any]:
    """What is recorded of a submission beside its program."""
    fields = asdict(submission)
    del fields["text"], fields["knobs"]
    return fields


def brief_of(scene: Scene, turn: int) -> Brief:
    """What turn number ``turn`` is for."""
    rng = random.Random(f"{scene.config.seed}/turn/{turn}")
    return plan(scene.now, scene.judged, rng, number=turn)


def hold(system: str, scene: Scene, turn: int, ask: Ask, *, tools: bool) -> tuple[Brief, Ended]:
    """A turn that asks for a program."""
    config, brief = scene.config, brief_of(scene, turn)
    independent = config.strategy == "independent"
    first = opening(
        scene.now, brief, notes=scene.notes, judged=scene.judged, independent=independent
    )
    known = nothing_known(config) if independent else scene.now
    waiting = frozenset(j.candidate for j in scene.judged if j.candidate not in known.by_id)
    desk = Desk(config, known, brief, waiting=frozenset() if independent else waiting)
    return brief, converse(system, first, desk, ask, max_tokens=config.reply_tokens, tools=tools)


def rewrite_notes(system: str, scene: Scene, ask: Ask) -> str:
    """A turn that asks for new notes; the old ones where nothing comes of it."""
    text = notes_request(scene.now, scene.judged, scene.notes)
    reply = ask(0, Request(system, (Message("user", text),), max_tokens=NOTES_TOKENS))
    return kept(reply.text) or scene.notes
