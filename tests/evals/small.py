"""A small random model with grouped queries, for tests of what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from evals.models.transformer import Layer, ModelSpec, Tokenizer, Transformer, Weights

SPEC = ModelSpec(
    name="small", layers=2, hidden=32, heads=6, kv_heads=3, head_dim=8, vocab=96, max_context=2048,
    rope_theta=100.0, rope_scaling=None, norm_eps=1e-5, digest="0" * 64, source="random",
)  # fmt: skip


class NoText:
    """A tokenizer for tests without text."""

    def encode(self, text: str) -> list[int]:
        """Nothing."""
        return []

    def decode(self, ids: object) -> str:
        """Nothing."""
        return ""


class Bytes:
    """A tokenizer whose tokens are bytes, for tests of what is made of text."""

    vocab = 256

    def encode(self, text: str) -> list[int]:
        """One token a byte."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """Bytes cut in the middle of a character are shown as one that is missing."""
        return bytes(ids).decode(errors="replace")


def small_model(spec: ModelSpec = SPEC, tokenizer: Tokenizer | None = None) -> Transformer:
    g = torch.Generator().manual_seed(11)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=g) * sizes[-1] ** -0.5

    def layer() -> Layer:
        wide, heads = spec.hidden, spec.heads + 2 * spec.kv_heads
        one = torch.ones(wide)
        return Layer(
            attn_norm=one, qkv=2 * draw(heads * spec.head_dim, wide), qkv_bias=None, q_norm=None,
            k_norm=None, out=draw(wide, spec.heads * spec.head_dim), mlp_norm=one,
            gate_up=draw(2 * wide, wide), down=draw(wide, wide),
        )  # fmt: skip

    embedding = draw(spec.vocab, spec.hidden)
    layers = tuple(layer() for _ in range(spec.layers))
    weights = Weights(embedding, layers, torch.ones(spec.hidden), embedding)
    return Transformer(spec, weights, tokenizer or NoText())
