"""A choice is tried in all its values, so that none fails only when a search comes to it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from search_spaces.block_topk import SeedFile, library
from tests.vortex.test_compile import SPLIT, TEXT, shown
from vortex import ProgramError, parse
from vortex.compile import bind, defaults
from vortex.cost import price
from vortex.devices import device
from vortex.geometry import Workload, geometry
from vortex.trials import alternatives, try_choices


def test_a_value_that_does_not_fit_is_named_beside_its_place() -> None:
    program = parse(TEXT.replace('"fp16"', '"fp8"'), filename="split.py")
    with pytest.raises(ProgramError) as caught:
        try_choices(program, defaults(program), lambda values: bind(program, values))
    assert caught.value.code == "E203" and shown(caught.value) == SPLIT
    assert caught.value.message.endswith("with page_size = 8")


def test_every_value_that_fails_is_reported() -> None:
    program = parse(TEXT)
    with pytest.raises(ProgramError) as caught:
        try_choices(program, defaults(program), lambda values: bind(program, values))
    assert [d.code for d in caught.value.diagnostics] == ["E203", "E202"]


def test_each_other_option_is_tried_once_against_the_values_at_hand() -> None:
    program = parse(TEXT)
    at = {"page_size": 8, "budget": 600, "kind": "bf16"}
    assert [tried for _, tried in alternatives(program, at)] == [
        {**at, "page_size": 16}, {**at, "kind": "fp16"},
    ]  # fmt: skip


@pytest.mark.parametrize("seed", library(), ids=lambda s: s.name)
def test_every_shipped_program_fits_with_every_choice(seed: SeedFile) -> None:
    program, shapes = parse(seed.text), geometry("smollm2-135m")

    def priced(values: Mapping[str, object]) -> object:
        return price(bind(program, values), shapes, Workload(16, 32768), device("h200"))

    try_choices(program, defaults(program), priced)
