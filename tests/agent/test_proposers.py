"""Proposers yield programs that compile, are new, and follow from the context and seed alone."""

from __future__ import annotations

import random

from agent.bandit import draw, shares
from agent.proposers.base import Elite, SearchContext
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from search_spaces.block_topk import seeds
from vortex import compile_text, parse
from vortex.passes import structure_hash
from vortex.printer import print_program


def context(seed: int, tried: frozenset[str] = frozenset()) -> SearchContext:
    elites = []
    for number, file in enumerate(seeds()):
        c = compile_text(file.text)
        elites.append(
            Elite(number, file.text, dict(c.knobs), 0.2 + 0.1 * number, 1e-3 * (9 - number),
                  number < 4, c.structure_hash)
        )  # fmt: skip
    return SearchContext(tuple(elites), tried, seed)


def test_evolved_programs_compile_are_new_and_print_as_they_parse() -> None:
    tried: frozenset[str] = frozenset()
    structures = set()
    for seed in range(120):
        for proposal in Evolve().propose(context(seed, tried), 1):
            candidate = compile_text(proposal.text, proposal.knobs)
            assert candidate.candidate_hash not in tried
            tried |= {candidate.candidate_hash}
            structures.add(candidate.structure_hash)
            program = parse(proposal.text)
            assert structure_hash(parse(print_program(program))) == structure_hash(program)
            assert proposal.note and (proposal.parents or "grammar" in proposal.note)
    assert len(tried) == 120
    assert len(structures) > 60  # it invents, not only retunes


def test_the_same_context_gives_the_same_proposals() -> None:
    assert Evolve().propose(context(5), 3) == Evolve().propose(context(5), 3)
    assert Tune().propose(context(5), 2) == Tune().propose(context(5), 2)


def test_tuning_stays_in_range_and_is_new() -> None:
    tried: frozenset[str] = frozenset()
    for seed in range(20):
        for proposal in Tune().propose(context(seed, tried), 1):
            candidate = compile_text(proposal.text, proposal.knobs)
            assert candidate.candidate_hash not in tried
            tried |= {candidate.candidate_hash}
    assert len(tried) == 20


def test_nothing_is_proposed_from_nothing() -> None:
    empty = SearchContext((), frozenset(), 0)
    assert Evolve().propose(empty, 2) == [] and Tune().propose(empty, 2) == []


def test_an_elite_of_an_older_language_is_passed_over() -> None:
    text = context(0).elites[0].text.replace("self.budget)", "self.budget / (1 - 1))")
    old = Elite(0, text, {"budget": 1024}, 0.1, 1e-3, True, "s")
    assert text != context(0).elites[0].text
    assert Tune().propose(SearchContext((old,), frozenset(), 0), 2) == []
    assert isinstance(Evolve().propose(SearchContext((old,), frozenset(), 0), 2), list)


def test_the_bandit_favours_what_reaches_the_front_and_keeps_a_floor() -> None:
    stats = {"evolve": (40, 10), "tune": (40, 0)}
    got = shares(stats, floor=0.15)
    assert abs(sum(got.values()) - 1) < 1e-9
    assert got["evolve"] > 0.7 and got["tune"] >= 0.15
    rng = random.Random(0)
    drawn = [draw(shares(stats), rng) for _ in range(400)]
    assert 0.7 < drawn.count("evolve") / 400 < 0.95
