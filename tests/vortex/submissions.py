"""Submissions in the published style, put together from their parts."""

from __future__ import annotations

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
