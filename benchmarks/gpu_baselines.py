"""Full attention by whatever else can be loaded: one function per implementation.

Each takes a filled cache of :mod:`benchmarks.gpu_kernels` and returns a function of the layer that
attends to everything and writes nothing of ours; it raises if it cannot run there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.gpu_kernels import Bench

Run = Callable[[int], Tensor]


def torch_sdpa(bench: Bench) -> Run:
    """torch's own, over a contiguous copy (it reads no pages)."""
    case = bench.case
    copies = []
    for cache, _, q, _ in bench.layers:
        k, v = (
            x[bench.table.long()].transpose(1, 2).reshape(
                case.batch, case.kv_heads, case.context, -1
            )
            for x in (cache.k, cache.v)
        )  # fmt: skip
        copies.append((q[:, :, None], k.contiguous(), v.contiguous()))

    def run(layer: int) -> Tensor:
        q, k, v = copies[layer]
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, scale=case.scale, enable_gqa=True
        )
        return out[:, :, 0]

    return run


def flash_attention_3(bench: Bench) -> Run:
    """FlashAttention-3 of sgl_kernel over pages."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

    case = bench.case
    if case.latent:
        raise NotImplementedError("no kernel for these widths")

    def run(layer: int) -> Tensor:
        cache, _, q, _ = bench.layers[layer]
        out: Any = flash_attn_with_kvcache(
            q=q[:, None], k_cache=cache.k.transpose(1, 2), v_cache=cache.v.transpose(1, 2),
            page_table=bench.table, cache_seqlens=bench.lengths, softmax_scale=case.scale,
            causal=True,
        )  # fmt: skip
        return (out[0] if isinstance(out, tuple) else out)[:, 0]

    return run


def flashinfer(bench: Bench) -> Run:
    """FlashInfer's batch decode over pages (HND)."""
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    case = bench.case
    if case.latent:
        raise NotImplementedError("see flash_mla")
    space = torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")
    wrapper = BatchDecodeWithPagedKVCacheWrapper(space, "HND", use_tensor_cores=True)
    width = bench.table.shape[1]
    ends = torch.arange(case.batch + 1, dtype=torch.int32, device="cuda") * width
    last = torch.full((case.batch,), (case.context - 1) % case.page + 1, dtype=torch.int32,
                      device="cuda")  # fmt: skip
    wrapper.plan(
        ends, bench.table.flatten(), last, case.kv_heads * case.group, case.kv_heads, case.dim,
        case.page, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16, sm_scale=case.scale,
    )  # fmt: skip

    def run(layer: int) -> Tensor:
        cache, _, q, _ = bench.layers[layer]
        out: Tensor = wrapper.run(q, (cache.k, cache.v))
        return out

    return run


def flash_mla(bench: Bench) -> Run:
    """FlashMLA of sgl_kernel over pages of 64 tokens."""
    from sgl_kernel.flash_mla import flash_mla_with_kvcache, get_mla_metadata

    case = bench.case
    if not case.latent or case.page != 64:
        raise NotImplementedError("pages of 64 tokens of a latent only")
    heads = 64  # its tiles hold 64 heads; fewer are padded by the caller
    metadata, splits = get_mla_metadata(bench.lengths, heads, 1)
    padded = []
    for _, _, q, _ in bench.layers:
        wide = q.new_zeros(case.batch, 1, heads, case.dim)
        wide[:, 0, : q.shape[1]] = q
        padded.append(wide)

    def run(layer: int) -> Tensor:
        cache = bench.layers[layer][0]
        out, _ = flash_mla_with_kvcache(
            padded[layer], cache.k.transpose(1, 2), bench.table, bench.lengths, case.vdim,
            metadata, splits, softmax_scale=case.scale, causal=True,
        )  # fmt: skip
        return out[:, 0, : case.group]

    return run


BASELINES: dict[str, Callable[[Bench], Run]] = {
    "torch SDPA": torch_sdpa, "FlashAttention-3": flash_attention_3, "FlashInfer": flashinfer,
    "FlashMLA": flash_mla,
}  # fmt: skip
