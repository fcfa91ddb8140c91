"""Full attention for a decode step: ours, or the fastest other that loads and agrees."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.device.trials import Attend, Rows, shortened, tried
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
        fits: whether it is made for a cache that is latent or not, of a type, of pages of so many
            tokens.
    """

    package: str
    make: Callable[[Pool, Setting], Attend]
    fits: Callable[[bool, torch.dtype, int], bool]


def _grouped(latent: bool, kind: torch.dtype, page_size: int) -> bool:
    return not latent and kind == torch.bfloat16


def _latent(latent: bool, kind: torch.dtype, page_size: int) -> bool:
    return latent and kind == torch.bfloat16 and page_size == 64


OTHERS: dict[str, Other] = {
    "FlashAttention-3": Other("sgl_kernel", flash_attention_3, _grouped),
    "FlashMLA": Other("sgl_kernel", flash_mla, _latent),
}


def unusable(rows: Rows, folder: Path) -> dict[str, str]:
    """Why other implementations cannot be used for a target here; without those that can.

    A library may end the process from C++, which nothing catches: each is tried in a process of
    its own, once a machine. That process needs the GPU: call this before a worker is confined.

    Args:
        folder: where outcomes are kept.
    """
    found = {}
    for name, other in OTHERS.items():
        kind = getattr(torch, rows.dtype)
        sizes = tuple(p for p in rows.page_sizes if other.fits(rows.latent, kind, p))
        if not sizes or importlib.util.find_spec(other.package) is None:
            continue
        why = tried(other.make, replace(rows, page_sizes=sizes), package=other.package,
                    folder=folder)  # fmt: skip
        if why:
            found[name] = why
    return found


def loaded(
    pool: Pool, setting: Setting, q: Tensor, ours: Tensor, *, left_out: Mapping[str, str]
) -> tuple[dict[str, Attend], dict[str, str]]:
    """Other implementations that run here and agree with ours within 1%, and why others do not.

    Args:
        q: ``[row, head, dim]`` of layer 0.
        ours: ``[row, head, vdim]``, what our kernel makes of it.
        left_out: those that are not to be touched, and why.
    """
    found: dict[str, Attend] = {}
    reasons: dict[str, str] = {}
    cache = pool.caches[0]
    for name, other in OTHERS.items():
        if not other.fits(cache.latent, cache.k.dtype, cache.page_size):
            continue
        why = left_out.get(name, "")
        if not why:
            try:
                run = other.make(pool, setting)
                gap = float((run(0, q).float() - ours.float()).norm() / ours.float().norm())
                why = "" if gap < _AGREES else f"its outputs differ from ours by {gap:.3f}"
            except ModuleNotFoundError:
                continue  # not installed: nothing to say
            except (ImportError, OSError, NotImplementedError, RuntimeError, AttributeError) as e:
                why = shortened(f"{type(e).__name__}: {e}")
        if why:
            reasons[name] = why
        else:
            found[name] = run
    return found, reasons
