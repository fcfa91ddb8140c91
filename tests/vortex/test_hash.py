"""One hash is one algorithm: rewrites that keep the selection share it, others do not."""

from __future__ import annotations

import itertools

import pytest

from search_spaces.block_topk import controls, seeds
from vortex import compile_text
from vortex.errors import VortexError

QUEST = next(s.text for s in seeds() if s.name == "quest")
SAME = {
    "renamed fields": QUEST.replace("lo=k", "a=k").replace("hi=k", "b=k")
    .replace("page.lo", "page.a").replace("page.hi", "page.b"),
    "renamed knob": QUEST.replace("budget", "tokens_kept"),
    "renamed locals": QUEST.replace("bound", "limit"),
    "commuted": QUEST.replace("q * page.lo, q * page.hi", "page.hi * q, page.lo * q"),
    "scaled by two": QUEST.replace('bound.max("head")', 'bound.max("head") * 2'),
    "union the other way": QUEST.replace("sinks(1) | vx.recent(2)", "recent(2) | vx.sinks(1)"),
    "plus zero": QUEST.replace('bound.max("head")', 'bound.max("head") + 0'),
}  # fmt: skip
OTHER = {
    "scaled by a negative": QUEST.replace('bound.max("head")', 'bound.max("head") * -2'),
    "another reduction": QUEST.replace('bound.max("head")', 'bound.mean("head")'),
    "another type": QUEST.replace("hi=k.max(\"token\")", "hi=k.max(\"token\"), dtype=\"fp8\""),
    "more recent pages": QUEST.replace("recent(2)", "recent(3)"),
    "dense layers": QUEST.replace("    def summarize", "    dense_layers = vx.layers(first=1)\n\n"
                                  "    def summarize"),
    "a large constant added": QUEST.replace('bound.max("head")', 'bound.max("head") + 1e20'),
    "swapped envelope": QUEST.replace("lo=k.min", "lo=k.mean"),
}  # fmt: skip


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_what_cannot_change_the_selection_does_not_change_the_hash(text: str) -> None:
    assert compile_text(text).candidate_hash == compile_text(QUEST).candidate_hash
    assert compile_text(text).structure_hash == compile_text(QUEST).structure_hash


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_what_changes_the_selection_changes_the_hash(text: str) -> None:
    assert compile_text(text).candidate_hash != compile_text(QUEST).candidate_hash


def test_all_shipped_programs_are_different_algorithms() -> None:
    made = [compile_text(s.text, reserved=s.control) for s in (*seeds(), *controls())]
    for a, b in itertools.combinations(made, 2):
        assert a.structure_hash != b.structure_hash


def test_knobs_change_the_candidate_not_the_structure() -> None:
    a, b = compile_text(QUEST), compile_text(QUEST, {"budget": 1024})
    assert a.structure_hash == b.structure_hash and a.candidate_hash != b.candidate_hash


@pytest.mark.parametrize(
    ("knobs", "code"),
    [({"budget": 1}, "E202"), ({"budget": 2.5}, "E202"), ({"nope": 1}, "E201"),
     ({"page_size": 48}, "E202")],
)  # fmt: skip
def test_bad_knobs_are_refused_with_their_declaration(knobs: dict[str, object], code: str) -> None:
    with pytest.raises(VortexError) as caught:
        compile_text(QUEST, knobs)
    assert caught.value.code == code and caught.value.hint
