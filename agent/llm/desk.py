"""Answers the tool calls of one turn, from the language, the cost model and the run's record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.llm.arguments import Arguments, BadArguments
from agent.llm.brief import Brief
from agent.llm.lookup import looked_up
from agent.llm.portrait import name_of, portrait, reason, row
from agent.llm.pricing import Compiled, compiled, facts_of, priced_against
from agent.llm.quoting import one_line, printable_lines, program_block, quoted
from agent.llm.submission import Submission
from agent.llm.target import Target, target_of
from agent.providers.records import ToolCall
from agent.standing import Standing, Standings
from evals.result import Status
from runs.records import RunConfig
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ops import AxisError

LIMIT = 8_000  # characters of an answer
_PROGRAM = 6_000  # of a program that is read


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool says.

    Attributes:
        ok: whether the call did what it was made for.
        submission: what was handed in and taken.
        refused: a submission that was not taken; the model may mend it or hand in another.
    """

    text: str
    ok: bool = True
    submission: Submission | None = None
    refused: bool = False


class Desk:
    """One turn's desk.

    Args:
        now: the run as the turn found it; ``nothing_known`` where a turn is told nothing.
        brief: its parent is what prices are compared with.
        tuned: whether a tuner moves knobs beside this one; if not, other knobs of a known structure
            are a candidate of their own.
        waiting: candidates that are not judged yet.

    Raises:
        VortexError: E302, E401, E402 or E404, the configuration names what is not here.
    """

    def __init__(
        self, config: RunConfig, now: Standings, brief: Brief, *, tuned: bool = True,
        waiting: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self._target: Target = target_of(config)
        self._now, self._brief, self._tuned, self._waiting = now, brief, tuned, waiting
        self._tools: Mapping[str, Callable[[Arguments], Answer]] = {
            "check_program": self._check,
            "price_program": self._price,
            "look_up_op": self._look_up,
            "read_candidate": self._read,
            "submit_program": self._submit,
        }
        self._known: tuple[dict[str, int], dict[str, int]] | None = None

    def answer(self, call: ToolCall) -> Answer:
        """Answer a call; whatever a model sends, it is told what is wrong with it."""
        tool = self._tools.get(call.name)
        submits = call.name == "submit_program"
        if tool is None:
            known = ", ".join(self._tools)
            found = Answer(
                f"there is no tool '{one_line(call.name, 60)}'; there are {known}", False
            )
        else:
            try:
                found = tool(Arguments.of(call))
            except BadArguments as problem:
                found = Answer(f"not done: {problem}", False, refused=submits)
            except VortexError as error:
                found = Answer(error.render(), False, refused=submits)
            except AxisError as error:
                text = f"error[{error.code}]: {error.message}\n\nhint: {error.hint}"
                found = Answer(text, False, refused=submits)
        text = printable_lines(found.text, LIMIT)
        return Answer(text, found.ok, found.submission, found.refused)

    def _check(self, given: Arguments) -> Answer:
        given.only("program", "knobs")
        return Answer(facts_of(self._compiled(given), self._target))

    def _price(self, given: Arguments) -> Answer:
        given.only("program", "knobs")
        made = self._compiled(given)
        return Answer(priced_against(made, self._target, self._now, self._brief.parent))

    def _look_up(self, given: Arguments) -> Answer:
        given.only("name")
        found, text = looked_up(given.text("name", most=200))
        return Answer(text, found)

    def _read(self, given: Arguments) -> Answer:
        given.only("id")
        number = given.whole("id")
        standing = self._now.by_id.get(number)
        if standing is None and number in self._waiting:
            return Answer(f"candidate {number} was handed in and is not judged yet", False)
        if standing is None:
            return Answer(f"there is no candidate {number}; {self._numbers()}", False)
        lines = portrait(self._now, standing, self._target)
        return Answer("\n".join([*lines, program_block(standing.record.text, limit=_PROGRAM)]))

    def _submit(self, given: Arguments) -> Answer:
        given.only("program", "knobs", "hypothesis", "compared_to", "expected_loss",
                   "expected_time")  # fmt: skip
        made = self._compiled(given)
        submission = Submission(
            text=made.text,
            knobs=made.given,
            hypothesis=self._hypothesis(given),
            compared_to=self._compared(given),
            expected_loss=given.expected("expected_loss"),
            expected_time=given.expected("expected_time"),
        )
        twin = self._twin(made)
        if twin is not None:
            return Answer(twin, False, refused=True)
        if made.cost.speedup_step <= 1.0:
            return Answer(
                "not taken: predicted no faster than full attention "
                f"({made.cost.speedup_step:.3f} times as fast), so it would not be run.\n"
                + priced_against(made, self._target, self._now, self._brief.parent),
                False, refused=True,
            )  # fmt: skip
        return Answer(
            f"taken: {one_line(made.candidate.program.name, 60)}, structure "
            f"{made.candidate.structure_hash}; predicted {made.cost.speedup_step:.3g} times as "
            "fast as full attention. It will be evaluated.",
            submission=submission,
        )

    def _compiled(self, given: Arguments) -> Compiled:
        return compiled(given.text("program"), given.knobs(), self._target)

    def _hypothesis(self, given: Arguments) -> str:
        text = one_line(given.text("hypothesis", most=10_000), 300)
        if not text:
            raise BadArguments("'hypothesis' is empty: say in one sentence why it should win")
        return text

    def _compared(self, given: Arguments) -> int | None:
        """The candidate named; the parent where none is."""
        if given.absent("compared_to"):
            return self._brief.parent
        number = given.whole("compared_to")
        if number in self._now.by_id:
            return number
        if not self._now.by_id or not self._now.front():
            return None  # a turn that is told nothing can name nothing
        raise BadArguments(f"'compared_to' is {number}, which is no candidate; {self._numbers()}")

    def _numbers(self) -> str:
        known = self._now.by_id
        return f"numbers are {min(known)} to {max(known)}" if known else "there is none yet"

    def _twin(self, made: Compiled) -> str | None:
        """What the record says where the algorithm was evaluated before."""
        candidates, structures = self._hashes()
        number = candidates.get(made.candidate.candidate_hash)
        if number is not None:
            return self._recorded(number, "this is", "with the same knobs")
        number = structures.get(made.candidate.structure_hash) if self._tuned else None
        if number is None:
            return None
        return self._recorded(
            number, "the structure is that of",
            "and only values of knobs differ, which the tuner moves by itself",
        )  # fmt: skip

    def _recorded(self, number: int, lead: str, how: str) -> str:
        standing = self._now.by_id[number]
        lines = [f"not taken: {lead} candidate {name_of(standing)}, {how}. From the record:",
                 row(self._now, standing)]  # fmt: skip
        lines.append(self._ending(standing))
        if standing.record.note:
            lines.append(f"its note: {quoted(standing.record.note, 200)}")
        lines.append(f"Hand in another structure{'' if self._tuned else ', or other knobs'}.")
        return "\n".join(lines)

    def _ending(self, standing: Standing) -> str:
        if standing.status in (None, Status.INFRA_ERROR):
            return "It waits for its evaluation."
        if standing.status != Status.OK:
            return f"Why it ended: {reason(standing)}"
        on_front = standing.record.id in {s.record.id for s in self._now.front()}
        return "It is on the front." if on_front else "It is not on the front: another beats it."

    def _hashes(self) -> tuple[dict[str, int], dict[str, int]]:
        """First candidate of each hash; what waits is compiled.

        A structure that failed is not known: no tuner takes it up, so other knobs may save it.
        """
        if self._known is None:
            candidates: dict[str, int] = {}
            structures: dict[str, int] = {}
            for number, standing in sorted(self._now.by_id.items()):
                pair = _hashes_of(standing)
                if pair is not None:
                    candidates.setdefault(pair[0], number)
                    if standing.status in (None, Status.OK, Status.INFRA_ERROR):
                        structures.setdefault(pair[1], number)
            self._known = candidates, structures
        return self._known


def _hashes_of(standing: Standing) -> tuple[str, str] | None:
    record = standing.record
    if record.candidate_hash and record.structure_hash:
        return record.candidate_hash, record.structure_hash
    try:
        candidate = compile_text(record.text, record.knobs, reserved=record.control)
    except (AxisError, VortexError):
        return None
    return candidate.candidate_hash, candidate.structure_hash
