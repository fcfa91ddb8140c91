"""Full attention for a decode step: ours, or the fastest other that loads and agrees."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.device.trials import Attend, Rows, tried
from vortex.triton.attend import Cache
from vortex.triton.choose import Pool, Setting

HEADS_OF_FLASH_MLA = 64
_AGREES = 0.01


def flash_attention_3(pool: Pool, setting: Setting) -> Attend:
    """FlashAttention-3 of sgl_kernel over pages."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

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


@dataclass(frozen=True, slots=True)
class Other:
    """An implementation that is not ours.

    Attributes:
        package: that it comes from; where it is not installed, nothing is tried or said.
        fits: whether it is made for a cache at all.
    """

    package: str
    make: Callable[[Pool, Setting], Attend]
    fits: Callable[[Cache], bool]


def _grouped(cache: Cache) -> bool:
    return not cache.latent and cache.k.dtype == torch.bfloat16


def _latent(cache: Cache) -> bool:
    return cache.latent and cache.page_size == 64 and cache.k.dtype == torch.bfloat16


OTHERS: dict[str, Other] = {
    "FlashAttention-3": Other("sgl_kernel", flash_attention_3, _grouped),
    "FlashMLA": Other("sgl_kernel", flash_mla, _latent),
}


def loaded(
    pool: Pool, setting: Setting, q: Tensor, ours: Tensor, *, folder: Path
) -> tuple[dict[str, Attend], dict[str, str]]:
    """Other implementations that run here and agree with ours within 1%, and why others do not.

    A library may end the process from C++, which nothing catches: each is tried in a process of
    its own first.

    Args:
        q: ``[row, head, dim]`` of layer 0.
        ours: ``[row, head, vdim]``, what our kernel makes of it.
        folder: where the outcomes of trials are kept.
    """
    found: dict[str, Attend] = {}
    left_out: dict[str, str] = {}
    for name, other in OTHERS.items():
        if not other.fits(pool.caches[0]) or importlib.util.find_spec(other.package) is None:
            continue
        rows = Rows.of(pool, setting, heads=q.shape[1])
        why = tried(other.make, rows, package=other.package, folder=folder)
        if not why:
            try:
                run = other.make(pool, setting)
                gap = float((run(0, q).float() - ours.float()).norm() / ours.float().norm())
                why = "" if gap < _AGREES else f"its outputs differ from ours by {gap:.3f}"
            except (ImportError, OSError, NotImplementedError, RuntimeError, AttributeError) as e:
                why = f"{type(e).__name__}: {e}"
        if why:
            left_out[name] = why
        else:
            found[name] = run
    return found, left_out
