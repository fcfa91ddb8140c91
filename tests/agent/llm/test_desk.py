"""Every tool answers every call: the good ones with facts, the bad ones with what is wrong."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.llm.brief import Brief, Mode
from agent.llm.desk import LIMIT, Answer, Desk
from agent.llm.opening import nothing_known
from agent.llm.tools import TOOLS
from agent.providers.records import ToolCall
from evals.result import Status
from tests.agent.llm.state import CONFIG, PROGRAM, candidate, seeded, text_of
from tests.agent.llm.test_opening import ATTACK
from tests.agent.llm.test_quoting import HOSTILE

Ask = Callable[..., Answer]
GOOD = {
    "program": PROGRAM, "hypothesis": "Spread tells pages apart.", "compared_to": 5,
    "expected_loss": "lower", "expected_time": "same",
}  # fmt: skip
OTHER = PROGRAM.replace("q.norm", "q.abs().sum").replace("Spread", "Other")


@functools.cache
def desk() -> Desk:
    failed = text_of("second_order")
    now = seeded(
        candidate(11, PROGRAM.replace('.max("head")', '.mean("head")'), loss=3.0, note=ATTACK),
        candidate(12, OTHER, waiting=True),
        candidate(13, failed, status=Status.MISMATCH, message=f"differs\n{ATTACK}"),
        candidate(14, HOSTILE.replace('.max("head")', '.min("head")'), loss=4.0, name=ATTACK),
    )
    return Desk(CONFIG, now, Brief(Mode.IMPROVE, 5, (7,)))


def ask(tool: str, arguments: Any = None, *, at: Desk | None = None, **more: Any) -> Answer:
    given_to = more if arguments is None else arguments
    call = ToolCall("1", tool, given_to, json.dumps(more))
    answer = (at or desk()).answer(call)
    assert len(answer.text) <= LIMIT and answer.text
    assert all(c == "\n" or c.isprintable() for c in answer.text)
    return answer


def test_schemas_are_strict_objects_and_every_tool_has_an_answer() -> None:
    for tool in TOOLS:
        schema = tool.parameters
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        assert set(schema["required"]) <= set(schema["properties"])
        answer = ask(tool.name, {})
        assert not answer.ok and "must be" in answer.text
    assert len(json.dumps([t.parameters for t in TOOLS])) < 4000
    assert "there is no tool" in ask("run_shell", {}).text


def test_check_says_hash_fields_bytes_and_launches() -> None:
    text = ask("check_program", program=PROGRAM).text
    assert "structure v" in text and "mean [dim], spread []" in text and "bytes a page" in text
    assert "score and select" in text and "predicted step" in text


def test_check_says_what_has_no_kernel() -> None:
    text = text_of("attention_ema")
    assert "no kernel" not in ask("check_program", program=text).text
    text = text.replace("+ mass", '+ mass * page.mean.max("dim")')
    found = ask("check_program", program=text).text
    assert "no kernel to update the states: an update that reads fields" in found


def test_errors_come_with_their_place_and_a_hint() -> None:
    answer = ask("check_program", program=PROGRAM.replace('"token"', '"tokn"'))
    assert not answer.ok and not answer.refused and answer.submission is None
    assert re.search(r"program:\d+:\d+: error\[E103\]", answer.text) and "^" in answer.text
    assert "hint:" in answer.text


def test_every_option_of_a_choice_is_tried() -> None:
    broken = PROGRAM.replace("(k - mean)", '(k - mean).split("token", into=32, name="s").max("s")')
    answer = ask("check_program", program=broken.replace("vx.choice(16, 32)", "vx.choice(32, 16)"))
    assert "E203" in answer.text and "page_size = 16" in answer.text


def test_a_price_stands_beside_the_parent_s_and_the_front_s() -> None:
    text = ask("price_program", program=PROGRAM, knobs={"budget": 2048.0}).text
    assert "All predicted" in text and "attends 2,048 tokens" in text
    beside = r'the parent, candidate 5 ".*": step .* yours is x[\d.]+ of it; loss gap'
    assert re.search(beside, text)
    assert "the front:" in text and "candidate 4" in text


@pytest.mark.parametrize("name", ["top_k", "vx.top_k(score)", "page.mean.softmax", "reuse",
                                  "vx.layers", "summarize", "scale"])  # fmt: skip
def test_entries_of_the_language_are_found(name: str) -> None:
    assert ask("look_up_op", name=name).ok


@pytest.mark.parametrize(
    ("name", "near"), [("topk", "top_k"), ("softmx", "softmax"), ("", "top_k")]
)
def test_near_names_are_suggested(name: str, near: str) -> None:
    answer = ask("look_up_op", name=name)
    assert not answer.ok and near in answer.text


def test_a_candidate_is_read_with_its_program_as_data() -> None:
    text = ask("read_candidate", id=5).text
    assert "loss gap" in text and "task needle" in text and "class CentroidSoftmax" in text
    attacked = ask("read_candidate", id=14).text + ask("read_candidate", id=13.0).text
    assert "</system>" not in attacked and "Ignore" not in attacked
    assert not ask("read_candidate", id=99).ok


def test_a_sound_submission_is_taken_with_its_hypothesis() -> None:
    answer = ask("submit_program", **GOOD, knobs={"budget": 2048})
    assert answer.ok and not answer.refused and answer.submission is not None
    assert answer.submission.text == PROGRAM and answer.submission.knobs == {"budget": 2048}
    assert answer.submission.compared_to == 5 and answer.submission.expected_time == "same"


def test_what_is_not_stated_is_marked_so_and_the_parent_is_compared_with() -> None:
    answer = ask("submit_program", program=PROGRAM, hypothesis="It is\nbetter.")
    assert answer.submission is not None
    said = answer.submission
    assert (said.compared_to, said.expected_loss, said.expected_time) == (5, "unstated", "unstated")
    assert said.hypothesis == "It is better."


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hypothesis": " \n"}, "hypothesis"), ({"hypothesis": 3}, "hypothesis"),
        ({"compared_to": 99}, "no candidate"), ({"compared_to": "5"}, "whole number"),
        ({"compared_to": True}, "whole number"), ({"expected_loss": "better"}, "one of"),
        ({"knobs": {"budget": True}}, "budget"), ({"knobs": {"nope": 1}}, "no knob"),
        ({"knobs": {"budget": 3}}, "cannot be 3"), ({"knobs": [1]}, "object"),
        ({"extra": 1}, "no argument extra"), ({"program": PROGRAM[:200]}, "error["),
        ({"knobs": {"budget": 1e400}}, "usable"), ({"program": None}, "program"),
    ],
)  # fmt: skip
def test_a_wrong_submission_is_refused_and_may_be_mended(
    change: dict[str, Any], complaint: str
) -> None:
    answer = ask("submit_program", **GOOD | change)
    assert not answer.ok and answer.refused and answer.submission is None
    assert complaint in answer.text


def test_a_known_candidate_is_answered_from_the_record() -> None:
    same = PROGRAM.replace("match +", "0.0 + match +").replace('.max("head")', '.mean("head")')
    answer = ask("submit_program", **GOOD | {"program": same})
    assert answer.refused and "this is candidate 11" in answer.text and "loss gap" in answer.text
    assert "</system>" not in answer.text
    waiting = ask("submit_program", **GOOD | {"program": OTHER})
    assert waiting.refused and "candidate 12" in waiting.text and "waits" in waiting.text
    failed = ask("submit_program", **GOOD | {"program": text_of("second_order")})
    assert failed.refused and "mismatch at fidelity" in failed.text


def test_other_knobs_of_a_known_structure_are_the_tuner_s_unless_it_failed() -> None:
    answer = ask("submit_program", **GOOD | {"program": text_of("quest"), "knobs": {"budget": 777}})
    assert answer.refused and "the structure is that of" in answer.text and "tuner" in answer.text
    failed = {"program": text_of("second_order"), "knobs": {"budget": 777}}
    assert ask("submit_program", **GOOD | failed).submission is not None


def test_what_is_no_faster_than_full_attention_is_not_taken() -> None:
    wide = PROGRAM.replace("vx.integer(512, 16384, log=True, default=1024)",
                           "vx.integer(512, 65536, log=True, default=65536)")  # fmt: skip
    answer = ask("submit_program", **GOOD | {"program": wide})
    assert answer.refused and "no faster than full attention" in answer.text
    assert "warning" in ask("price_program", program=wide).text


def test_an_axis_too_wide_to_plan_kernels_for_is_an_error_in_its_place() -> None:
    answer = ask("check_program", program=WIDE)
    assert not answer.ok and "2,147,483,647 entries" in answer.text and "^" in answer.text
    assert ask("check_program", program=WIDE.replace("2147483647", "256")).ok


def test_a_turn_that_is_told_nothing_may_compare_with_nothing() -> None:
    alone = Desk(CONFIG, nothing_known(CONFIG), Brief(Mode.NEW, None, ()))
    answer = ask("submit_program", **GOOD | {"compared_to": 1}, at=alone)
    assert answer.submission is not None and answer.submission.compared_to is None
    assert "candidate" not in ask("price_program", program=PROGRAM, at=alone).text


WIDE = PROGRAM.replace(
    '(k - mean).norm("dim")',
    "k.project('dim', into=2147483647, name='wide', matrix=vx.random_matrix(seed=1)).norm('wide')",
)
HOSTILE_TEXTS = [
    "", "\x00", PROGRAM + "\x00", "\ud800", PROGRAM.replace("Spread", "\ud800"), "(" * 5000,
    "x" * 2_000_000, PROGRAM + "#" * 2_000_000, "[" * 100 + "]" * 100, "-" * 10_000 + "1",
    PROGRAM.replace("1024", "9" * 400), PROGRAM.replace("1024", "9" * 6000),
    PROGRAM.replace("16384", "1" + "0" * 400), PROGRAM.replace("0.5", "1e999"),
    PROGRAM.replace("self.budget", "self.budget * 1e29 * vx.context"),
    PROGRAM.replace("self.budget", "vx.context / (vx.depth - vx.depth)"),
    PROGRAM.replace("self.budget", "self.budget * 0 - vx.context"),
    PROGRAM.replace("self.budget", "(1 / (vx.depth * 0)).log() * 0"),
    PROGRAM.replace("vx.choice(16, 32)", f"vx.choice(16, {', '.join(map(str, range(2000)))})"),
    PROGRAM.replace("self.weight", f"vx.choice({', '.join(map(str, range(2000)))})"),
    PROGRAM.replace("weight = vx.real(0.1, 2.0, default=0.5)",
                    f"weight = vx.choice({', '.join(map(str, range(1, 900)))})"),
    PROGRAM.replace("(k - mean)", "k.project('dim', into=2147483647, name='dim2', "
                    "matrix=vx.random_matrix(seed=1)).rename('dim2', 'dim')"),
    WIDE,
    PROGRAM.replace("(k - mean)", "vx.load('a.safetensors', 'x')"),
    text_of("oracle"), "class A(vx.Algorithm): pass", HOSTILE, ATTACK,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE_TEXTS)))
@pytest.mark.parametrize("tool", ["check_program", "price_program", "submit_program"])
def test_hostile_text_is_answered_quickly_and_never_raises(tool: str, number: int) -> None:
    more = {k: v for k, v in GOOD.items() if tool == "submit_program"}
    ask(tool, **more | {"program": HOSTILE_TEXTS[number]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
NAMES = st.sampled_from([*GOOD, "knobs", "id", "name", "other"])
PROGRAMS = st.sampled_from([PROGRAM, OTHER, "", "class A: pass", HOSTILE])


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    tool=st.sampled_from([t.name for t in TOOLS]) | st.text(max_size=10),
    arguments=st.none() | JSON | st.dictionaries(NAMES, JSON | PROGRAMS, max_size=6),
)
def test_whatever_a_model_calls_with_is_answered(tool: str, arguments: Any) -> None:
    call = ToolCall("x", tool, arguments, str(arguments))
    answer = desk().answer(call)
    assert answer.text and len(answer.text) <= LIMIT
    assert answer.refused == (tool == "submit_program" and answer.submission is None)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_programs_with_pieces_swapped_are_answered(data: st.DataObject) -> None:
    tokens = re.findall(r"\w+|\S|\s+", PROGRAM)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        tokens[at] = data.draw(st.sampled_from([*tokens, "0", "-1", "1e30", "'x'", "vx", ""]))
    ask("submit_program", **GOOD | {"program": "".join(tokens)})
