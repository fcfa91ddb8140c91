"""The decode step of a candidate on a device: append, score and choose, attend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import triton
from torch import Tensor

from vortex.execute import run_graph
from vortex.named import Named, Run, named
from vortex.plan import Scaling, plan_of, reserved_counts
from vortex.schedule import Schedule, padded
from vortex.triton.arrays import Stored
from vortex.triton.attend import Cache, attend
from vortex.triton.buffers import Buffers
from vortex.triton.kernels import Kernels
from vortex.triton.mass import add_mass
from vortex.triton.project import Matrix
from vortex.triton.runtime import launch, matrix_type
from vortex.triton.scoring import Scoring
from vortex.triton.select import relist

_TYPES = {
    "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "int8": torch.int8, "int4": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fields:
    """What one layer keeps between steps, by argument name.

    Attributes:
        arrays: fields of its pages: data and, where the type has them, scales.
        matrices: float32, what the summary kernel multiplies by, in the order of its arguments.
        rows: what the scoring kernel takes besides: ``factorI``, its matrices; ``stateI``, float32
            ``[slot, kv_head, page]``, all of them where the kernel reads one; ``picks``, uint8
            ``[slot, kv_head, byte]``, what the last ranking picked, a bit for each page
            (Scoring.keeps).
    """

    arrays: Mapping[str, Tensor]
    matrices: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of_layer(
        k: Kernels, layer: int, *, pages: int, rows: int, width: int, kv_heads: int,
        device: torch.device, arrays: Mapping[str, Tensor] | None = None,
    ) -> Fields:  # fmt: skip
        """Room for everything of a layer, the matrices filled, states at their first values.

        Args:
            pages: physical pages; width: logical pages of a row, at most.
            rows: of states, and slots of picks.
            arrays: fields in memory that is there already.

        Raises:
            VortexError: E206, a stored matrix has another shape.
        """
        run = Run(None, layer, k.shapes.rope, k.candidate.matrices)

        def numbers(found: tuple[Matrix, ...]) -> dict[str, Tensor]:
            return {
                m.name: run.matrix(m.ref, (m.rows, m.columns), "dim", "x").data.to(device)
                for m in found
            }

        layouts = k.summaries.arrays if k.summaries else ()
        more = numbers(k.scoring.matrices) if k.scoring else {}
        shape = (rows, kv_heads, width)
        for argument, name in (k.scoring.states if k.scoring else {}).items():
            more[argument] = torch.full(shape, k.candidate.states[name], device=device)
        if k.scoring and k.scoring.keeps:
            packed = (rows, kv_heads, -(-width // 8))
            more["picks"] = torch.zeros(packed, dtype=torch.uint8, device=device)
        if arrays is None:
            arrays = Fields.of(layouts, pages, kv_heads, device).arrays
        return Fields(arrays, numbers(k.summaries.matrices) if k.summaries else {}, more)

    @staticmethod
    def of(layouts: tuple[Stored, ...], pages: int, kv_heads: int, device: torch.device) -> Fields:
        """Room for the fields of every page, where a program has nothing else to keep."""
        arrays = {}
        for array in layouts:
            shape = (pages * kv_heads, array.run)
            arrays[array.name] = torch.empty(shape, dtype=_TYPES[array.dtype], device=device)
            if array.scaled:
                arrays[f"{array.name}_scale"] = torch.empty(pages * kv_heads, device=device)
        return Fields(arrays)


def summarise_pages(
    k: Kernels, cache: Cache, fields: Fields, table: Tensor, lengths: Tensor
) -> None:
    """Fields of every complete page: what a prefill leaves behind."""
    if k.summarise is None:
        return
    grid = (table.shape[1], cache.k.shape[1], table.shape[0])
    launch(
        k.summarise, grid,
        cache.k, cache.v, *fields.arrays.values(), *fields.matrices.values(), table, lengths,
        table.stride(0),
        *cache.k.stride()[:2], *cache.v.stride()[:2],
    )  # fmt: skip


def append_tokens(
    k: Kernels, cache: Cache, fields: Fields, table: Tensor, lengths: Tensor,
    new_k: Tensor, new_v: Tensor,
) -> None:  # fmt: skip
    """Keep one token of every sequence at ``lengths - 1``; summarise pages that it completes.

    Args:
        new_k, new_v: ``[row, kv_head, dim]``, dense within a row.
    """
    launch(
        k.append, (cache.k.shape[1], table.shape[0]),
        cache.k, cache.v, *fields.arrays.values(), *fields.matrices.values(), table, lengths,
        new_k, new_v,
        table.stride(0), *cache.k.stride()[:3], *cache.v.stride()[:3], new_k.stride(0),
        new_v.stride(0), DIM=k.shapes.dim, VDIM=k.shapes.vdim,
        WIDE=padded(max(k.shapes.dim, k.shapes.vdim)), LATENT=cache.latent,
    )  # fmt: skip


def route(
    k: Kernels,
    schedule: Schedule,
    q: Tensor,
    fields: Fields,
    table: Tensor,
    lengths: Tensor,
    buffers: Buffers,
    *,
    scale: float,
    layer: int,
    scores: bool = True,
    chooses: bool = True,
) -> None:
    """Score pages and write the chosen lists into ``buffers``; launches only, no host sync.

    Args:
        q: ``[row, head, dim]``, heads dense.
        table: int32 ``[row, page]``.
        lengths: int32 ``[row]``, the step's own token included.
        scores, chooses: run only one half (to time them apart).
    """
    made = k.scoring
    assert made is not None
    width, kv_heads = table.shape[1], buffers.counts.shape[1]
    own = {**fields.arrays, **fields.rows, **_prepared(made, k, q, kv_heads, scale, layer)}
    arrays = []
    for array in made.arrays:
        arrays.append(own[array.name])
        if array.scaled:
            arrays.append(own[f"{array.name}_scale"])
    kept = [buffers.slots] if made.keeps or made.states else []
    kept += [buffers.ranks] if made.keeps else []
    kept += [buffers.followed.places] if made.states and buffers.followed else []
    shape = schedule.score
    joined = shape.joined and made.chooses
    scores = scores and made.chooses
    block = min(shape.block, padded(width))

    def routed(with_scores: bool, with_choice: bool, warps: int) -> None:
        blocks = triton.cdiv(width, block) if with_scores else 1
        launch(
            k.route, (blocks, kv_heads, q.shape[0]),
            q, table, *arrays, lengths, buffers.scratch, buffers.counter, buffers.pages,
            buffers.counts, *kept, q.stride(0), table.stride(0), buffers.pages.stride(0),
            buffers.pages.stride(1), width, scale, layer,
            CHANNELS=made.channels, BLOCK=block, PAGES=padded(width),
            MATRIX=matrix_type(q.dtype), SCORES=with_scores, CHOOSES=with_choice,
            num_warps=warps,
        )  # fmt: skip

    if joined and scores and chooses:
        routed(True, True, shape.warps)
        return
    if scores:
        routed(True, False, shape.warps)
    if chooses:
        routed(False, True, shape.choose_warps)


def route_again(
    k: Kernels, schedule: Schedule, fields: Fields, table: Tensor, lengths: Tensor,
    buffers: Buffers,
) -> None:  # fmt: skip
    """Lists of a step in which no row ranks (``reuse`` over steps): what the last ranking
    picked, and the pages that this step reserves.

    Args:
        fields: of the layer that ranked.
    """
    plan, size = plan_of(k.candidate.select), k.candidate.page_size
    sinks, recent = reserved_counts(plan, Scaling(size, k.shapes.share))
    launch(
        relist, (buffers.counts.shape[1], table.shape[0]),
        fields.rows["picks"], buffers.slots, table, lengths, buffers.pages,
        buffers.followed.places if buffers.followed else buffers.pages, buffers.counts,
        table.stride(0),
        buffers.pages.stride(0), buffers.pages.stride(1), table.shape[1], SIZE=size, SINKS=sinks,
        RECENT=recent, PLACED=buffers.followed is not None, PAGES=padded(table.shape[1]),
        num_warps=schedule.score.choose_warps,
    )  # fmt: skip


def _prepared(
    made: Scoring, k: Kernels, q: Tensor, kv_heads: int, scale: float, layer: int
) -> dict[str, Tensor]:
    """What queries alone decide and no kernel computes, by torch: several launches."""
    if not made.prepared:
        return {}
    rows, heads, dim = q.shape
    grouped = q.view(rows, kv_heads, heads // kv_heads, dim).to(torch.float32)
    with torch.device(q.device):
        sources = {
            "q": named(grouped, "_row", "_kv", "head", "dim"),
            "scale": Named(torch.full((), scale), ()),
            "depth": Named(torch.full((), layer / max(1, k.shapes.layers - 1)), ()),
        }
        matrices = {ref: m.to(q.device) for ref, m in k.candidate.matrices.items()}
        run = Run(None, layer, k.shapes.rope, matrices)
        values = run_graph(made.prepared.values(), sources, run)
    found = {}
    for array in made.arrays:
        if array.name not in made.prepared:
            continue
        value = values[made.prepared[array.name].key]
        order = ["_row", "_kv", *array.axes]
        data = value.data
        for axis in ("_row", "_kv"):
            assert axis in value.names
        found[array.name] = data.permute([value.names.index(a) for a in order]).contiguous()
    return found


def attend_chosen(
    k: Kernels,
    schedule: Schedule,
    q: Tensor,
    cache: Cache,
    table: Tensor,
    lengths: Tensor,
    buffers: Buffers,
    out: Tensor,
    *,
    scale: float,
    everything: bool = False,
) -> None:
    """Attention over the lists in ``buffers``, or over everything."""
    if everything or k.everything:
        attend(q, cache, table, None, lengths, out, scale=scale, schedule=schedule.full,
               workspace=buffers.full_workspace)  # fmt: skip
        return
    attend(q, cache, buffers.pages, buffers.counts, lengths, out, scale=scale,
           schedule=schedule.attend, workspace=buffers.workspace,
           lse=buffers.followed.lse if buffers.followed else None)  # fmt: skip


def follow(
    k: Kernels, schedule: Schedule, q: Tensor, cache: Cache, fields: Fields, lengths: Tensor,
    buffers: Buffers, *, scale: float, layer: int,
) -> None:  # fmt: skip
    """After attention over the lists of a layer that ranks: its states get their next values."""
    kept = buffers.followed
    if k.updates is None or kept is None:
        return
    add_mass(q, cache, buffers.pages, kept.places, buffers.counts, lengths, kept.lse, kept.mass,
             scale=scale)  # fmt: skip
    rows, kv_heads, width = kept.mass.shape
    launch(
        k.update, (kv_heads, rows),
        *(fields.rows[state] for state in k.updates.states), kept.mass, buffers.slots, lengths,
        buffers.scratch, width, scale, layer, CHANNELS=k.updates.channels, PAGES=padded(width),
        num_warps=schedule.score.choose_warps,
    )  # fmt: skip
