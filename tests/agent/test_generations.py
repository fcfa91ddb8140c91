"""Evolution over many generations: children become parents, and every one stays a sane program."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch

from agent.proposers.base import Elite, Proposal, SearchContext
from agent.proposers.draft import MAX_NODES, draft_of
from agent.proposers.evolve import Evolve
from agent.proposers.mutations import drop_term
from search_spaces.block_topk import seeds
from vortex import compile_text, parse
from vortex.ir import Candidate, KnobRef, walk
from vortex.passes import structure_hash
from vortex.printer import print_program
from vortex.reference import Place, scores, summaries

PAGES, DIM, HEADS = 3, 8, 3


def lineage(seed: int, count: int) -> Iterator[tuple[Proposal, Candidate]]:
    """A search with random verdicts: proposals, each judged and then a possible parent."""
    rng = random.Random(seed)
    elites, tried = [], set()
    for number, file in enumerate(seeds()):
        known = compile_text(file.text)
        tried.add(known.candidate_hash)
        elites.append(Elite(number, file.text, dict(known.knobs), 0.5, 1e-3, True,
                            known.structure_hash))  # fmt: skip
    found = 0
    for step in itertools.count():
        if found == count:
            return
        context = SearchContext(tuple(elites), frozenset(tried), seed * 100_000 + step)
        (proposal,) = Evolve().propose(context, 1)
        if not proposal.parents:  # drawn from the grammar, which has tests of its own
            continue
        found += 1
        candidate = compile_text(proposal.text, proposal.knobs)
        assert candidate.candidate_hash not in tried
        assert set(proposal.parents) <= {e.candidate_id for e in elites}
        tried.add(candidate.candidate_hash)
        yield proposal, candidate
        elites.append(Elite(len(elites), proposal.text, proposal.knobs, rng.random(),
                            1e-3 * rng.random(), rng.random() < 0.15,
                            candidate.structure_hash))  # fmt: skip


def check(proposal: Proposal, candidate: Candidate, generator: torch.Generator) -> None:
    """Small, tunable, printable, and finite on ordinary, constant and large keys."""
    program = candidate.program
    graphs = [*program.fields.values(), *program.scores.values()]
    assert sum(1 for _ in walk(graphs)) <= MAX_NODES, proposal.text
    ranked = [n for n in walk([program.select]) if n.op == "top_k"]
    assert [n.inputs[1].attr("value") for n in ranked] == [KnobRef("budget")]
    assert len(getattr(program.knobs["page_size"], "options", ())) > 1
    again = parse(print_program(program))
    assert structure_hash(again) == candidate.structure_hash, proposal.text
    for scale in (1.0, 0.0, 100.0):
        k, v = (
            torch.randn(PAGES * candidate.page_size, DIM, generator=generator) * scale
            for _ in range(2)
        )
        q = torch.randn(HEADS, DIM, generator=generator) * max(scale, 1.0)
        found = scores(candidate, q, summaries(candidate, k, v), PAGES, DIM**-0.5,
                       place=Place(), states={})  # fmt: skip
        assert all(bool(torch.isfinite(s).all()) for s in found.values()), proposal.text


def explore(seed: int, count: int) -> int:
    """Check a lineage; how many structures it visited."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    structures = set()
    for proposal, candidate in lineage(seed, count):
        check(proposal, candidate, generator)
        structures.add(candidate.structure_hash)
    return len(structures)


@pytest.mark.parametrize("seed", [11, 12])
def test_descendants_stay_sane_programs(seed: int) -> None:
    assert explore(seed, 60) > 40  # it invents, not only retunes


@pytest.mark.slow
def test_five_hundred_descendants_stay_sane_programs() -> None:
    assert explore(13, 520) > 350


def test_one_call_for_many_repeats_nothing() -> None:
    file = next(s for s in seeds() if s.name == "quest")
    known = compile_text(file.text)
    elite = Elite(1, file.text, dict(known.knobs), 0.5, 1e-3, True, known.structure_hash)
    found = Evolve().propose(SearchContext((elite,), frozenset({known.candidate_hash}), 3), 40)
    hashes = {compile_text(p.text, p.knobs).candidate_hash for p in found}
    assert len(found) == 40 and len(hashes) == 40 and known.candidate_hash not in hashes


def test_a_parent_that_cannot_be_drafted_gives_nothing_and_does_not_fail() -> None:
    file = next(s for s in seeds() if s.name == "streaming_llm")
    known = compile_text(file.text)
    elite = Elite(1, file.text, dict(known.knobs), 0.5, 1e-3, True, known.structure_hash)
    found = Evolve().propose(SearchContext((elite,), frozenset(), 3), 5)
    assert all(not p.parents for p in found), "what is not a descendant was drawn from the grammar"


def test_a_divisor_keeps_the_term_that_keeps_it_off_zero() -> None:
    recency = """\
import vortex as vx


class Recency(vx.Algorithm):
    \"\"\"Newer pages first, beside their centroid.\"\"\"

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 4096, log=True, default=1024)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.center, "dim").max("head") + 1 / (vx.page_age + 1)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(1)
"""
    for seed in range(20):
        draft = draft_of(recency, {})
        drop_term(draft, random.Random(seed))
        divided = [n for n in walk([draft.score]) if n.op == "div"]
        assert all(n.inputs[1].op == "add" for n in divided)
