"""What a decoder does between its matrix products, against the plain form beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from evals.device.blocks import (  # noqa: E402
    add_norm,
    add_norm_plain,
    norm_rope,
    norm_rope_plain,
    silu_mul,
    silu_mul_plain,
)
from evals.device.decoder import Decoder  # noqa: E402
from vortex.geometry import from_values  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
EPSILON = 1e-6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(DEVICE, torch.bfloat16)


def test_the_residual_grows_and_is_normed() -> None:
    x, residual, weight = drawn(3, 72), drawn(3, 72, seed=1), drawn(72, seed=2)
    wanted, total = add_norm_plain(x, residual, weight, EPSILON), residual.float() + x.float()
    out = torch.full_like(x, float("nan"))
    add_norm(x, residual, weight, out, EPSILON)
    torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.02)
    torch.testing.assert_close(residual.float(), total, atol=0.02, rtol=0.01)


def test_queries_and_keys_are_normed_and_rotated_and_values_left() -> None:
    heads, kv_heads, dim = 3, 1, 32
    qkv, lengths = drawn(2, (heads + 2 * kv_heads) * dim), torch.tensor([1, 9], device=DEVICE)
    weights = drawn(dim, seed=1), drawn(dim, seed=2)
    angles = torch.randn(16, dim // 2, device=DEVICE)
    tables = angles.cos(), angles.sin()
    q, k, v = torch.split(qkv.clone().view(2, -1, dim), [heads, kv_heads, kv_heads], 1)
    norm_rope(
        qkv, *weights, tables, lengths.to(torch.int32), heads=heads, kv_heads=kv_heads,
        epsilon=EPSILON,
    )  # fmt: skip
    got = torch.split(qkv.view(2, -1, dim), [heads, kv_heads, kv_heads], 1)
    for mine, x, weight in zip(got[:2], (q, k), weights, strict=True):
        wanted = norm_rope_plain(x, weight, tables, lengths, EPSILON)
        torch.testing.assert_close(mine.float(), wanted, atol=0.03, rtol=0.02)
    assert torch.equal(got[2], v)


def test_the_gate_opens() -> None:
    gate_up = drawn(2, 2 * 1500)
    out = torch.full((2, 1500), float("nan"), device=DEVICE, dtype=torch.bfloat16)
    silu_mul(gate_up, out)
    torch.testing.assert_close(out.float(), silu_mul_plain(gate_up), atol=0.03, rtol=0.02)


def test_a_step_of_the_decoder_is_that_of_its_plain_form() -> None:
    geometry = from_values(
        {
            "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
            "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "vocab_size": 50, "max_position_embeddings": 64,
        },
        name="tiny", source="a test", where="a test",
    )  # fmt: skip
    lengths = torch.tensor([3, 5], dtype=torch.int32, device=DEVICE)
    model, tokens = Decoder(geometry, lengths, 8), torch.tensor([1, 2], device=DEVICE)

    def attend(
        layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor
    ) -> None:
        out.copy_(q * (layer + 1) + k.repeat_interleave(2, 1) - v.repeat_interleave(2, 1))

    got = model.step(tokens, attend).float()
    x = model.embedding[tokens].float()
    for layer, b in enumerate(model.blocks):
        nothing = torch.zeros_like(x)
        qkv = add_norm_plain(nothing, x, b.attn_norm, EPSILON) @ b.qkv.float().T
        q, k, v = torch.split(qkv.view(2, 8, 16), [4, 2, 2], 1)
        q = norm_rope_plain(q, b.q_norm, model.tables, lengths, EPSILON)
        k = norm_rope_plain(k, b.k_norm, model.tables, lengths, EPSILON)
        out = torch.empty_like(q)
        attend(layer, q, k, v, out)
        x = x + out.flatten(1) @ b.out.float().T
        mid = add_norm_plain(nothing, x, b.mlp_norm, EPSILON) @ b.gate_up.float().T
        x = x + silu_mul_plain(mid) @ b.down.float().T
    wanted = add_norm_plain(torch.zeros_like(x), x, model.norm, EPSILON) @ model.embedding.float().T
    assert float((got - wanted).norm() / wanted.norm()) < 0.03
