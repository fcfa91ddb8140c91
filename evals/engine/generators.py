"""Long prompts with known answers, of any length: retrieval, tracing, counting, questions."""

from __future__ import annotations

import difflib
import functools
import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evals.engine.problems import Problem
from evals.tasks.words import adjectives, nouns
from evals.texts.texts import Split, text
from vortex.errors import VortexError

VERSION = 1
Encode = Callable[[str], Sequence[int]]
Build = Callable[[int], str]
_SPLITS: tuple[Split, ...] = ("search", "sealed")
_ONSETS = [*"bdfgklmnprstvz", "br", "dr", "gl", "kr", "pl", "st", "tr"]
_VOWELS = [*"aeiou", "ai", "ou"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt that can be of any size.

    Attributes:
        build: from units of filler (sentences, lines, words) to the prompt; longer with more.
    """

    build: Build
    answers: tuple[str, ...]


def generate(
    kind: str, length: int, count: int, encode: Encode, *, seed: int = 0
) -> list[Problem]:  # fmt: skip
    """Problems of one kind, each of at most ``length`` tokens and as near as its units allow.

    Args:
        kind: one of :data:`KINDS`.
        encode: the served model's tokenizer.
        seed: with kind, length and index decides everything.

    Raises:
        VortexError: E902, no such kind, or a length in which it has no room.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise VortexError(
            f"no generator is called '{kind[:40]}'", code="E902",
            hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(KINDS)}",
        )  # fmt: skip
    found = []
    for index in range(count):
        draft = KINDS[kind](random.Random(f"{VERSION}/{kind}/{length}/{seed}/{index}"))
        found.append(Problem(
            id=f"{kind}-{length}-{seed}-{index:03d}", prompt=fitted(draft.build, length, encode),
            answer=draft.answers, scorer="contains", group=f"{kind} {length}",
        ))  # fmt: skip
    return found


def fitted(build: Build, length: int, encode: Encode) -> str:
    """The longest prompt of at most ``length`` tokens.

    Raises:
        VortexError: E902, even without filler it is longer.
    """
    kept = build(0)
    least = len(encode(kept))
    if least > length:
        raise VortexError(
            f"{length} tokens are too few: without filler this prompt has {least}", code="E902",
            hint=f"ask for {max(256, 2 * least)} or more",
        )  # fmt: skip
    low, high = 0, length + 1  # a unit has at least a token
    at = max(1, (length - least) // 30)
    for turn in itertools.count():
        at = min(max(at, low + 1), high - 1)
        prompt = build(at)
        size = len(encode(prompt))
        step = (length - size) * at // max(1, size - least)  # tokens per unit hardly vary
        if size <= length:
            low, kept = at, prompt
        else:
            high = at
        if low + 1 >= high or (size <= length and step < 1):
            break
        at = at + step if turn < 12 else (low + high) // 2
    return kept


# -- filler ------------------------------------------------------


@functools.cache
def _sentences() -> tuple[str, ...]:
    """Sentences of the novel, long ones cut, none with a number that could be taken for one."""
    found = []
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text("novel").split())):
        words = sentence.split()
        found += [" ".join(words[i : i + 24]) for i in range(0, len(words), 24)]
    return tuple(s for s in found if not any(c.isdigit() for c in s))


def _filler(rng: random.Random) -> Callable[[int], list[str]]:
    """So many sentences, from a random place on; the text begins anew at its end."""
    every = _sentences()
    start = rng.randrange(len(every))
    return lambda count: [every[(start + i) % len(every)] for i in range(count)]


def _planted(facts: Sequence[str], places: Sequence[float], filler: list[str]) -> str:
    """Filler with facts at shares of its length."""
    lines: list[tuple[float, int, str]] = [(i + 0.5, 1, s) for i, s in enumerate(filler)]
    lines += [(p * len(filler), 0, f) for p, f in zip(places, facts, strict=True)]
    return " ".join(s for *_, s in sorted(lines, key=lambda x: x[:2]))


def _haystack(rng: random.Random, head: str, facts: Sequence[str], tail: str) -> Build:
    filler, places = _filler(rng), [rng.random() for _ in facts]
    return lambda count: f"{head}\n\n{_planted(facts, places, filler(count))}\n\n{tail}"


# -- retrieval ---------------------------------------------------


def _needles(rng: random.Random, keys: int, values: int, asked: int) -> Draft:
    names = [f"{a}-{n}" for s in _SPLITS for a, n in zip(
        rng.sample(adjectives(s), 10), rng.sample(nouns(s), 10), strict=True)]  # fmt: skip
    chosen = rng.sample(names, keys)
    drawn = rng.sample(range(1_000_000, 10_000_000), keys * values)
    numbers = {key: drawn[i * values : (i + 1) * values] for i, key in enumerate(chosen)}
    facts = [f"One of the registry numbers of {k} is {n}." for k in chosen for n in numbers[k]]
    rng.shuffle(facts)
    wanted = chosen[:asked]
    many = "all registry numbers" if asked * values > 1 else "the registry number"
    named = " and ".join([", ".join(wanted[:-1]), wanted[-1]] if asked > 1 else wanted)
    tail = f"Question: what {'are' if asked * values > 1 else 'is'} {many} of {named}?\nAnswer:"
    head = "Registry numbers are hidden in this text. Remember them; you will be asked for some."
    return Draft(
        _haystack(rng, head, facts, tail), tuple(str(n) for k in wanted for n in numbers[k])
    )


def _facts(rng: random.Random) -> Draft:
    """A question over a text whose answer is put together from two of its sentences."""
    people = _words(rng, 12)
    towns, trades = _words(rng, 12), rng.sample([*nouns("search"), *nouns("sealed")], 12)
    facts = []
    for person, town, trade in zip(people, towns, trades, strict=True):
        facts.append(f"{person.title()} collects every {trade} that can be found.")
        facts.append(f"The house of {person.title()} stands in the town of {town.title()}.")
    rng.shuffle(facts)
    at = rng.randrange(12)
    head = "Read the text. Somewhere in it people, what they collect and where they live are told."
    tail = (
        f"Question: in which town does the person live who collects every {trades[at]}? "
        "Name the town.\nAnswer:"
    )
    return Draft(_haystack(rng, head, facts, tail), (towns[at].title(),))


# -- tracing -----------------------------------------------------


def _variables(rng: random.Random, chains: int = 4, hops: int = 4) -> Draft:
    """Values that are handed from name to name; all names with one value are asked for."""
    names = [w.upper() for w in _words(rng, chains * (hops + 1))]
    values = rng.sample(range(10_000, 100_000), chains)
    queues = []
    for i, value in enumerate(values):
        mine = names[i * (hops + 1) : (i + 1) * (hops + 1)]
        steps = [f"LET {mine[0]} = {value}."]
        steps += [f"LET {b} = {a}." for a, b in itertools.pairwise(mine)]
        queues.append(steps)
    order = [i for i, q in enumerate(queues) for _ in q]
    rng.shuffle(order)  # chains are mixed, each in its own order
    facts = [queues[i].pop(0) for i in order]
    places = sorted(rng.random() for _ in facts)
    filler = _filler(rng)
    head = "Assignments are hidden in this text. Follow them; each name keeps its value."
    tail = f"Question: which names have the value {values[0]}? List all {hops + 1}.\nAnswer:"
    return Draft(
        lambda count: f"{head}\n\n{_planted(facts, places, filler(count))}\n\n{tail}",
        tuple(names[: hops + 1]),
    )


# -- counting ----------------------------------------------------


def _common_words(rng: random.Random, common: int = 10) -> Draft:
    """Ten words come often, all others seldom, in a numbered list; the ten are asked for."""
    frequent = _words(rng, common)
    state = rng.random()

    def build(count: int) -> str:
        own = random.Random(state)
        often = max(6, count // (3 * common))
        seldom = min(3, often // 6)
        rare = _distinct(own, max(common, 2 * count // (3 * seldom)), without=frequent)
        words = frequent * often + rare * seldom
        own.shuffle(words)
        listed = " ".join(f"{i + 1}. {w}" for i, w in enumerate(words))
        return (
            f"Below is a numbered list of words. {common} of them come often, all others seldom. "
            f"Remember those that come often.\n\n{listed}\n\nQuestion: what are the {common} most "
            "common words of the list?\nAnswer:"
        )

    return Draft(build, tuple(frequent))


def _frequent_words(rng: random.Random, asked: int = 3) -> Draft:
    """Words drawn by a steep law of frequency; the three most frequent are asked for."""
    words = _words(rng, 400)
    state = rng.random()

    def build(count: int) -> str:
        own, total = random.Random(state), max(30, count)
        # 1 / rank^2, with counts that are distinct for the words asked for.
        counts = [max(1, int(0.6 * total / (rank + 1) ** 2)) for rank in range(len(words))]
        drawn = [w for w, n in zip(words, counts, strict=True) for _ in range(n)]
        drawn = drawn[: max(total, sum(counts[: asked + 1]))]
        own.shuffle(drawn)
        return (
            f"Below are words of a code, in no order.\n\n{' '.join(drawn)}\n\nQuestion: which "
            f"{asked} words come most often?\nAnswer:"
        )

    return Draft(build, tuple(words[:asked]))


def _words(rng: random.Random, count: int) -> list[str]:
    return _distinct(rng, count, without=[])


def _distinct(rng: random.Random, count: int, *, without: Sequence[str]) -> list[str]:
    """Different made-up words."""
    found: dict[str, None] = dict.fromkeys(without)
    while len(found) < count + len(without):
        found["".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(4))] = None
    return list(found)[len(without) :]


KINDS: dict[str, Callable[[random.Random], Draft]] = {
    "needle": lambda rng: _needles(rng, 1, 1, 1),
    "needle-keys": lambda rng: _needles(rng, 8, 1, 1),
    "needle-values": lambda rng: _needles(rng, 1, 4, 1),
    "needle-queries": lambda rng: _needles(rng, 8, 1, 4),
    "variables": _variables,
    "common-words": _common_words,
    "frequent-words": _frequent_words,
    "facts": _facts,
}
