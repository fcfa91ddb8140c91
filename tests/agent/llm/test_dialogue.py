"""A turn ends with a program that was taken, or with the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from agent.llm.dialogue import MAX_REPAIRS, MAX_STEPS, Ended, converse
from agent.llm.submission import Submission
from agent.llm.tools import TOOLS
from agent.providers.records import Reply, Request, ToolCall


@dataclass(frozen=True)
class Said:
    text: str
    submission: Submission | None = None
    refused: bool = False


@dataclass
class Desk:
    """Takes any program that holds the word good."""

    asked: list[str] = field(default_factory=list)

    def answer(self, call: ToolCall) -> Said:
        self.asked.append(call.name)
        if call.name != "submit_program":
            return Said("looked up")
        program = str((call.arguments or {}).get("program", ""))
        if "good" in program:
            said = str((call.arguments or {}).get("hypothesis", ""))
            return Said("taken", Submission(program, {}, said, None))
        return Said("error[E101]: wrong here", refused=True)


def submit(program: str, number: int = 0) -> ToolCall:
    arguments = {"program": program, "hypothesis": "because"}
    return ToolCall(f"c{number}", "submit_program", arguments, "")


def held(*replies: Reply, tools: bool = True) -> tuple[Ended, list[Request], Desk]:
    sent: list[Request] = []
    desk = Desk()

    def ask(step: int, request: Request) -> Reply:
        assert step == len(sent)
        sent.append(request)
        return replies[min(step, len(replies) - 1)]

    return converse("system", "open", desk, ask, max_tokens=99, tools=tools), sent, desk


def test_a_program_that_is_taken_ends_the_turn() -> None:
    ended, sent, _ = held(Reply("", (submit("good"),)))
    assert ended.outcome == "submitted" and ended.submission is not None
    assert len(sent) == 1 and sent[0].tools == TOOLS and sent[0].max_tokens == 99


def test_errors_go_back_and_may_be_mended_twice() -> None:
    bad = Reply("", (submit("bad"),))
    ended, sent, _ = held(bad, bad, Reply("", (submit("good"),)))
    assert ended.outcome == "submitted" and ended.refusals == 2
    assert "error[E101]" in sent[1].messages[-1].text and sent[1].messages[-1].call_id == "c0"
    ended, sent, _ = held(bad)
    assert ended.outcome == "refused" and len(sent) == MAX_REPAIRS + 1
    assert "E101" in ended.detail


def test_every_parallel_call_is_answered_and_the_first_good_program_counts() -> None:
    calls = (submit("bad", 0), ToolCall("c1", "look_up_op", {"name": "k"}, ""))
    ended, sent, _ = held(Reply("", calls), Reply("", (submit("good"), submit("good two"))))
    assert [m.call_id for m in sent[1].messages if m.role == "tool"] == ["c0", "c1"]
    assert ended.submission is not None and ended.submission.text == "good"


def test_text_without_a_call_is_searched_for_a_program() -> None:
    block = "It reads less. Truly.\n```python\nimport vortex as vx\ngood\n```\n"
    ended, _, _ = held(Reply(block), tools=False)
    assert ended.submission is not None and "good" in ended.submission.text
    assert ended.submission.hypothesis == "It reads less"


@pytest.mark.parametrize("text", ["", "I have thoughts only."])
def test_text_without_a_program_is_asked_for_one(text: str) -> None:
    ended, sent, _ = held(Reply(text))
    assert ended.outcome == "refused" and len(sent) == MAX_REPAIRS + 1
    assert "submit_program" in sent[1].messages[-1].text


def test_a_model_that_only_looks_things_up_is_warned_and_stopped() -> None:
    ended, sent, desk = held(Reply("", (ToolCall("c", "look_up_op", {}, ""),)))
    assert ended.outcome == "silent" and len(sent) == MAX_STEPS
    assert "last request" in sent[-1].messages[-1].text
    assert len(desk.asked) == MAX_STEPS


def test_a_refusal_ends_the_turn() -> None:
    ended, sent, _ = held(Reply("I will not.", stop="refused"))
    assert ended.outcome == "declined" and len(sent) == 1


def test_each_request_begins_with_the_one_before() -> None:
    _, sent, _ = held(Reply("", (submit("bad"),)))
    for earlier, later in pairwise(sent):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert (later.system, later.tools) == (earlier.system, earlier.tools)
