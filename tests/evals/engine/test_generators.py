"""Generated problems: repeatable, of the length asked for, answerable from the prompt alone."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from evals.engine.generators import KINDS, fitted, generate
from evals.engine.problems import Problem
from evals.engine.scorers import score
from vortex.errors import VortexError


def encode(text: str) -> list[int]:
    """Something like a tokenizer: pieces of words of at most four letters, and signs."""
    return list(range(len(re.findall(r"\w{1,4}|\W", text))))


def made(kind: str, length: int = 2000, count: int = 1, seed: int = 0) -> list[Problem]:
    return generate(kind, length, count, encode, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [900, 6000])
def test_a_prompt_is_as_long_as_asked_for(kind: str, length: int) -> None:
    for problem in made(kind, length, 3):
        assert length - 90 <= len(encode(problem.prompt)) <= length


@pytest.mark.parametrize("kind", KINDS)
def test_problems_follow_from_kind_length_seed_and_index(kind: str) -> None:
    assert made(kind, count=3) == made(kind, count=3)
    assert made(kind, count=3)[:2] == made(kind, count=2)
    prompts = {p.prompt for p in (*made(kind, count=3), *made(kind, seed=1, count=3))}
    assert len(prompts) == 6
    ids = {p.id for p in (*made(kind, count=3), *made(kind, seed=1), *made(kind, 900))}
    assert len(ids) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_scores_and_an_empty_one_does_not(kind: str) -> None:
    problem = made(kind)[0]
    assert len(set(problem.answer)) == len(problem.answer)
    assert score("contains", ", ".join(problem.answer), problem.answer) == 1
    assert score("contains", "I do not know.", problem.answer) == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("needle")])
def test_every_needle_is_told_once_and_the_decoys_are_not_right(kind: str) -> None:
    problem = made(kind)[0]
    told = re.findall(r"registry numbers of (\S+) is (\d+)\.", problem.prompt)
    question = problem.prompt.rpartition("Question:")[2]
    assert {n for key, n in told if key in question} == set(problem.answer)
    assert len(told) == {"needle": 1, "needle-values": 4}.get(kind, 8)


def test_variables_are_traced_to_their_value() -> None:
    problem = made("variables")[0]
    value = re.findall(r"have the value (\d+)", problem.prompt)[0]
    values: dict[str, str] = {}
    for name, source in re.findall(r"LET (\w+) = (\w+)\.", problem.prompt):
        values[name] = values.get(source, source)  # told before it is used
    assert {name for name, v in values.items() if v == value} == set(problem.answer)
    assert len(set(values.values())) == 4


@pytest.mark.parametrize("length", [900, 3000, 20_000])
def test_common_words_are_the_most_common(length: int) -> None:
    problem = made("common-words", length)[0]
    counts = Counter(re.findall(r"\d+\. (\w+)", problem.prompt)).most_common(11)
    assert {word for word, _ in counts[:10]} == set(problem.answer)
    assert counts[9][1] >= 3 * counts[10][1]


@pytest.mark.parametrize("length", [300, 900, 20_000])
def test_frequent_words_are_the_most_frequent(length: int) -> None:
    problem = made("frequent-words", length)[0]
    words = problem.prompt.split("\n\n")[1].split()
    counts = Counter(words).most_common(4)
    assert {word for word, _ in counts[:3]} == set(problem.answer)
    assert counts[2][1] > counts[3][1]


def test_a_question_about_facts_needs_two_of_them() -> None:
    problem = made("facts")[0]
    asked = re.findall(r"collects every (\w+)\?", problem.prompt)[0]
    person = re.findall(rf"(\w+) collects every {asked} that", problem.prompt)[0]
    town = re.findall(rf"house of {person} stands in the town of (\w+)\.", problem.prompt)
    assert tuple(town) == problem.answer


def test_needles_lie_anywhere() -> None:
    places = [
        p.prompt.index("One of the registry") / len(p.prompt) for p in made("needle", count=30)
    ]
    assert min(places) < 0.2 and max(places) > 0.8


def test_the_tokenizer_is_asked_a_few_times_only() -> None:
    sizes = []

    def counted(text: str) -> list[int]:
        sizes.append(len(text))
        return encode(text)

    generate("needle", 50_000, 1, counted)
    assert len(sizes) <= 10


def test_a_prompt_without_room_says_how_much_it_needs() -> None:
    with pytest.raises(VortexError, match="too few") as caught:
        made("facts", 100)
    assert caught.value.code == "E902"


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(VortexError) as caught:
        made("needels")
    assert caught.value.code == "E902" and "needle" in str(caught.value.hint)


def test_units_of_any_size_are_fitted() -> None:
    for size in (1, 7, 500):
        prompt = fitted(lambda n, s=size: "x " * n * s, 1000, lambda t: range(t.count("x")))  # type: ignore[misc]
        assert prompt.count("x") == 1000 // size * size
