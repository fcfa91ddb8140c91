"""Runs a program's serving kernels on random pools of this machine, against the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.reference import attend as reference_attend
from vortex.serving.equality import Agreement, Choice, compare

_TOLERANCE = 0.02  # of outputs near 1, in bf16


def check_kernels(
    candidate: Candidate, geometry: Geometry, device: torch.device, *, longest: int, kv_heads: int,
    seed: int = 0,
) -> tuple[Agreement, float]:  # fmt: skip
    """Append, summarise, choose and attend as the engine's backend does, on three sequences.

    Args:
        longest: tokens of the longest; the others have one token, and half as many.
        kv_heads: so many of the model's, at most.

    Returns:
        How the pages compare, and the largest error of an output.

    Raises:
        VortexError: E805, the program cannot be served.
    """
    from vortex.serving.sglang.bookkeeping import fill_table
    from vortex.serving.sglang.sparse import Served, SparseDecode

    size, latent = candidate.page_size, geometry.kind == "mla"
    heads = min(kv_heads, geometry.kv_heads)
    dim, vdim = geometry.dim, geometry.vdim
    rope = geometry.rope
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, torch.bfloat16)

    width = -(-longest // size)
    slots = (3 * width + 1) * size
    served = Served(
        geometry.kind, geometry.layers, geometry.group, heads, dim, vdim, rope, longest,
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )  # fmt: skip
    k = draw(slots, heads, dim)
    v = k[..., :vdim] if latent else draw(slots, heads, vdim)
    pools = dict.fromkeys(range(geometry.layers), (k, v))
    sparse = SparseDecode(candidate, served, pools, requests=3)
    if not sparse.layers:
        return Agreement(), 0.0
    layer = min(sparse.ranking)
    lengths = torch.tensor([longest, 1, longest // 2], device=device)
    pages = torch.randperm(3 * width, generator=g).view(3, width).to(device) + 1
    inside = torch.arange(size, device=device)
    requests = (pages[:, :, None] * size + inside).view(3, -1).to(torch.int32)
    step = sparse.step(sparse.space(3), 3)
    fill_table(requests, torch.arange(3, device=device), lengths, size, step.table, step.lengths)
    every = pages.view(-1, 1).to(torch.int32)
    sparse.summarise(layer, every, torch.full_like(every[:, 0], size))
    new_k = draw(3, heads, dim)
    new_v = new_k if latent else draw(3, heads, vdim)
    q, scale = draw(3, heads * geometry.group, dim), geometry.head_dim**-0.5
    out = torch.full((3, heads * geometry.group, vdim), torch.nan, device=device).to(q.dtype)
    sparse.keep(layer, step, new_k, new_v)
    sparse.attend(layer, step, q, out, scale=scale)
    found, worst = Agreement(), 0.0
    for row, length in enumerate(lengths.tolist()):
        own = step.table[row, : -(-length // size)].long()
        logical = {int(p): i for i, p in enumerate(own)}
        counts = step.buffers.counts[row].tolist()
        chosen = tuple(
            frozenset(logical.get(int(p), -1) for p in step.buffers.pages[row, h, :n])
            for h, n in enumerate(counts)
        )
        cache = sparse.caches[layer]
        choice = Choice(
            q[row].cpu(), cache.k[own].cpu(), cache.v[own].cpu(), chosen, length, layer,
            geometry.layers, scale, rope,
        )  # fmt: skip
        found = found.plus(compare(candidate, choice))
        worst = max(worst, _gap(choice, out[row].float().cpu(), size))
    return found, worst


def outputs_agree(worst: float) -> bool:
    """Whether an error is that of bf16."""
    return worst < _TOLERANCE


def _gap(choice: Choice, out: Tensor, size: int) -> float:
    """The largest error of a row's outputs, given the pages that it chose."""
    worst, heads = 0.0, choice.k.shape[1]
    grouped = choice.q.float().view(heads, -1, choice.q.shape[-1])
    for head, pages in enumerate(choice.chosen):
        k, v = (x[:, head].flatten(0, 1)[: choice.length].float() for x in (choice.k, choice.v))
        exact = reference_attend(
            grouped[head], k, v, set(pages), page_size=size, scale=choice.scale
        )
        gap = float((out.view(heads, -1, out.shape[-1])[head] - exact).abs().max())
        worst = max(worst, gap if gap == gap else float("inf"))
    return worst
