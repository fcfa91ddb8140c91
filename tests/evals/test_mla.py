"""The packaged model in MLA form is the same model, and programs route on its latent."""

from __future__ import annotations

import torch

from evals.models.mla import MlaForm, latent_kv, rotary
from evals.models.transformer import Transformer
from evals.parity import Shape
from search_spaces.block_topk import controls, library
from vortex import compile_text
from vortex.reference import selected_pages
from vortex.suffix import SuffixAttend, SuffixKV

FULL = next(c.text for c in controls() if c.name == "full")
TEXTS = {p.name: p.text for p in library()}
NOPE = TEXTS["quest"].replace("k.min", "k.nope.min").replace("k.max", "k.nope.max")
NOPE = NOPE.replace("q *", "q.nope *")


def cached(model: Transformer, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values in both forms need no prefill: the model's layers are the same."""
    spec = model.spec
    g = torch.Generator().manual_seed(0)
    kv = torch.randn(spec.layers, 2, spec.kv_heads, tokens, spec.head_dim, generator=g)
    return kv.to(torch.bfloat16), torch.randint(0, spec.vocab, (2, 6), generator=g)


def logits(model: Transformer, text: str, tokens: int, *, mla: bool) -> torch.Tensor:
    kv, new = cached(model, tokens)
    spec = model.spec
    candidate = compile_text(text, {} if "all()" in text else {"budget": 512}, reserved=True)
    inner = SuffixAttend(
        candidate, latent_kv(kv) if mla else kv, scale=spec.scale, workload_context=1024,
        rope=rotary(spec) if mla else None,
    )  # fmt: skip
    positions = tokens + torch.arange(new.shape[1]).expand(new.shape)
    return model.forward(new, positions, MlaForm(inner, spec) if mla else inner)


def test_full_attention_agrees_between_the_two_forms(model: Transformer) -> None:
    one, two = (logits(model, FULL, 300, mla=mla) for mla in (False, True))
    assert float((one - two).abs().max()) < 1e-3


def test_the_same_program_runs_on_both_forms(model: Transformer) -> None:
    full = logits(model, FULL, 600, mla=True)
    for mla in (False, True):
        found = logits(model, TEXTS["quest"], 600, mla=mla)
        assert bool(torch.isfinite(found).all())
        assert float((found - full).abs().max()) > 1e-3  # it left pages out
    assert bool(torch.isfinite(logits(model, NOPE, 600, mla=True)).all())


def test_programs_choose_the_reference_s_pages_on_a_latent() -> None:
    shape, tokens, rank = Shape(1, 6, 40), 300, 24
    rope = (rank, shape.dim - rank)
    g = torch.Generator().manual_seed(3)
    k = torch.randn(1, tokens, shape.dim, generator=g).to(torch.bfloat16).float()
    new = torch.randn(1, 2, 3, shape.dim, generator=g).to(torch.bfloat16).float()
    q = torch.randn(1, 2, 3, shape.group, shape.dim, generator=g)
    kv = SuffixKV(k, k[..., :rank], new, new[..., :rank])
    for text in (TEXTS["quest"], TEXTS["value_energy"], TEXTS["twilight"], NOPE):
        candidate = compile_text(text, {"budget": 1024})
        backend = SuffixAttend(
            candidate, (k[None], k[None, ..., :rank]), scale=0.2, workload_context=2048, rope=rope
        )
        keep = backend.pages(0, q, kv)
        for row in range(2):
            keys = torch.cat([k, new[:, row, :1]], 1)
            (want,) = selected_pages(
                candidate, q[:, row, 0], keys, keys[..., :rank], scale=0.2, context=tokens,
                workload_context=2048, rope=rope,
            )  # fmt: skip
            assert set(keep[0, row, 0].nonzero()[:, 0].tolist()) == want
