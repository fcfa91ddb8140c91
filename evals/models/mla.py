"""A model with grouped queries in the form of multi-head latent attention, exactly.

The latent is the values of all KV heads, the shared rotary part their rotated keys; an absorbed
query is zero but for its own KV head's rotary part, and an output is its own head's share of the
latent (after DeepSeek-V2, arXiv:2405.04434, section 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evals.models.transformer import Attend, ModelSpec


def latent_kv(kv: Tensor) -> tuple[Tensor, Tensor]:
    """A cache in MLA form.

    Args:
        kv: ``[layer, 2, kv_head, token, dim]``.

    Returns:
        Keys ``[layer, 1, token, 2 rank]`` (latent, then rotary part) and values ``[layer, 1, token,
        rank]``, rank = KV heads times dim.
    """
    k, v = (x.transpose(1, 2).flatten(2)[:, None] for x in (kv[:, 0], kv[:, 1]))
    return torch.cat([v, k], -1), v


def rotary(spec: ModelSpec) -> tuple[int, int]:
    """First column and number of the rotary columns of a key in MLA form."""
    rank = spec.kv_heads * spec.head_dim
    return rank, rank


class MlaForm:
    """Hands a model's attention to an algorithm that sees it as MLA; an Attend of the model.

    Args:
        inner: gets one KV head: ``q [row, step, head, 2 rank]``, ``k [row, step, 1, 2 rank]`` and
            ``v [row, step, 1, rank]``.
    """

    def __init__(self, inner: Attend, spec: ModelSpec) -> None:
        self.inner, self.spec = inner, spec

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        spec, (rows, steps) = self.spec, q.shape[:2]
        groups, dim = spec.heads // spec.kv_heads, spec.head_dim
        rank = spec.kv_heads * dim
        latent = v.reshape(rows, steps, 1, rank)
        key = torch.cat([latent, k.reshape(rows, steps, 1, rank)], -1)
        own = torch.arange(spec.heads) // groups
        blocks = torch.zeros(rows, steps, spec.heads, 2 * spec.kv_heads, dim)
        blocks[:, :, torch.arange(spec.heads), spec.kv_heads + own] = q
        out = self.inner(layer, blocks.flatten(3), key, latent)
        shares = out.view(rows, steps, spec.heads, spec.kv_heads, dim)
        return shares[:, :, torch.arange(spec.heads), own]
