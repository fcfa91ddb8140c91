"""Printing a program and parsing it again gives the same algorithm."""

from __future__ import annotations

import pytest

from search_spaces.block_topk import SeedFile, controls, seeds
from vortex import parse
from vortex.passes import structure_hash
from vortex.printer import print_program


@pytest.mark.parametrize("seed", [*seeds(), *controls()], ids=lambda s: s.name)
def test_round_trip(seed: SeedFile) -> None:
    program = parse(seed.text, reserved=seed.control)
    again = parse(print_program(program), reserved=seed.control)
    assert structure_hash(again) == structure_hash(program)
    assert again.knobs == program.knobs
