"""A decoder of a target's geometry with random weights: what a decode step costs beside attention.

Time does not depend on the values of weights. Blocks are those of the Llama and Qwen kind: RMS
norms, rotary embedding, a gated MLP; queries and keys are normed as in Qwen3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evals.device.blocks import add_norm, norm_rope, silu_mul
from vortex.geometry import Geometry

EPSILON = 1e-6


class StepAttend(Protocol):
    """Attention of one decode step; see :class:`vortex.triton.decode.Decode`."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """Append and attend in one layer."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Weights of a layer, bf16: ``qkv [q + k + v, hidden]``, ``gate_up [2 * width, hidden]``."""

    attn_norm: Tensor
    qkv: Tensor
    q_norm: Tensor
    k_norm: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def fits(geometry: Geometry) -> bool:
    """Whether a decoder of this geometry is built: no experts, grouped queries."""
    return geometry.kind == "gqa" and geometry.experts is None


class Decoder:
    """A decode step over every layer; allocates its buffers once.

    Args:
        lengths: int32 ``[row]`` on the device, shared with the attention's pool.
        longest: no sequence gets longer.
    """

    def __init__(self, geometry: Geometry, lengths: Tensor, longest: int, *, seed: int = 0) -> None:
        assert fits(geometry), geometry.name
        self.geometry, self.lengths = geometry, lengths
        g = torch.Generator(device=lengths.device).manual_seed(seed)
        hidden, width, dim = geometry.hidden, geometry.intermediate, geometry.head_dim
        heads = geometry.heads + 2 * geometry.kv_heads

        def drawn(*shape: int) -> Tensor:
            made = torch.empty(*shape, device=lengths.device, dtype=torch.bfloat16)
            return made.normal_(std=shape[-1] ** -0.5, generator=g)

        def ones(size: int) -> Tensor:
            return torch.ones(size, device=lengths.device, dtype=torch.bfloat16)

        self.blocks = [
            Block(
                ones(hidden), drawn(heads * dim, hidden), ones(dim), ones(dim),
                drawn(hidden, geometry.heads * dim), ones(hidden), drawn(2 * width, hidden),
                drawn(hidden, width),
            )
            for _ in range(geometry.layers)
        ]  # fmt: skip
        self.embedding, self.norm = drawn(geometry.vocab, hidden), ones(hidden)
        angles = torch.outer(
            torch.arange(longest, device=lengths.device).float(),
            10000.0 ** -(torch.arange(0, dim, 2, device=lengths.device).float() / dim),
        )
        self.tables = angles.cos(), angles.sin()
        rows = len(lengths)
        inner = geometry.heads * dim
        self.buffers = [
            torch.empty(rows, n, device=lengths.device, dtype=torch.bfloat16)
            for n in (hidden, heads * dim, inner, hidden, 2 * width, width, geometry.vocab)
        ]
        self.residual = torch.empty_like(self.buffers[0])

    def step(self, tokens: Tensor, attend: StepAttend) -> Tensor:
        """Logits of the next tokens, bf16 ``[row, vocab]``: a buffer that the next step reuses.

        Args:
            tokens: int64 ``[row]``.
        """
        geometry, rows, dim = self.geometry, len(tokens), self.geometry.head_dim
        normed, qkv, heads_out, mixed, gate_up, inner, logits = self.buffers
        self.residual.copy_(self.embedding[tokens])
        mixed.zero_()
        for layer, block in enumerate(self.blocks):
            add_norm(mixed, self.residual, block.attn_norm, normed, EPSILON)
            torch.mm(normed, block.qkv.T, out=qkv)
            norm_rope(
                qkv, block.q_norm, block.k_norm, self.tables, self.lengths,
                heads=geometry.heads, kv_heads=geometry.kv_heads, epsilon=EPSILON,
            )  # fmt: skip
            split = [geometry.heads, geometry.kv_heads, geometry.kv_heads]
            q, k, v = torch.split(qkv.view(rows, -1, dim), split, 1)
            attend(layer, q, k, v, heads_out.view(rows, geometry.heads, dim))
            torch.mm(heads_out, block.out.T, out=mixed)
            add_norm(mixed, self.residual, block.mlp_norm, normed, EPSILON)
            torch.mm(normed, block.gate_up.T, out=gate_up)
            silu_mul(gate_up, inner)
            torch.mm(inner, block.down.T, out=mixed)
        add_norm(mixed, self.residual, self.norm, normed, EPSILON)
        return torch.mm(normed, self.embedding.T, out=logits)
