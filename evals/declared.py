"""Does a program keep what it declares? Its fields and pages, counted, against its price."""

from __future__ import annotations

from dataclasses import replace

import torch

from evals.parity import Shape
from vortex.cost import fields_read, page_bytes
from vortex.geometry import Geometry, geometry
from vortex.ir import Candidate
from vortex.plan import attended_tokens
from vortex.reference import Decoder, summaries
from vortex.storage import field_bytes


def shaped(shape: Shape) -> Geometry:
    """A geometry with the heads of a shape; what it weighs does not matter here."""
    heads = shape.kv_heads * shape.group
    return replace(geometry("qwen3-1.7b"), heads=heads, kv_heads=shape.kv_heads, head_dim=shape.dim)


def over_declared(candidate: Candidate, shape: Shape, *, context: int, seed: int) -> str | None:
    """How a program differs from its declarations on random inputs, or None.

    The pages of the first layer of one are counted: where a budget falls with depth, the largest.
    """
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(shape.kv_heads, context, shape.dim, generator=g) for _ in range(2))
    q = torch.randn(shape.kv_heads, shape.group, shape.dim, generator=g)
    decoder = Decoder(candidate, scale=shape.dim**-0.5, context=context, workload_context=context)
    kept = max(len(pages) for pages in decoder.pages(0, q, k, v)) * candidate.page_size
    most = -(-attended_tokens(candidate, context, context) // candidate.page_size)
    if kept > most * candidate.page_size:  # the partial page counts whole
        return f"attends {kept} tokens, declared {most * candidate.page_size}"
    pages = context // candidate.page_size
    fields = summaries(candidate, k[0], v[0])
    held = sum(
        field_bytes(fields[name].data.numel() // pages, candidate.dtype)
        for name in fields_read(candidate)
    )
    declared = page_bytes(candidate, shaped(shape))
    return None if held == declared else f"keeps {held} bytes a page, declared {declared}"
