"""Kernels of drawn programs against the reference: how many have some, and that they agree.

``VORTEX_PARITY=200`` holds that many programs against the reference; a machine with a GPU does so
unasked, others check a share.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from search_spaces.grammar import program  # noqa: E402
from tests.vortex.kernel_parity import MLA, Case, bed, disagreements, scaled  # noqa: E402
from tests.vortex.own_programs import PROGRAMS  # noqa: E402
from vortex.compile import compile_text  # noqa: E402
from vortex.ir import Candidate  # noqa: E402
from vortex.plan import plan_of  # noqa: E402
from vortex.triton.arrays import Shapes  # noqa: E402
from vortex.triton.scoring import scoring  # noqa: E402
from vortex.triton.summaries import summaries  # noqa: E402
from vortex.triton.tiles import Unfused  # noqa: E402

LIBRARY = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk" / "library"
DRAWN, CHUNKS = 200, 40 if GPU else 6
CHECKED = int(os.environ.get("VORTEX_PARITY", DRAWN if GPU else 24))
DEVICE = "cuda" if GPU else "cpu"
SMALL_GQA = Case(kv_heads=2, lengths=(84, 215), workload=1024, device=DEVICE)
SMALL_MLA = scaled(MLA, lengths=(84, 215), workload=1024, device=DEVICE)
GQA = Shapes(2, 128, 128, (0, 128), 28, (128, 128))
SERVED_MLA = Shapes(20, 576, 512, (512, 64), 47, (576, 576))


def drawn(seed: int, **knobs: object) -> Candidate:
    return compile_text(program(seed), {"budget": 512, **knobs})


def library(name: str, **knobs: object) -> Candidate:
    text = (LIBRARY / f"{name}.py").read_text()
    return compile_text(text, {"budget": 2048, **knobs} if "budget" in text else knobs)


def reason(candidate: Candidate, shapes: Shapes) -> str:
    """Why a program has no kernels; empty if it has."""
    if plan_of(candidate.select).everything:
        return ""
    found = []
    for make in (scoring, summaries) if candidate.fields else (scoring,):
        try:
            make(candidate, shapes)
        except Unfused as refusal:
            found.append(refusal.message)
    return "; ".join(found)


def reasons(candidates: list[Candidate], shapes: Shapes) -> Counter[str]:
    """How many programs have kernels (under the empty text), and why the others have none."""
    return Counter(reason(c, shapes) for c in candidates)


@pytest.mark.parametrize(("shapes", "size"), [(GQA, 16), (SERVED_MLA, 32)], ids=["gqa", "mla"])
@pytest.mark.parametrize("count", [60, pytest.param(DRAWN, marks=pytest.mark.slow)])
def test_every_drawn_program_has_kernels(count: int, shapes: Shapes, size: int) -> None:
    found = reasons([drawn(seed, page_size=size) for seed in range(count)], shapes)
    assert found == {"": count}


@pytest.mark.parametrize(("shapes", "size"), [(GQA, 16), (SERVED_MLA, 32)], ids=["gqa", "mla"])
def test_the_library_has_kernels(shapes: Shapes, size: int) -> None:
    names = sorted(p.stem for p in LIBRARY.glob("*.py"))
    found = reasons([library(name, page_size=size) for name in names], shapes)
    assert found == {"": len(names)}


def test_what_has_no_kernel_is_counted_with_its_reason() -> None:
    text = (LIBRARY / "less_is_more.py").read_text()
    candidate = compile_text(text.replace("vx.choice(16, 32)", "128"))
    assert reasons([candidate], GQA) == {"a value has two wide axes, token and dim": 1}


@pytest.mark.parametrize("case", [SMALL_GQA, SMALL_MLA], ids=["gqa", "mla"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_rarer_parts_choose_and_attend_as_the_reference(name: str, case: Case) -> None:
    assert disagreements(bed(compile_text(PROGRAMS[name]), case)) == []


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_drawn_programs_choose_and_attend_as_the_reference(chunk: int) -> None:
    wrong = {}
    for seed in range(chunk, CHECKED, CHUNKS):
        case = SMALL_MLA if seed // CHUNKS % 3 == 2 else SMALL_GQA
        found = disagreements(bed(drawn(seed), case))
        if found:
            wrong[seed] = found
    assert wrong == {}
