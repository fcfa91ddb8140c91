"""One turn: a language model is asked, its tools are answered, until it hands in a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agent.llm.submission import Submission, from_text
from agent.llm.tools import TOOLS
from agent.providers.records import Message, Reply, Request, ToolCall

MAX_STEPS, MAX_REPAIRS = 10, 2
# Every reply is kept and sent back: one without measure would fill the disk and pass the caps.
MOST_CALLS = 64
_PER_TOKEN = 32  # characters: far above what tokens of programs and prose hold
_NUDGE = (
    "There is no program in this answer. Call submit_program, or answer with one fenced code block "
    "that holds the whole program."
)
_LAST = "This is the last request of this turn: hand in a program now."
_ONE = "not looked at: a program of this answer was taken already"

Ask = Callable[[int, Request], Reply]


class Answered(Protocol):
    """What a tool call brought; see ``agent.llm.desk.Answer``."""

    @property
    def text(self) -> str: ...
    @property
    def submission(self) -> Submission | None: ...
    @property
    def refused(self) -> bool: ...


class Answers(Protocol):
    """Answers tool calls; see ``agent.llm.desk.Desk``."""

    def answer(self, call: ToolCall) -> Answered:
        """Never raises on what a model sends."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn ended.

    Attributes:
        outcome: ``refused``: no program was right within the repairs, or an answer was beyond all
            measure; ``declined``: the model would not answer; ``silent``: it never handed one in.
        detail: what was wrong last.
        refusals: programs that were handed in and not taken, the last one included.
    """

    outcome: Literal["submitted", "refused", "declined", "silent"]
    submission: Submission | None = None
    detail: str = ""
    refusals: int = 0


def converse(
    system: str, opening: str, desk: Answers, ask: Ask, *, max_tokens: int, tools: bool = True
) -> Ended:
    """Hold one dialogue.

    Args:
        ask: sends request number 0, 1, ...; what it raises ends the dialogue.
        max_tokens: of each reply.
        tools: False for a model without: its text is searched for a program.
    """
    messages: list[Message] = [Message("user", opening)]
    refusals, detail = 0, ""
    for step in range(MAX_STEPS):
        specs = TOOLS if tools else ()
        reply = ask(step, Request(system, tuple(messages), specs, max_tokens=max_tokens))
        if reply.stop == "refused":
            return Ended("declined", None, _line(reply.text), refusals)
        excess = _excess(reply, max_tokens)
        if excess:
            return Ended("refused", None, excess, refusals + 1)
        messages.append(reply.message())
        answers = _tool_answers(reply, desk) if reply.calls else _plain_answer(reply, desk)
        taken = next((a.submission for a in answers if a.submission is not None), None)
        if taken is not None:
            return Ended("submitted", taken, "", refusals)
        wrong = [a for a in answers if a.refused]
        if wrong:
            refusals, detail = refusals + 1, _line(wrong[-1].text)
        if refusals > MAX_REPAIRS:
            return Ended("refused", None, detail, refusals)
        messages += [a.message for a in answers]
        if step == MAX_STEPS - 2:
            messages[-1] = _with_warning(messages[-1])
    return Ended("silent", None, detail, refusals)


def _excess(reply: Reply, max_tokens: int) -> str:
    """What a reply has more of than any that was asked for; '' if nothing."""
    size = len(reply.text) + sum(len(c.id) + len(c.name) + len(c.raw) for c in reply.calls)
    size += sum(len(str(block)) for block in reply.blocks)
    if len(reply.calls) > MOST_CALLS:
        return f"an answer with {len(reply.calls):,} tool calls, more than {MOST_CALLS}"
    if size > _PER_TOKEN * max_tokens:
        return f"an answer of {size:,} characters, where {max_tokens:,} tokens were asked for"
    return ""


@dataclass(frozen=True, slots=True)
class _Step:
    message: Message
    text: str
    submission: Submission | None
    refused: bool


def _tool_answers(reply: Reply, desk: Answers) -> Sequence[_Step]:
    """All calls answered in order; after a program that is taken nothing more is looked at."""
    found: list[_Step] = []
    for call in reply.calls:
        if any(s.submission is not None for s in found):
            found.append(_Step(Message("tool", _ONE, call_id=call.id), _ONE, None, False))
            continue
        answer = desk.answer(call)
        message = Message("tool", answer.text, call_id=call.id)
        found.append(_Step(message, answer.text, answer.submission, answer.refused))
    return found


def _plain_answer(reply: Reply, desk: Answers) -> Sequence[_Step]:
    """A reply without calls: the program in its text, or a reminder."""
    program = from_text(reply.text)
    if program is None:
        return [_Step(Message("user", _NUDGE), _NUDGE, None, True)]
    arguments = {"program": program, "hypothesis": _first_sentence(reply.text)}
    answer = desk.answer(ToolCall("text", "submit_program", arguments, ""))
    return [_Step(Message("user", answer.text), answer.text, answer.submission, answer.refused)]


def _first_sentence(text: str) -> str:
    """What is said before the program, at most one sentence."""
    before = text.split("```", maxsplit=1)[0].split("~~~", maxsplit=1)[0].strip()
    lines = before.split(". ")[0].splitlines()  # none: it begins with the dot
    return lines[0][:300] if lines else "Not stated."


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _with_warning(message: Message) -> Message:
    return Message(message.role, f"{message.text}\n\n{_LAST}", message.calls, message.call_id)
