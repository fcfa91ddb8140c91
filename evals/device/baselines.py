"""Full attention for a decode step: ours, or the fastest other that loads and agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vortex.triton.choose import Pool, Setting

Attend = Callable[[int, Tensor], Tensor]
HEADS_OF_FLASH_MLA = 64


def flash_attention_3(pool: Pool, setting: Setting) -> Attend:
    """FlashAttention-3 of sgl_kernel over pages."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

    if pool.caches[0].latent or pool.caches[0].k.dtype != torch.bfloat16:
        raise NotImplementedError("grouped queries in bf16 only")

    def run(layer: int, q: Tensor) -> Tensor:
        cache = pool.cache(layer)
        out: Any = flash_attn_with_kvcache(
            q=q[:, None], k_cache=cache.k.transpose(1, 2), v_cache=cache.v.transpose(1, 2),
            page_table=pool.table, cache_seqlens=pool.lengths, softmax_scale=setting.scale,
            causal=True,
        )  # fmt: skip
        found: Tensor = (out[0] if isinstance(out, tuple) else out)[:, 0]
        return found

    return run


def flash_mla(pool: Pool, setting: Setting) -> Attend:
    """FlashMLA of sgl_kernel over pages of 64 tokens."""
    from sgl_kernel.flash_mla import flash_mla_with_kvcache, get_mla_metadata

    cache = pool.caches[0]
    if not cache.latent or cache.page_size != 64 or cache.k.dtype != torch.bfloat16:
        raise NotImplementedError("pages of 64 tokens of a bf16 latent only")
    metadata, splits = get_mla_metadata(pool.lengths, HEADS_OF_FLASH_MLA, 1)

    def run(layer: int, q: Tensor) -> Tensor:
        # Its tiles hold 64 heads; a model with fewer pads.
        wide = q.new_zeros(len(q), 1, HEADS_OF_FLASH_MLA, q.shape[2])
        wide[:, 0, : q.shape[1]] = q
        out: Tensor = flash_mla_with_kvcache(
            wide, pool.cache(layer).k.transpose(1, 2), pool.table, pool.lengths,
            setting.shapes.vdim, metadata, splits, softmax_scale=setting.scale, causal=True,
        )[0]  # fmt: skip
        return out[:, 0, : q.shape[1]]

    return run


OTHERS: dict[str, Callable[[Pool, Setting], Attend]] = {
    "FlashAttention-3": flash_attention_3, "FlashMLA": flash_mla,
}  # fmt: skip


def loaded(pool: Pool, setting: Setting, q: Tensor, ours: Tensor) -> dict[str, Attend]:
    """Other implementations that run here and agree with ours within 1%.

    Args:
        q: ``[row, head, dim]`` of layer 0.
        ours: ``[row, head, vdim]``, what our kernel makes of it.
    """
    found = {}
    for name, make in OTHERS.items():
        try:
            run = make(pool, setting)
            gap = float((run(0, q).float() - ours.float()).norm() / ours.float().norm())
        except (ImportError, OSError, NotImplementedError, RuntimeError, AttributeError):
            continue
        if gap < 0.01:
            found[name] = run
    return found
