"""The hastened interpreter computes, bit for bit, what Triton's own does."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels run on a device", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter

from tests.interpreter import KNOWN, PLAIN
from tests.vortex.kernel_parity import MLA, Case, bed, scaled
from vortex.compile import compile_text
from vortex.triton.device import largest, smallest

pytestmark = pytest.mark.skipif(not KNOWN, reason="this Triton is interpreted as it is")
QUEST = """import vortex as vx
class P(vx.Algorithm):
    page_size = 16
    heat = vx.state(init=0.0)
    def summarize(self, k, v):
        return vx.Summary(high=k.max("token"), low=k.min("token"))
    def score(self, q, page):
        best = vx.maximum(q * page.high, q * page.low).sum("dim").max("head")
        return best.softmax("page").smooth(radius=1) + page.heat
    def update(self, page, mass):
        return vx.State(heat=mass)
    def select(self, score):
        return vx.top_p(score, mass=0.8, max_tokens=64) | vx.sinks(1)
"""


@triton.jit
def extremes(x, high, low, total, axis: tl.constexpr, rest: tl.constexpr):
    at = tl.arange(0, 2)[:, None, None] * 32 + tl.arange(0, 4)[None, :, None] * 8
    block = tl.load(x + at + tl.arange(0, 8)[None, None, :])
    tl.store(high + tl.arange(0, rest), largest(block, axis).reshape(rest))
    tl.store(low + tl.arange(0, rest), smallest(block, axis).reshape(rest))
    tl.store(total, largest(tl.sum(tl.sum(block, 2), 1), 0))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Undone, it leaves the hastened interpreter."""
    for owner, name, triton_s in PLAIN:
        assert getattr(owner, name) is not triton_s, "the tests' configuration hastens it"
        monkeypatch.setattr(owner, name, triton_s)
    plainly = interpreter.InterpreterOptions()
    monkeypatch.setattr(interpreter.interpreter_builder, "options", plainly)
    return monkeypatch


def same(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one.view(torch.uint8), two.view(torch.uint8))


def reduced(x: Tensor, axis: int) -> list[Tensor]:
    rest = x.numel() // x.shape[axis]
    found = [x.new_zeros(rest), x.new_zeros(rest), x.new_zeros(1)]
    extremes[(1,)](x, *found, axis=axis, rest=rest)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.int8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_reductions_are_the_same(axis: int, dtype: torch.dtype, plain: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(axis)
    x = (torch.randn(2, 4, 8, generator=g) * 9).to(dtype)
    if dtype.is_floating_point:
        x[1, 2, 3], x[0, 1, 2], x[0, 0, 0] = float("nan"), float("inf"), -0.0
    wanted = reduced(x, axis)
    plain.undo()
    assert all(map(same, reduced(x, axis), wanted))


@pytest.mark.parametrize("case", [Case(), MLA], ids=["gqa", "mla"])
def test_steps_are_the_same(case: Case, plain: pytest.MonkeyPatch) -> None:
    def stepped() -> list[Tensor]:
        made = bed(compile_text(QUEST), scaled(case, lengths=(1, 70)))
        made.step()
        kept = (made.buffers.pages, made.buffers.counts, *made.fields.arrays.values())
        return [*kept, made.out]

    wanted = stepped()
    plain.undo()
    assert all(map(same, stepped(), wanted))


def test_outside_a_launch_the_language_is_triton_s_again() -> None:
    assert interpreter._patch_lang is not PLAIN[0][2]
    reduced(torch.ones(2, 4, 8), 0)
    assert tl.core.is_builtin(tl.load) and tl.core.is_builtin(tl.tensor.__add__)
