"""Answers in an engine: asked once whatever kills the run, with the same seeds in both modes."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest

from evals.engine.accuracy import Answer, Exam, examine, scored
from evals.engine.engine import Sampling, sides_of
from evals.engine.problems import Problem
from tests.evals.engine.fake import FakeEngine
from vortex.errors import VortexError

PROBLEMS = [
    Problem(id=f"p{i}", prompt=f"what is {i}?", answer=(str(i),), scorer="number")
    for i in range(6)
]  # fmt: skip
EXAM = Exam(PROBLEMS, 2, Sampling(8, temperature=0.5), program="abc", at_once=4)


def asked(engine: FakeEngine) -> int:
    return sum(len(requests) for _, requests in engine.calls)


def test_every_problem_is_asked_in_both_modes_with_the_same_seeds(tmp_path: Path) -> None:
    engine = FakeEngine()
    answers = examine(sides_of(engine), EXAM, tmp_path / "log")
    assert len(answers) == asked(engine) == 6 * 2 * 2
    seeds = {
        mode: {(r.prompt, r.sampling.seed) for m, rs in engine.calls if m == mode for r in rs}
        for mode in ("full", "sparse")
    }
    assert seeds["full"] == seeds["sparse"] and len(seeds["full"]) == 12
    assert len({a.key for a in answers}) == 24
    order = [m for m, _ in engine.calls]
    assert order == ["full", "sparse", "sparse", "full", "full", "sparse"]


def test_scores_are_computed_from_the_kept_replies(tmp_path: Path) -> None:
    def reply(request: object, mode: str, call: int) -> str:
        return "3" if mode == "full" else "the answer is 4"

    found = scored(examine(sides_of(FakeEngine(reply=reply)), EXAM, tmp_path / "log"), PROBLEMS)
    assert found["full"]["p3"] == [("3", 1.0)] * 2 and found["full"]["p4"] == [("3", 0.0)] * 2
    assert found["sparse"]["p4"] == [("4", 1.0)] * 2


@pytest.mark.parametrize("calls", range(6))
def test_a_killed_run_goes_on_and_repeats_nothing(tmp_path: Path, calls: int) -> None:
    log = tmp_path / "deep" / "log"
    first = FakeEngine(breaks=calls)
    with pytest.raises(RuntimeError, match="killed"):
        examine(sides_of(first), EXAM, log)
    second = FakeEngine()
    answers = examine(sides_of(second), EXAM, log)
    assert asked(first) + asked(second) == 24 == len(answers)
    third = FakeEngine()
    assert examine(sides_of(third), EXAM, log) == answers and not third.calls


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path: Path, cut: int) -> None:
    log = tmp_path / "log"
    whole = examine(sides_of(FakeEngine()), EXAM, log)
    log.write_bytes(log.read_bytes()[:-cut])
    again = FakeEngine()
    assert examine(sides_of(again), EXAM, log) == whole
    assert asked(again) == 1
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_another_program_prompt_or_way_of_asking_is_asked_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    examine(sides_of(FakeEngine()), EXAM, log)

    def more(exam: Exam, engine: FakeEngine | None = None) -> int:
        engine = engine or FakeEngine()
        examine(sides_of(engine), exam, log)
        return asked(engine)

    assert more(EXAM) == 0
    assert more(dataclasses.replace(EXAM, program="other")) == 12  # full attention is the same
    assert more(dataclasses.replace(EXAM, samples=3)) == 12
    assert more(dataclasses.replace(EXAM, sampling=Sampling(9, temperature=0.5))) == 24
    assert more(dataclasses.replace(EXAM, shown=lambda text: f"<user>{text}")) == 24
    assert more(dataclasses.replace(EXAM, seed=1)) == 24
    other = FakeEngine()
    other.facts = {**other.facts, "engine": "fake 2"}
    assert more(EXAM, other) == 24


def test_a_request_that_the_engine_gave_up_is_no_verdict(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(VortexError, match="abort") as caught:
        examine(sides_of(FakeEngine(finish="abort")), EXAM, log)
    assert caught.value.code == "E904" and caught.value.exit_code == 3
    assert log.read_text() == ""


def test_a_log_is_one_process_s(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(VortexError, match="in use") as caught:
            examine(sides_of(FakeEngine()), EXAM, log)
    assert caught.value.code == "E905"


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n')
    with pytest.raises(VortexError, match="log:1 is no sample"):
        examine(sides_of(FakeEngine()), EXAM, log)
    assert log.read_text() == '{"a": 1}\n'
    with pytest.raises(VortexError, match="cannot write"):
        examine(sides_of(FakeEngine()), EXAM, tmp_path)


def test_replies_that_are_no_text_are_kept_as_what_can_be(tmp_path: Path) -> None:
    odd = FakeEngine(reply=lambda request, mode, call: "\ud800 3\u2028\x00")
    log = tmp_path / "log"
    answers = examine(sides_of(odd), EXAM, log)
    assert examine(sides_of(FakeEngine()), EXAM, log) == answers
    assert "3" in answers[0].reply and Answer.model_validate_json(answers[0].model_dump_json())


def test_an_engine_with_room_for_longer_requests_is_asked_nothing_twice(tmp_path: Path) -> None:
    first, roomy, other = FakeEngine(), FakeEngine(), FakeEngine()
    first.facts = {**first.facts, "context_length": "4096"}
    roomy.facts = {**roomy.facts, "context_length": "8192"}
    other.facts = {**other.facts, "page_size": "64"}
    for engine in (first, roomy, other):
        examine(sides_of(engine), EXAM, tmp_path / "log")
    assert [asked(e) for e in (first, roomy, other)] == [24, 0, 24]
