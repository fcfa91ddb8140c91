"""Scorers: hard cases of numbers and boxes, ambiguity, and that nothing makes them raise."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.engine.numbers import number
from evals.engine.scorers import SCORERS, answer_of, canonical, last_box, score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234), ("1{,}000", 1000), ("10\\,000", 10000), ("1\u202f000", 1000),
        ("-0", 0), ("\u22125", -5), ("+7", 7), ("$5", 5), ("-$5", -5), ("$-5", -5), (".5", 0.5),
        ("0.50", 0.5), ("1e5", 100000), ("1.5\\times10^{3}", 1500), ("3/4", 0.75),
        ("\\frac{3}{4}", 0.75), ("\\dfrac12", 0.5), ("-\\frac{1}{-2}", 0.5), ("1 1/2", 1.5),
        ("50\\%", 50), ("5 cm", 5), ("10 km/h", 10), ("7 m^2", 7), ("90^\\circ", 90),
        ("12 \\text{ cm}", 12), ("7 square meters", 7), ("5.", 5), ("007", 7),
    ],
)  # fmt: skip
def test_a_number_is_read_exactly(text: str, value: float) -> None:
    assert number(text) == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["", "abc", "12,34", "1,23,456", "1.2.3", "5 or 6", "5x", "5 x", "5ab", "5\\sqrt{2}", "3-4",
     "2^{10}", "1/0", "\\frac{1}{0}", "1e999999999", "9" * 5000, "5 or more", "5 is not it"],
)  # fmt: skip
def test_what_could_mean_two_things_is_no_number(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("so \\boxed{\\frac{1}{2}}", "0.5"), ("\\boxed{\\{1,2\\}}", "\\{1, 2\\}"),
        ("\\boxed{1}, no: \\boxed{2}", "2"), ("I get 204.", "204"), ("\\boxed{x=5}", "5"),
        ("$\\boxed 7$.", "7"), ("\\boxed{2\\sqrt3}", "2\\sqrt{3}"), ("\\boxed{1,234}", "1234"),
        ("\\boxed{\\left(3,\\frac{\\pi}{2}\\right)}", "(3, \\dfrac{\\pi}2)"),
        ("\\boxed{033}", "33"), ("\\boxed{\\text{odd}}", "odd"), ("\\fbox{-\\frac{0}{3}}", "0"),
        ("<think>\\boxed{1}</think> \\boxed{2}", "2"),
    ],
)  # fmt: skip
def test_the_last_box_counts_whatever_its_spelling(reply: str, answer: str) -> None:
    assert score("boxed", reply, [answer]) == 1.0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("\\boxed{5} then \\boxed{6", "5"), ("\\boxed{5} then \\boxed{6", "6"), ("\\boxed{}", "5"),
        ("\\boxed{12 \\text{ or } 13}", "12"), ("\\boxed{5x}", "5"), ("5 \\boxed", "5"),
        ("<think>\\boxed{5}", "5"), ("", "5"),
    ],
)  # fmt: skip
def test_a_box_cut_off_or_with_two_answers_is_worth_nothing(reply: str, answer: str) -> None:
    assert score("boxed", reply, [answer]) == 0.0


def test_braces_of_the_last_box_are_balanced() -> None:
    assert last_box("\\boxed{a{b}{c{d}}} tail }") == "a{b}{c{d}}"
    assert last_box("\\boxed{\\{ x") == ""
    assert last_box("none") is None


@pytest.mark.parametrize(
    ("reply", "answer", "worth"),
    [
        ("The answer is 12.", "12", 1), ("The answer is 12 or 13", "13", 0),
        ("#### 1,234\n", "1234", 1), ("3*4=12 so answer: \u22120", "0", 1),
        ("The answer is 42. I had 7 apples", "42", 1), ("The answer is 3 * 4 = 12.", "12", 1),
        ("The answer is 12 (since 3*4)", "12", 1), ("The answer is 12 of 30.", "12", 0),
        ("First answer: 5\nFinal answer is -5", "-5", 1), ("3 and then 4, in total 7", "7", 1),
        ("either 3 or 4", "4", 0), ("x = 5x", "5", 0), ("version 1.2.3", "3", 0),
    ],
)  # fmt: skip
def test_the_final_number_counts_unless_it_is_one_of_several(
    reply: str, answer: str, worth: int
) -> None:
    assert score("number", reply, [answer]) == worth


@pytest.mark.parametrize(
    ("reply", "worth"),
    [
        ("B", 1), ("(b)", 1), ("The answer is (B).", 1), ("**Answer: B**", 1), ("B) because", 1),
        ("\\boxed{\\text{B}}", 1), ("A) no. The correct option is B", 1), ("B or C", 0),
        ("The answer is B or C", 0), ("A) x\nB) y", 0), ("Bees do it", 0), ("answer is big", 0),
    ],
)  # fmt: skip
def test_a_choice_is_one_letter_that_was_chosen(reply: str, worth: int) -> None:
    assert score("choice", reply, ["B"]) == worth


def test_an_article_is_no_choice() -> None:
    assert score("choice", "The answer is a mystery", ["A"]) == 0
    assert score("choice", "A cat", ["A"]) == 0


def test_contains_counts_whole_words_and_gives_the_share_that_is_there() -> None:
    assert score("contains", "It is 12345.", ["12345"]) == 1
    assert score("contains", "123456, 3.12345, -12345", ["12345"]) == 0
    assert score("contains", "PARIS, of course", ["Paris"]) == 1
    assert score("contains", "red and blue", ["red", "green", "blue", "pink"]) == 0.5


def test_exact_wants_the_same_words() -> None:
    assert score("exact", " one\n two ", ["one two"]) == 1
    assert score("exact", "One two", ["one two"]) == 0


@given(st.sampled_from([*SCORERS, "unknown"]), st.text(), st.lists(st.text(), max_size=3))
def test_a_scorer_never_raises(name: str, reply: str, answers: list[str]) -> None:
    assert 0.0 <= score(name, reply, answers) <= 1.0


_PIECES = st.lists(
    st.sampled_from(
        ["\\boxed", "{", "}", "\\frac", "1", "12", ",", "000", ".", "/", "-", "e", "9" * 500, "^",
         "answer is", "####", " ", "\n", "<think>", "</think>", "B", ")", "or", "%", "$", "\\"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@given(st.sampled_from(SCORERS), _PIECES, _PIECES)
def test_pieces_of_mathematics_never_raise(name: str, reply: str, answer: str) -> None:
    assert 0.0 <= score(name, reply, [answer]) <= 1.0


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "{}", "{}.0", "\\boxed{{{:,}}}"]))
def test_a_number_is_found_in_every_spelling(value: int, form: str) -> None:
    assert score("boxed", f"After some work: {form.format(value)}", [str(value)]) == 1.0


def test_right_answers_have_the_form_that_replies_are_brought_to() -> None:
    assert canonical("number", "1,000.0") == answer_of("number", "#### 1000") == "1000"
    assert canonical("choice", "c") == "C"
    assert canonical("choice", "hello") is None


def test_long_replies_take_no_time() -> None:
    for text in (
        "\\boxed{" * 100_000,
        "9" * 700_000,
        "answer " * 100_000,
        "(" * 300_000,
        "1,000" * 99_999,
    ):
        for name in SCORERS:
            score(name, text, ["1"])
