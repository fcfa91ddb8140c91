"""What a program cannot be bound to is said in its place: file, line and caret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.vortex.test_cpu import both
from vortex import ProgramError, compile_text
from vortex.compile import placed
from vortex.cost import price
from vortex.devices import device
from vortex.geometry import Workload, geometry

TEXT = """import vortex as vx


class Split(vx.Algorithm):
    page_size = vx.choice(16, 8)
    budget = vx.integer(16, 4096, default=512)
    kind = vx.choice("bf16", "fp16")

    def summarize(self, k, v):
        parts = k.split("token", into=16, name="sub")
        return vx.Summary(mean=parts.mean("token"), dtype=self.kind)

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head").max("sub")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
"""
SPLIT = 'k.split("token", into=16, name="sub")'
SCORE = 'vx.dot(q, page.mean, "dim").max("head").max("sub")'


def shown(error: ProgramError) -> str:
    """The text above the caret of the only diagnostic."""
    (found,) = error.diagnostics
    assert found.span is not None, error.render()
    line = error.source.splitlines()[found.span.line - 1]
    return line[found.span.col - 1 : found.span.end_col - 1]


@pytest.mark.parametrize(
    ("knobs", "code", "place"),
    [
        ({"budget": 1}, "E202", "budget = vx.integer(16, 4096, default=512)"),
        ({"kind": "fp16"}, "E202", 'kind = vx.choice("bf16", "fp16")'),
        ({"page_size": 8}, "E203", SPLIT),
        ({"budget": 32}, "E205", "self.budget"),
    ],
)
def test_a_knob_that_does_not_fit_is_shown_where_it_matters(
    knobs: Mapping[str, object], code: str, place: str
) -> None:
    with pytest.raises(ProgramError) as caught:
        compile_text(TEXT, knobs, filename="split.py")
    assert caught.value.code == code and shown(caught.value) == place
    assert caught.value.render().startswith("split.py:") and "^" in caught.value.render()


def test_a_matrix_that_is_absent_is_shown_where_it_is_used(tmp_path: Path) -> None:
    place = 'k.project("dim", into=4, name="chan", matrix=vx.load("a.safetensors", "b"))'
    text = TEXT.replace(SPLIT, place).replace(SCORE, 'page.mean.max("chan")')
    with pytest.raises(ProgramError) as caught:
        compile_text(text, files=tmp_path)
    assert caught.value.code == "E206" and shown(caught.value) == place


def test_an_axis_that_a_model_cannot_cut_is_shown_when_it_is_priced() -> None:
    place = 'k.split("dim", into=48, name="sub")'
    text = TEXT.replace(SPLIT, place).replace(SCORE, 'page.mean.max("dim").max("sub")')
    candidate = compile_text(text)
    with pytest.raises(ProgramError) as caught, placed(candidate.program):
        price(candidate, geometry("qwen3-1.7b"), Workload(1, 4096), device("h200"))
    assert caught.value.code == "E203" and shown(caught.value) == place


def test_channels_that_an_array_lacks_are_shown_when_they_are_taken() -> None:
    place = 'k.take("dim", first=0, count=4096)'
    text = TEXT.replace(SPLIT, place).replace('.max("sub")', "")
    candidate = compile_text(text.replace("(q, page", f"(q.{place[2:]}, page"))
    with pytest.raises(ProgramError) as caught, placed(candidate.program):
        both(candidate, 100, steps=1, rows=1, seed=0)
    assert caught.value.code == "E203" and shown(caught.value) == place
