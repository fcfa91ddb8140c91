"""Paged decoding through fragmented tables agrees with the reference, step after step."""

from __future__ import annotations

import pytest
import torch

from search_spaces.block_topk import SeedFile, controls, seeds
from vortex import compile_text
from vortex.paged import ContiguousDecode, PagedDecode, PagedPool
from vortex.reference import Decoder, attend
from vortex.suffix import SuffixAttend

PROGRAMS = [p for p in [*seeds(), *controls()] if p.name != "oracle"]
FULL = next(p.text for p in controls() if p.name == "full")
TWO_RANKINGS = """
import vortex as vx
class Two(vx.Algorithm):
    page_size = 16
    budget = vx.integer(512, 8192, default=4096)
    def summarize(self, k, v):
        return vx.Summary(a=k.mean("token"), b=k.max("token"))
    def score(self, q, page):
        return vx.Scores(
            near=vx.dot(q, page.a, "dim").max("head"), far=vx.dot(q, page.b, "dim").max("head")
        )
    def select(self, scores):
        return vx.top_k(scores.near, tokens=self.budget) | vx.top_k(scores.far, tokens=self.budget)
"""


REUSE = TWO_RANKINGS.replace(
    "    page_size = 16", "    page_size = 16\n    reuse = vx.reuse(layers=2, steps=3)"
)
SHARED = TWO_RANKINGS.replace(
    "    page_size = 16", '    page_size = 16\n    per_head = vx.shared("max")'
)
STATE = """
import vortex as vx
class Heat(vx.Algorithm):
    page_size = 16
    budget = vx.integer(512, 8192, default=4096)
    heat = vx.state(init=1.0)
    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))
    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head") + 4 * page.heat
    def update(self, page, mass):
        return vx.State(heat=0.5 * page.heat + mass)
    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.recent(1)
"""
MADE = {"two": TWO_RANKINGS, "reuse": REUSE, "shared": SHARED, "state": STATE}


@pytest.mark.parametrize(
    "program",
    [*PROGRAMS, *(SeedFile(name, text, control=False) for name, text in MADE.items())],
    ids=lambda p: p.name,
)
@pytest.mark.parametrize("context", [3, 64, 170])
def test_decode_agrees_with_the_reference(program: SeedFile, context: int) -> None:
    candidate = compile_text(program.text, reserved=program.control)
    g = torch.Generator().manual_seed(7)
    layers, kv_heads, group, dim, rows, steps = 2, 2, 3, 8, 2, 18
    kv = torch.randn(rows, layers, 2, kv_heads, context, dim, generator=g).to(torch.bfloat16)
    pool = PagedPool(
        layers=layers, kv_heads=kv_heads, dim=dim, page_size=candidate.page_size,
        sequences=rows, max_tokens=context + steps, shuffle=3,
    )  # fmt: skip
    for row in range(rows):
        pool.fill(row, kv[row])
    decode = PagedDecode(candidate, pool, scale=0.3, context=context, workload_context=1024)
    decode.summarise()
    history = kv.float()
    decoders = [
        Decoder(candidate, scale=0.3, context=context, workload_context=1024, layers=layers)
        for _ in range(rows)
    ]
    for _ in range(steps):
        new = torch.randn(layers, 2, rows, 1, kv_heads, dim, generator=g).to(torch.bfloat16).float()
        q = torch.randn(layers, rows, 1, kv_heads * group, dim, generator=g)
        history = torch.cat([history, new.permute(2, 0, 1, 4, 3, 5)], 4)
        for layer in range(layers):
            out = decode(layer, q[layer], new[layer, 0], new[layer, 1])
            for row in range(rows):
                k, v = history[row, layer]
                heads = q[layer, row, 0].view(kv_heads, group, dim)
                chosen = decoders[row].pages(layer, heads, k, v)
                for head, pages in enumerate(chosen):
                    want = attend(
                        heads[head], k[head], v[head], pages, page_size=candidate.page_size,
                        scale=0.3,
                    )  # fmt: skip
                    got = out[row, 0, head * group : (head + 1) * group]
                    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
        decode.advance()
        for decoder in decoders:
            decoder.advance()


def test_contiguous_decode_is_full_attention() -> None:
    g = torch.Generator().manual_seed(1)
    kv = torch.randn(1, 2, 2, 2, 40, 8, generator=g).to(torch.bfloat16).float()
    baseline = ContiguousDecode(kv.clone(), 30, scale=0.3)
    q, k, v = (torch.randn(2, 1, h, 8, generator=g) for h in (6, 2, 2))
    out = baseline(0, q, k, v)
    new_k, new_v = (x.to(torch.bfloat16).float() for x in (k, v))
    for row in range(2):
        for head in range(2):
            keys = torch.cat([kv[0, 0, row, head, :30], new_k[row, :, head]])
            values = torch.cat([kv[0, 1, row, head, :30], new_v[row, :, head]])
            heads = q[row, 0, head * 3 : head * 3 + 3]
            want = attend(heads, keys, values, {0, 1, 2}, page_size=16, scale=0.3)
            torch.testing.assert_close(
                out[row, 0, head * 3 : head * 3 + 3], want, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("halved", [False, True])
def test_decode_on_a_latent_agrees_with_teacher_forcing(halved: bool) -> None:
    text = next(p.text for p in PROGRAMS if p.name == "quest")
    if halved:
        text = text.replace("k.m", "k.nope.m").replace("q *", "q.nope *")
    candidate = compile_text(text, {"budget": 512})
    g = torch.Generator().manual_seed(9)
    context, dim, vdim, heads, rows, steps = 170, 12, 8, 5, 2, 18
    kv = torch.randn(1, 1, 1, context, dim, generator=g).to(torch.bfloat16)
    pool = PagedPool(
        layers=1, kv_heads=1, dim=dim, page_size=candidate.page_size, sequences=rows,
        max_tokens=context + steps, shuffle=3, latent=vdim,
    )  # fmt: skip
    for row in range(rows):
        pool.fill(row, kv)
    rope = (vdim, dim - vdim)
    decode = PagedDecode(candidate, pool, scale=0.3, context=context, workload_context=1024,
                         rope=rope)  # fmt: skip
    decode.summarise()
    room = torch.zeros(1, 1, rows, 1, context + steps, dim)
    room[..., :context, :] = kv[:, :, None].float()
    full = ContiguousDecode(room, context, scale=0.3, latent=vdim)
    k = torch.randn(rows, steps, 1, dim, generator=g)
    q = torch.randn(rows, steps, heads, dim, generator=g)
    wanted = {}
    for name, chosen in (("sparse", candidate), ("full", compile_text(FULL, reserved=True))):
        suffix = SuffixAttend(chosen, (kv[:, 0], kv[:, 0, ..., :vdim]), scale=0.3,
                              workload_context=1024, rope=rope)  # fmt: skip
        wanted[name] = suffix(0, q, k, k[..., :vdim])
    assert float((wanted["full"] - wanted["sparse"]).abs().max()) > 1e-2
    for at in range(steps):
        one = slice(at, at + 1)
        for name, decoder in (("sparse", decode), ("full", full)):
            out = decoder(0, q[:, one], k[:, one], k[:, one, :, :vdim])
            torch.testing.assert_close(out, wanted[name][:, one], atol=1e-5, rtol=1e-4)
            decoder.advance()
