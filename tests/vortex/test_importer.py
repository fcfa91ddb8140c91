"""Submissions in the published style become programs that compute the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.vortex.submissions import SUBMISSIONS
from vortex import reference
from vortex.compile import compile_text
from vortex.errors import ProgramError
from vortex.importer import import_vflow

Array = NDArray[Any]


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_output_is_a_program(name: str) -> None:
    text = import_vflow(SUBMISSIONS[name])
    candidate = compile_text(text)
    assert candidate.page_size == 16
    assert import_vflow(SUBMISSIONS[name]) == text


def scores_of(text: str, q: Array, k: Array, v: Array) -> Any:
    """The program's score of every page, by the reference executor."""
    candidate = compile_text(text)
    fields = reference.summaries(candidate, torch.from_numpy(k), torch.from_numpy(v))
    pages = k.shape[0] // candidate.page_size
    found = reference.scores(
        candidate, torch.from_numpy(q), fields, pages, 1.0, place=reference.Place(), states={}
    )
    return next(iter(found.values())).numpy()


def tensors(dim: int = 128) -> tuple[Array, Array, Array]:
    """q, and k and v of ten pages, in numbers that bfloat16 holds."""
    random = np.random.default_rng(7)
    shapes = ((4, dim), (160, dim), (160, dim))
    q, k, v = (random.integers(-8, 9, s).astype(np.float32) / 4 for s in shapes)
    return q, k, v


def rounded(x: Array) -> Any:
    """As a field is stored."""
    return torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()


def expected(name: str, q: Array, k: Array, v: Array) -> Any:
    """What the submission computes, written out."""
    keys, values = k.reshape(10, 16, -1), v.reshape(10, 16, -1)
    mid = rounded(keys.mean(1))
    match = mid @ q.mean(0)
    match_h = mid @ q.T
    if name == "gqa_softmax":
        e = np.exp(match_h / np.sqrt(128))
        return np.max(e / e.sum(0), axis=1)
    if name == "value_energy":
        return match * rounded(np.linalg.norm(values, axis=2).mean(1))
    if name == "centered":
        return match_h.mean(1) - match_h.mean()
    if name == "elementwise":
        x = 2 * match + 0.5
        gate = 1 / (1 + np.exp(-3 * x + 1))
        return np.where(np.maximum(x, 0) > gate, gate, -np.inf)
    if name == "reshape":
        return (mid * q.mean(0)).reshape(10, 2, 64).sum(2).max(1)
    if name == "rope_weighted_mla":
        weight = np.where(np.arange(q.shape[1]) < 512, 0.25, 0.75)
        return mid @ (q.mean(0) * weight)
    parts = keys.reshape(10, 4, 4, -1) if name == "lserve" else keys[:, None]
    high, low = parts.max(2)[:, :, None], parts.min(2)[:, :, None]
    bound = np.maximum(q * high, q * low)
    if name == "masked_quest":
        bound[..., :8] = 0
    return bound.sum(-1).max((1, 2)) if name != "block_sparse" else match


@pytest.mark.parametrize(
    "name",
    [
        "block_sparse", "gqa_softmax", "quest", "lserve", "centered", "value_energy",
        "masked_quest", "elementwise", "reshape", "rope_weighted_mla",
    ],
)  # fmt: skip
def test_scores_are_the_flow_s(name: str) -> None:
    q, k, v = tensors(576 if name.endswith("mla") else 128)
    found = scores_of(import_vflow(SUBMISSIONS[name]), q, k, v)
    np.testing.assert_allclose(found, expected(name, q, k, v), rtol=2e-4, atol=2e-4)


CONFIG = {
    "model_path": "some/model",
    "mem_fraction_static": 0.8,
    "vortex_module_name": "flow_under_test",
    "vortex_attention_backend": "trtllm",
    "vortex_block_size": 32,
    "vortex_topk_val": 29,
    "vortex_topk_ratio": 0.0625,
    "vortex_block_reserved_bos": 1,
    "vortex_block_reserved_eos": 2,
    "vortex_layers_skip": [0, 1],
}


def test_configuration_is_carried_over() -> None:
    text = import_vflow(SUBMISSIONS["block_sparse"], config=CONFIG)
    assert "page_size = 32" in text
    assert f"topk_tokens = {(29 + 1 + 2) * 32}" in text
    assert "vx.maximum(self.topk_tokens, self.topk_ratio * vx.context)" in text
    assert "vx.sinks(1) | vx.recent(2)" in text
    assert "dense_layers = vx.layers(first=2)" in text
    candidate = compile_text(text)
    assert (candidate.page_size, candidate.policies.dense_first) == (32, 2)


def test_last_dense_layers_need_the_depth() -> None:
    both = {"vortex_layers_skip": [0, 27]}
    text = import_vflow(SUBMISSIONS["quest"], config={**both, "num_hidden_layers": 28})
    assert "dense_layers = vx.layers(first=1, last=1)" in text
    with pytest.raises(ProgramError) as caught:
        import_vflow(SUBMISSIONS["quest"], config=both)
    assert caught.value.code == "E308"


def test_constants_of_a_base_class_are_overridden() -> None:
    base = SUBMISSIONS["masked_quest"].replace("FlowUnderTest(", "_Base(")
    derived = '@register("wider")\nclass Wider(_Base):\n    CUT = 24\n'
    text = import_vflow(f"{base}\n\n{derived}", config={"vortex_module_name": "wider"})
    assert "class Wider(vx.Algorithm)" in text and "< 24" in text


def test_nothing_is_executed(tmp_path: Path) -> None:
    import_vflow(f"open({str(tmp_path / 'made')!r}, 'w')\n" + SUBMISSIONS["quest"])
    assert not os.listdir(tmp_path)
