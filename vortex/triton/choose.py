"""What chooses pages on a device: generated kernels, or torch operations where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vortex.cpu import Router, Steps
from vortex.ir import Candidate
from vortex.named import Named
from vortex.plan import Scaling, budget_pages, depth_of, plan_of, reserved_counts
from vortex.schedule import Schedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.backend import Fields, append_tokens, follow, route, route_again, summarise_pages
from vortex.triton.buffers import Buffers
from vortex.triton.kernels import MOST_PAGES, Kernels, kernels
from vortex.triton.store import store_tokens
from vortex.triton.tiles import Unfused


@dataclass(frozen=True, slots=True)
class Pool:
    """Pages of several layers on a device, with one table for all.

    Attributes:
        caches: of the layers in turn; a benchmark may have fewer than layers, and goes round.
        table: int32 ``[row, page]``, physical pages.
        lengths: int32 ``[row]``: tokens in the cache, the step's own included.
        longest: no sequence gets longer.
    """

    caches: tuple[Cache, ...]
    table: Tensor
    lengths: Tensor
    longest: int

    def cache(self, layer: int) -> Cache:
        """A layer's."""
        return self.caches[layer % len(self.caches)]

    @property
    def kv_heads(self) -> int:
        """Heads of the cache."""
        return int(self.caches[0].k.shape[1])


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model decodes.

    Attributes:
        shapes: of the heads.
        scale: softmax scale.
        workload: tokens of the context that budgets are stated at.
        dense: layers that attend to everything.
        schedule: of the kernels.
    """

    shapes: Shapes
    scale: float
    workload: int
    dense: frozenset[int]
    schedule: Schedule


class Chooser(Protocol):
    """Keeps what scores read, and lists pages; nothing is read back from the device."""

    def summarise(self) -> None:
        """Fields of every complete page of every layer."""
        ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the step's keys and values, ``[row, kv_head, dim]``."""
        ...

    def choose(self, layer: int, anchor: int, q: Tensor, *, ranks: bool) -> tuple[Tensor, Tensor]:
        """Physical pages ``[row, kv_head, slot]`` and counts ``[row, kv_head]``, both int32.

        Args:
            anchor: the layer whose ranking is used.
            q: ``[row, head, dim]``, unscaled.
            ranks: whether this step ranks pages anew.
        """
        ...

    @property
    def lse(self) -> Tensor | None:
        """Where attention over the chosen pages writes its log-sum-exp, ``[row, head]``, if asked
        to."""
        ...

    def attended(self, layer: int, q: Tensor) -> None:
        """Attention over the chosen pages is done: states may change."""
        ...


class KernelChooser:
    """Generated kernels: one launch to append, one to score and select; where there are states, one
    more for the mass of the pages and one to update.

    Raises:
        Unfused: E613, the candidate has none.
    """

    def __init__(self, candidate: Candidate, pool: Pool, setting: Setting) -> None:
        self.pool, self.setting = pool, setting
        if pool.table.shape[1] > MOST_PAGES:
            raise Unfused(f"sequences of over {MOST_PAGES:,} pages do not fit one program")
        self.kernels: Kernels = kernels(candidate, setting.shapes)
        device = pool.table.device
        rows, width = pool.table.shape
        pages, layers = int(pool.caches[0].k.shape[0]), setting.shapes.layers
        self.fields: list[Fields] = []  # of every layer; layers of one cache share their arrays
        for layer in range(max(layers, len(pool.caches))):
            first = layer % len(pool.caches)
            held = self.fields[first].arrays if first < layer else None
            self.fields.append(Fields.of_layer(
                self.kernels, layer % layers, pages=pages, rows=rows, width=width,
                kv_heads=pool.kv_heads, device=device, arrays=held,
            ))  # fmt: skip
        self.buffers = Buffers.of(
            self.kernels, setting.schedule, rows, pool.kv_heads, width, device
        )
        self._ranked_here = False

    def summarise(self) -> None:
        """See Chooser."""
        for cache, fields in zip(self.pool.caches, self.fields, strict=False):
            summarise_pages(self.kernels, cache, fields, self.pool.table, self.pool.lengths)

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See Chooser."""
        pool, cache = self.pool, self.pool.cache(layer)
        if self.kernels.append is None or layer in self.setting.dense:
            store_tokens(cache, pool.table, pool.lengths, k, v)
            return
        fields = self.fields[layer]
        append_tokens(self.kernels, cache, fields, pool.table, pool.lengths, k, v)

    def choose(self, layer: int, anchor: int, q: Tensor, *, ranks: bool) -> tuple[Tensor, Tensor]:
        """See Chooser; the anchor's list is still in the buffers."""
        self._ranked_here = anchor == layer
        if anchor == layer and ranks:
            route(
                self.kernels, self.setting.schedule, q, self.fields[layer], self.pool.table,
                self.pool.lengths, self.buffers, scale=self.setting.scale, layer=layer,
            )  # fmt: skip
        elif anchor == layer:
            route_again(
                self.kernels, self.setting.schedule, self.fields[layer], self.pool.table,
                self.pool.lengths, self.buffers,
            )  # fmt: skip
        return self.buffers.pages, self.buffers.counts

    @property
    def lse(self) -> Tensor | None:
        """See Chooser."""
        return self.buffers.followed.lse if self.buffers.followed else None

    def attended(self, layer: int, q: Tensor) -> None:
        """See Chooser; the states of a layer that follows another's ranking are never read."""
        if self._ranked_here:
            follow(
                self.kernels, self.setting.schedule, q, self.pool.cache(layer), self.fields[layer],
                self.pool.lengths, self.buffers, scale=self.setting.scale, layer=layer,
            )  # fmt: skip


class TorchChooser:
    """The executor of the CPU on the device: many small launches, fields in float32.

    Raises:
        Unfused: E613, the program is a control that reads every key to choose.
    """

    def __init__(self, candidate: Candidate, pool: Pool, setting: Setting) -> None:
        self.pool, self.setting, self.candidate = pool, setting, candidate
        plan = plan_of(candidate.select)
        if any(r.source == "oracle" for r in plan.rankings.values()):
            raise Unfused("the oracle computes attention before it chooses")
        layers, rope = setting.shapes.layers, setting.shapes.rope
        with torch.device(pool.table.device):
            most = _most_pages(candidate, pool.longest, setting)
            self.router = Router(
                candidate, context=pool.longest, workload_context=setting.workload, layers=layers,
                rope=rope, most=max(most, default=0),
            )  # fmt: skip
            (rows, width), heads = pool.table.shape, pool.kv_heads
            self.listed = min(width, sum(most) + sum(reserved_counts(plan, self._scaling)) + 2)
            shape = (rows, heads, width + 1)
            self.pages = torch.zeros(shape, dtype=torch.int32)
            self.places = torch.zeros(shape, dtype=torch.int64)
            self.counts = torch.zeros(rows, heads, dtype=torch.int32)
            self.fields: list[dict[str, Named]] = [{} for _ in pool.caches]
            self.picks: dict[int, Tensor] = {}
            self.states = [
                {n: torch.full((heads, rows, width), x) for n, x in candidate.states.items()}
                for _ in range(layers if candidate.states else 0)
            ]

    @property
    def _scaling(self) -> Scaling:
        return Scaling.of(self.candidate.page_size, self.pool.longest, self.setting.workload)

    def summarise(self) -> None:
        """See Chooser; row by row, for the float32 copies of keys are large."""
        if not self.router.needs_fields:
            return
        table = self.pool.table.long()
        with torch.device(table.device):
            for at, cache in enumerate(self.pool.caches):
                rows = [self._fields(cache, row[None], at) for row in table]
                self.fields[at] = {
                    n: Named(torch.cat([r[n].data for r in rows], 1), rows[0][n].names)
                    for n in rows[0]
                }

    def _fields(self, cache: Cache, table: Tensor, layer: int) -> Mapping[str, Named]:
        """Fields of the pages in a table ``[row, page]``."""
        k, v = (x[table].permute(2, 0, 1, 3, 4).float() for x in (cache.k, cache.v))
        return self.router.page_fields(k, v, layer)

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See Chooser; the newest complete page is summarised at every step."""
        pool, cache = self.pool, self.pool.cache(layer)
        store_tokens(cache, pool.table, pool.lengths, k, v)
        if not self.router.needs_fields or layer in self.setting.dense:
            return
        with torch.device(pool.table.device):
            newest = (pool.lengths.long() // cache.page_size - 1).clamp(min=0)
            row = torch.arange(len(newest))
            fields = self._fields(cache, pool.table[row, newest].long()[:, None], layer)
            for name, held in self.fields[layer % len(self.fields)].items():
                held.data[:, row, newest] = fields[name].data[:, :, 0]

    def _steps(self, layer: int, q: Tensor) -> Steps:
        pool, shapes = self.pool, self.setting.shapes
        grouped = q.view(len(q), pool.kv_heads, shapes.group, shapes.dim).float()
        return Steps(
            grouped.transpose(0, 1)[:, :, None], pool.lengths.long()[:, None], pool.table.shape[1],
            layer, self.setting.scale, pool.longest,
        )  # fmt: skip

    def choose(self, layer: int, anchor: int, q: Tensor, *, ranks: bool) -> tuple[Tensor, Tensor]:
        """See Chooser."""
        table, width = self.pool.table, self.pool.table.shape[1]
        with torch.device(table.device):
            steps = self._steps(layer, q)
            if ranks and anchor == layer:
                fields = self.fields[layer % len(self.fields)]
                states = self.states[layer] if self.states else {}
                picked = self.router.pick(steps, fields, None, states)
                if picked is not None:
                    self.picks[layer] = _held(self.picks.get(layer), picked)
            keep = self.router.joined(steps, self.picks.get(anchor))[:, :, 0].transpose(0, 1)
            place = torch.where(keep, keep.long().cumsum(-1) - 1, width)
            shape = keep.shape
            self.pages.scatter_(2, place, table[:, None].expand(shape).contiguous())
            self.places.scatter_(2, place, torch.arange(width).expand(shape).contiguous())
            self.counts.copy_(keep.sum(-1))
        return self.pages, self.counts

    @property
    def lse(self) -> Tensor | None:
        """Mass is computed anew."""
        return None

    def attended(self, layer: int, q: Tensor) -> None:
        """See Chooser."""
        if not self.states:
            return
        with torch.device(self.pool.table.device):
            steps, states = self._steps(layer, q), self.states[layer]
            fields = self.fields[layer % len(self.fields)]
            new = self.router.updated(steps, fields, states, self._mass(layer, steps))
            for name, state in states.items():
                state.copy_(new[name])

    def _mass(self, layer: int, steps: Steps) -> Tensor:
        """Attention mass of the listed pages, summed over heads: ``[kv_head, row, page]``."""
        pool, cache, size = self.pool, self.pool.cache(layer), self.candidate.page_size
        rows, heads, width = len(pool.table), pool.kv_heads, pool.table.shape[1]
        pages, places = self.pages[..., : self.listed].long(), self.places[..., : self.listed]
        keys = cache.k[pages, torch.arange(heads)[:, None]].float().flatten(2, 3)
        q = steps.q[:, :, 0].transpose(0, 1) * self.setting.scale
        tokens = (self.counts.long() - 1) * size + ((pool.lengths.long() - 1) % size + 1)[:, None]
        outside = torch.arange(keys.shape[2]) >= tokens[..., None]
        logits = (q @ keys.transpose(2, 3)).masked_fill(outside[:, :, None], float("-inf"))
        mass = torch.softmax(logits, -1).sum(2).view(rows, heads, -1, size).sum(-1)
        used = torch.arange(self.listed) < self.counts[..., None]
        spread = torch.zeros(rows, heads, width + 1)
        spread.scatter_(2, torch.where(used, places, width), mass)
        return spread[..., :width].transpose(0, 1)


def chooser_of(candidate: Candidate, pool: Pool, setting: Setting) -> Chooser:
    """Kernels where the candidate has them, else torch.

    Raises:
        Unfused: E613, neither can run it.
    """
    try:
        return KernelChooser(candidate, pool, setting)
    except Unfused:
        return TorchChooser(candidate, pool, setting)


def _held(old: Tensor | None, new: Tensor) -> Tensor:
    """The new ranking in the memory of the old: a captured step reads where an earlier wrote."""
    return new.contiguous() if old is None else old.copy_(new)


def _most_pages(candidate: Candidate, longest: int, setting: Setting) -> list[int]:
    """The most pages that each ranking may keep, over the layers."""
    plan, layers = plan_of(candidate.select), setting.shapes.layers
    scaling = Scaling.of(candidate.page_size, longest, setting.workload)
    tokens = torch.full((), longest, dtype=torch.int64)
    depths = [depth_of(x, layers) for x in range(layers if plan.by_depth else 1)]
    return [
        max(int(budget_pages(r, tokens, plan=plan, scaling=scaling, depth=d)) for d in depths)
        for r in plan.rankings.values()
    ]
