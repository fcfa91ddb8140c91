"""Ablation reduces what wins, one untried part at a time, and leaves known algorithms alone."""

from __future__ import annotations

from agent.proposers.ablate import Ablate
from agent.proposers.base import Elite, SearchContext
from search_spaces.block_topk import seeds
from tests.agent.llm.state import PROGRAM
from vortex import compile_text, parse
from vortex.ir import walk
from vortex.knobs import KnobValue

QUEST = next(s.text for s in seeds() if s.name == "quest")


def elite(
    number: int, text: str, proposer: str, *, on_front: bool = True, **knobs: KnobValue
) -> Elite:
    made = compile_text(text, knobs)
    return Elite(number, text, dict(made.knobs), 0.1, 1e-3, on_front, made.structure_hash, proposer)


def context(*elites: Elite, tried: frozenset[str] = frozenset(), seed: int = 0) -> SearchContext:
    hashes = {compile_text(e.text, e.knobs).candidate_hash for e in elites}
    return SearchContext(elites, tried | frozenset(hashes), seed)


def test_each_proposal_is_a_smaller_untried_program_with_its_parent_s_knobs() -> None:
    parent = elite(7, PROGRAM, "openai:m", budget=2048)
    found = Ablate().propose(context(parent), 50)
    assert found
    hashes = set()
    for proposal in found:
        made = compile_text(proposal.text, proposal.knobs)
        hashes.add(made.candidate_hash)
        assert proposal.parents == (7,) and proposal.proposer == "ablate"
        assert proposal.note.startswith("without ") and len(proposal.text) < len(PROGRAM)
        assert made.knobs["budget"] == 2048
    assert len(hashes) == len(found)
    assert compile_text(PROGRAM, {"budget": 2048}).candidate_hash not in hashes


def size(text: str) -> int:
    return sum(1 for _ in walk(parse(text).roots()))


def test_the_smallest_comes_first_and_what_was_tried_does_not_come_again() -> None:
    parent = elite(7, PROGRAM, "evolve")
    whole = Ablate().propose(context(parent), 50)
    assert [size(p.text) for p in whole] == sorted(size(p.text) for p in whole)
    tried: frozenset[str] = frozenset()
    one_by_one = []
    while found := Ablate().propose(context(parent, tried=tried), 1):
        one_by_one.append(found[0].text)
        tried |= {compile_text(found[0].text, found[0].knobs).candidate_hash}
    assert one_by_one == [p.text for p in whole]


def test_known_algorithms_and_what_is_off_the_front_are_left_alone() -> None:
    seed, tuned = elite(4, QUEST, "seed"), elite(5, QUEST, "tune", budget=900)
    off = elite(6, PROGRAM, "evolve", on_front=False)
    assert Ablate().propose(context(seed, tuned, off), 5) == []
    assert Ablate().propose(context(), 5) == []


def test_the_tuned_form_of_an_invented_structure_is_reduced_too() -> None:
    invented = elite(6, PROGRAM, "anthropic:m", on_front=False)
    tuned = elite(8, PROGRAM, "tune", budget=4096)
    found = Ablate().propose(context(invented, tuned), 1)
    assert found and found[0].parents == (8,) and found[0].knobs["budget"] == 4096


def test_the_same_seed_gives_the_same_and_parents_take_turns() -> None:
    other = PROGRAM.replace('.max("head")', '.mean("head")').replace("Spread", "Second")
    parents = (elite(6, PROGRAM, "evolve"), elite(7, other, "openai:m"))
    assert Ablate().propose(context(*parents, seed=3), 4) == Ablate().propose(
        context(*parents, seed=3), 4
    )
    assert {p.parents for p in Ablate().propose(context(*parents), 2)} == {(6,), (7,)}
    firsts = {Ablate().propose(context(*parents, seed=s), 1)[0].parents for s in range(8)}
    assert firsts == {(6,), (7,)}
