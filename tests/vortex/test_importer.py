"""Submissions in the published style become programs that compute the same; the rest is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vortex import reference
from vortex.compile import compile_text
from vortex.errors import ProgramError
from vortex.importer import import_vflow

Array = NDArray[Any]

HEAD = """
import math
import torch
from typing import Dict

from vortex_torch.flow import vFlow, vFlowMLA, register
from vortex_torch.indexer import (
    Abs, Add, Add_Mul, GeMM, GeMV, Kron, L2Norm, Load, MaskSlice, Max, Maximum, Mean, Multiply,
    Relu, Reshape, Save, Sigmoid, Softmax, Sum, TopK, Union, WhereGreater, approxTopK, topK,
)
from vortex_torch.cache import (
    Fill as CFill, L2Norm as CL2Norm, Max as CMax, MaxInterleave as CMaxInterleave,
    Mean as CMean, MeanInterleave as CMeanInterleave, Min as CMin,
    MinInterleave as CMinInterleave,
)
from vortex_torch.abs import ContextBase

"""


def flow(
    ops: str,
    indexer: str,
    *,
    cache: str = 'self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)',
    shapes: str = '"mid": (1, head_dim)',
    constants: str = "",
    base: str = "vFlow",
    sizes: str = "block_size: int, head_dim: int",
) -> str:
    """A submission with the given parts; statements are separated by newlines."""

    def block(text: str) -> str:
        return "".join(f"        {line.strip()}\n" for line in text.strip().splitlines())

    return (
        f'{HEAD}@register("flow_under_test")\nclass FlowUnderTest({base}):\n    """A flow."""\n'
        + "".join(f"    {line.strip()}\n" for line in constants.splitlines())
        + f"\n    def __init__(self):\n        super().__init__()\n{block(ops)}"
        + f"\n    def create_cache(self, {sizes}):\n        return {{{shapes}}}\n"
        + "\n    def forward_cache(self, cache: Dict, loc: torch.Tensor, ctx: ContextBase):\n"
        + block(cache)
        + "\n    def forward_indexer(self, q, o, cache: Dict, ctx: ContextBase):\n"
        + block(indexer)
    )


MLA = {"base": "vFlowMLA", "sizes": "block_size, kv_lora_rank, qk_rope_head_dim"}
LATENT = {
    **MLA,
    "cache": 'self.c_mean(cache["latent"], cache["mid"], loc=loc, ctx=ctx)',
    "shapes": '"mid": (1, kv_lora_rank + qk_rope_head_dim)',
}
MEAN = "self.c_mean = CMean(dim=1)\n"
BOUNDS = """
self.c_top = CMax(dim=1)
self.c_low = CMin(dim=1)
self.up = Multiply()
self.down = Multiply()
self.larger = Maximum()
self.over_dim = Sum(dim=2)
self.over_head = Max(dim=1)
self.pick = topK()
"""
ENVELOPE = """
self.c_top(cache["k"], cache["max"], loc=loc, ctx=ctx)
self.c_low(cache["k"], cache["min"], loc=loc, ctx=ctx)
"""
RANK_MEAN = """
short = self.q_mean(q, ctx=ctx)
score = self.gemm(short, cache["mid"], ctx=ctx)
self.pick(score, o, ctx=ctx)
"""
PLAIN = MEAN + "self.q_mean = Mean(dim=1)\nself.gemm = GeMM()\nself.pick = topK()"

SUBMISSIONS = {
    "block_sparse": flow(
        MEAN + "self.gemv = GeMV()\nself.pick = topK()",
        """
        short = q.mean(dim=1, keepdim=True)
        score = self.gemv(short, cache["mid"], ctx=ctx)
        self.pick(score, o, ctx=ctx)
        """,
    ),
    "gqa_softmax": flow(
        MEAN + "self.gemm = GeMM()\nself.soft = Softmax(dim=0, scale=1 / math.sqrt(128))\n"
        "self.best = Max(dim=2)\nself.pick = topK()",
        """
        score = self.gemm(q, cache["mid"], ctx=ctx)
        self.soft(score, ctx=ctx)
        best = self.best(score, ctx=ctx)
        self.pick(best, o, ctx=ctx)
        """,
    ),
    "quest": flow(
        BOUNDS,
        """
        a = self.up(q, cache["max"], ctx=ctx)
        b = self.down(q, cache["min"], ctx=ctx)
        per_head = self.over_dim(self.larger(a, b, ctx=ctx), ctx=ctx)
        self.pick(self.over_head(per_head, ctx=ctx), o, ctx=ctx)
        """,
        cache=ENVELOPE,
        shapes='"max": (1, head_dim), "min": (1, head_dim)',
    ),
    "lserve": flow(
        BOUNDS.replace("Multiply()", "Kron(dim=1)")
        .replace("CMax(dim=1)", "CMaxInterleave(dim=1, k=self.PART)")
        .replace("CMin(dim=1)", "CMinInterleave(dim=1, k=self.PART)"),
        """
        a = self.up(q, cache["max"], ctx=ctx)
        b = self.down(q, cache["min"], ctx=ctx)
        bound = self.larger(a, b, ctx=ctx)
        per_pair = self.over_dim(bound, ctx=ctx)
        best = self.over_head(per_pair, ctx=ctx)
        self.pick(best, o, ctx=ctx)
        """,
        cache=ENVELOPE,
        shapes='"max": (block_size // self.PART, head_dim), "min": (block_size // 4, head_dim)',
        constants="PART = 4",
    ),
    "centered": flow(
        MEAN + "self.mul = Multiply()\nself.d = Sum(dim=2)\nself.h = Mean(dim=1)\n"
        "self.all = Mean(dim=0)\nself.sub = Add(alpha=1.0, beta=-1.0)\nself.pick = topK()",
        """
        product = self.mul(q, cache["mid"], ctx=ctx)
        score = self.h(self.d(product, ctx=ctx), ctx=ctx)
        middle = self.all(score, ctx=ctx)
        self.pick(self.sub(score, middle, ctx=ctx), o, ctx=ctx)
        """,
    ),
    "value_energy": flow(
        PLAIN + "\nself.gate = Multiply()\nself.c_norm = CL2Norm(dim=2)\nself.c_v = CMean(dim=1)",
        """
        short = self.q_mean(q, ctx=ctx)
        match = self.gemm(short, cache["mid"], ctx=ctx)
        score = self.gate(match, cache["energy"], ctx=ctx)
        self.pick(score, o, ctx=ctx)
        """,
        cache="""
        self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)
        norms = self.c_norm(cache["v"], None, loc=loc, ctx=ctx)
        self.c_v(norms, cache["energy"], loc=loc, ctx=ctx)
        """,
        shapes='"mid": (1, head_dim), "energy": (1, 1)',
    ),
    "masked_quest": flow(
        BOUNDS + "self.mask = MaskSlice(start=0, end=self.CUT, dim=2, alpha=0.0, beta=1.0)\n"
        "self.hide = Multiply()",
        """
        a = self.up(q, cache["max"], ctx=ctx)
        b = self.down(q, cache["min"], ctx=ctx)
        bound = self.larger(a, b, ctx=ctx)
        mask = self.mask(bound, ctx=ctx)
        hidden = self.hide(bound, mask, ctx=ctx)
        self.pick(self.over_head(self.over_dim(hidden, ctx=ctx), ctx=ctx), o, ctx=ctx)
        """,
        cache=ENVELOPE,
        shapes='"max": (1, head_dim), "min": (1, head_dim)',
        constants="CUT = 8",
    ),
    "rope_aware_mla": flow(PLAIN, RANK_MEAN, **LATENT),
    "rope_weighted_mla": flow(
        PLAIN + "\nself.weight = MaskSlice(start=0, end=self.NOPE, dim=2, alpha=self.A, "
        "beta=1 - self.A)\nself.mul = Multiply()",
        """
        short = self.q_mean(q, ctx=ctx)
        weighted = self.mul(short, self.weight(short, ctx=ctx), ctx=ctx)
        self.pick(self.gemm(weighted, cache["mid"], ctx=ctx), o, ctx=ctx)
        """,
        constants="NOPE = 512\nA = 0.25",
        **LATENT,
    ),
    "elementwise": flow(
        PLAIN + "\nself.a = Add_Mul(alpha=0.5, beta=2.0)\nself.s = Sigmoid(alpha=1.0, beta=-3.0)\n"
        "self.r = Relu()\nself.x = Abs()\nself.w = WhereGreater()\nself.plus = Add()",
        """
        q = self.q_mean(q, ctx=ctx)
        page = self.a(self.gemm(q, cache["mid"], ctx=ctx), ctx=ctx)
        gate = self.s(page, ctx=ctx)
        mask = self.w(self.r(page, ctx=ctx), self.x(gate, ctx=ctx), ctx=ctx)
        self.pick(self.plus(gate, mask, ctx=ctx), o, ctx=ctx)
        """,
    ),
    "reshape": flow(
        PLAIN + "\nself.halves = Reshape(-1, 2, 64)\nself.halved = Reshape(-1, 2, 64)\n"
        "self.both = Multiply()\nself.d = Sum(dim=2)\nself.best = Max(dim=1)",
        """
        short = self.halves(self.q_mean(q, ctx=ctx), ctx=ctx)
        mid = self.halved(cache["mid"], ctx=ctx)
        per_half = self.d(self.both(short, mid, ctx=ctx), ctx=ctx)
        self.pick(self.best(per_half, ctx=ctx), o, ctx=ctx)
        """,
    ),
    "union": flow(
        MEAN + "self.gemm = GeMM()\nself.best = Max(dim=2)\nself.mean = Mean(dim=2)\n"
        "self.one = TopK(k=13)\nself.two = TopK(k=8)\nself.join = Union()",
        """
        score = self.gemm(q, cache["mid"], ctx=ctx)
        table, lengths = self.one(self.best(score, ctx=ctx), ctx=ctx)
        table_2, lengths_2 = self.two(self.mean(score, ctx=ctx), ctx=ctx)
        self.join((table, lengths), (table_2, lengths_2), o, ctx=ctx)
        """,
    ),
}


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


SUBTLE = {
    "E304 no flow": ("x = 1\n", "no class here"),
    "E304 no create_cache": (
        SUBMISSIONS["block_sparse"].replace("create_cache", "make_cache"),
        "no method create_cache()",
    ),
    "E304 undeclared": (SUBMISSIONS["block_sparse"].replace('{"mid"', '{"other"'), "cache['mid']"),
    "E304 never ranks": (
        SUBMISSIONS["block_sparse"].replace("self.pick(score, o, ctx=ctx)", "pass"),
        "never ends",
    ),
    "E304 syntax": (SUBMISSIONS["block_sparse"].replace("def __init__", "def def"), "syntax"),
    "E305 loop": (
        flow(PLAIN, "for i in (1, 2): self.pick(q, o, ctx=ctx)"),
        "'For' in forward_indexer()",
    ),
    "E305 arithmetic": (flow(PLAIN, "self.pick(q * 2, o, ctx=ctx)"), "q * 2"),
    "E305 unknown constant": (
        SUBMISSIONS["lserve"].replace("k=self.PART", "k=open('/x').read()"),
        "open('/x').read()",
    ),
    "E306 unknown op": (
        flow(PLAIN + "\nself.conv = torch.nn.Linear(4, 4)", RANK_MEAN),
        "torch.nn.Linear",
    ),
    "E306 reused op": (
        flow(PLAIN, RANK_MEAN.replace("score =", "again = self.q_mean(q, ctx=ctx)\nscore =")),
        "'self.q_mean' is called twice",
    ),
    "E306 other side": (
        flow(PLAIN + "\nself.c_two = CMean(dim=1)", RANK_MEAN.replace("q_mean(q", "c_two(q")),
        "'Mean' of the cache side is called here",
    ),
    "E306 torch": (flow(PLAIN, RANK_MEAN.replace("self.q_mean(q", "torch.topk(q")), "torch.topk"),
    "E307 sub-pages": (SUBMISSIONS["lserve"].replace("PART = 4", "PART = 5"), "MaxInterleave"),
    "E307 shape": (SUBMISSIONS["lserve"].replace("block_size // 4", "block_size // 8"), "declared"),
    "E307 not a score": (flow(PLAIN, "self.pick(q, o, ctx=ctx)"), "head, dim"),
    "E307 keys with values": (
        flow(
            PLAIN + "\nself.c_v = CMean(dim=1)\nself.join = Multiply()",
            'self.join(cache["mid"], cache["val"], ctx=ctx)',
            cache='self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)\n'
            'self.c_v(cache["v"], cache["val"], loc=loc, ctx=ctx)',
            shapes='"mid": (1, head_dim), "val": (1, head_dim)',
        ),
        "Multiply",
    ),
    "E307 heads by heads": (
        flow(PLAIN, RANK_MEAN.replace('cache["mid"]', "q").replace("(short", "(q")),
        "twice",
    ),
    "E307 sum of a mask": (
        flow(
            PLAIN + "\nself.mask = MaskSlice(0, 8, 2)\nself.h = Sum(dim=1)",
            "self.h(self.mask(q, ctx=ctx), ctx=ctx)",
        ),
        "repeats along 'head'",
    ),
    "E309 running average": (
        flow(
            PLAIN + "\nself.old = Load()\nself.mix = Add(alpha=0.5)\nself.keep = Save()\n"
            "self.zero = CFill(alpha=0.0)",
            """
            now = self.gemm(self.q_mean(q, ctx=ctx), cache["mid"], ctx=ctx)
            run = self.mix(self.old(cache["run"], ctx=ctx), now, ctx=ctx)
            self.keep(run, cache["run"], ctx=ctx)
            self.pick(run, o, ctx=ctx)
            """,
            cache='self.c_mean(cache["k"], cache["mid"], loc=loc, ctx=ctx)\n'
            'self.zero(cache["run"], loc=loc, ctx=ctx)',
            shapes='"mid": (1, head_dim), "run": (1, 1)',
        ),
        "Save",
    ),
    "E309 never written": (SUBMISSIONS["quest"].replace('cache["max"], ctx', 'cache["x"], ctx'),
                           "cache['x']"),
    "E309 keys per token": (
        SUBMISSIONS["block_sparse"].replace('short, cache["mid"]', 'short, cache["k"]'),
        "cache['k']",
    ),
    "E309 after softmax": (
        SUBMISSIONS["gqa_softmax"].replace("self.soft(", "soft = self.soft("),
        "'score' was overwritten",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SUBTLE)
def test_refusals_are_located(case: str) -> None:
    source, mention = SUBTLE[case]
    with pytest.raises(ProgramError) as caught:
        import_vflow(source, filename="sub.py")
    found = caught.value.diagnostics[0]
    assert found.code == case.split(maxsplit=1)[0]
    assert mention in caught.value.render()
    if "no flow" not in case:
        assert found.span is not None
        place = f"sub.py:{found.span.line}:{found.span.col}: error[{found.code}]"
        assert caught.value.render().startswith(place)


def test_refusal_points_at_the_line() -> None:
    source, _ = SUBTLE["E309 running average"]
    with pytest.raises(ProgramError) as caught:
        import_vflow(source)
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert source.splitlines()[span.line - 1].strip().startswith("self.keep(")


@pytest.mark.parametrize(
    "config",
    [
        {"vortex_block_size": 24},
        {"vortex_topk_ratio": 2},
        {"vortex_layers_skip": [3]},
        {"vortex_schedule_policy": "return 3;"},
        {"vortex_topk_val": "many"},
        {"vortex_dtype": "float8"},
    ],
)
def test_configurations_without_an_equivalent(config: dict[str, object]) -> None:
    with pytest.raises(ProgramError) as caught:
        import_vflow(SUBMISSIONS["quest"], config=config)
    assert caught.value.code == "E308"


def test_nothing_is_executed(tmp_path: Path) -> None:
    import_vflow(f"open({str(tmp_path / 'made')!r}, 'w')\n" + SUBMISSIONS["quest"])
    assert not os.listdir(tmp_path)
