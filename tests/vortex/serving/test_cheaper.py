"""Where full attention is predicted to be the cheaper step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("triton")

from tests.centroid import centroid
from vortex.compile import compile_text
from vortex.cost import price
from vortex.devices import DEVICES
from vortex.geometry import geometry
from vortex.serving.sglang.cheaper import GAIN, bound_of, dense_bounds, known
from vortex.serving.sglang.sparse import Served
from vortex.workload import Workload

MODEL = geometry("qwen3-1.7b")
SERVED = Served(
    "gqa", MODEL.layers, MODEL.group, MODEL.kv_heads, MODEL.dim, MODEL.vdim, (0, MODEL.dim), 40960,
    "NVIDIA H200",
)  # fmt: skip
CENTROID = compile_text(centroid(1024, recent=2))


@pytest.mark.parametrize("rows", [1, 2, 8, 64])
def test_a_bound_is_where_the_model_s_own_price_says_so(rows: int) -> None:
    bound = bound_of(dense_bounds(CENTROID, SERVED, "bf16", inner="fa3"), rows)
    below, above = (
        price(CENTROID, MODEL, Workload(batch=rows, context=n), DEVICES["h200"]).speedup_attention
        for n in (bound, bound + 64)
    )
    assert below < GAIN <= above


def test_larger_batches_never_have_a_larger_bound_and_sizes_between_take_the_next() -> None:
    bounds = dense_bounds(CENTROID, SERVED, "bf16", inner="fa3")
    assert all(a >= b > 0 for a, b in pairwise(bounds))
    assert bound_of(bounds, 5) == bound_of(bounds, 8) < bound_of(bounds, 4)
    assert bound_of(bounds, 1 << 14) == bounds[-1] and bound_of((), 3) == 0


def test_no_bound_is_longer_than_the_longest_sequence() -> None:
    assert dense_bounds(CENTROID, replace(SERVED, context=2000), "bf16", inner="fa3")[0] == 2000


def test_a_device_without_figures_has_no_bounds() -> None:
    assert known("NVIDIA H100 80GB HBM3") is DEVICES["h100"] and known("cpu") is None
    assert not any(dense_bounds(CENTROID, replace(SERVED, device="a new one"), "bf16", inner="fa3"))


def test_on_mla_full_attention_is_as_fast_as_the_backend_that_serves_it() -> None:
    glm = geometry("glm-4.7-flash")
    served = Served("mla", glm.layers, glm.group, 1, glm.dim, glm.vdim, (512, 64), 65536,
                    "NVIDIA H200")  # fmt: skip
    program = compile_text(centroid(2048, page=64, recent=2))
    flash, triton = (
        dense_bounds(program, served, "bf16", inner=inner) for inner in ("flashmla", "triton")
    )
    assert all(a > 2 * b for a, b in zip(flash[:5], triton[:5], strict=True))
