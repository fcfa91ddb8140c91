"""Teacher-forced suffixes on one context through a device's kernels: every step is a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.ir import Candidate
from vortex.plan import anchors
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.backend import Fields, attend_chosen, route, summarise_pages
from vortex.triton.buffers import Buffers
from vortex.triton.kernels import Kernels, kernels
from vortex.triton.tiles import Unfused

SCHEDULE = Schedule(
    ScoreSchedule(block=32),
    AttendSchedule(block=32, splits=1, stages=2),
    AttendSchedule(block=32, splits=1, stages=2),
)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Tables of a batch: one row for each question, and one for each of its steps.

    Attributes:
        questions: int32 ``[question, page]``; shared pages first, then each question's own.
        lengths: int32 ``[question]``, all steps included.
        steps, step_lengths: the same for every step, its own token included.
    """

    questions: Tensor
    lengths: Tensor
    steps: Tensor
    step_lengths: Tensor
    buffers: Buffers


class DeviceSuffix:
    """What :class:`vortex.suffix.SuffixAttend` computes, by the kernels that serve: keys are bf16,
    and so are queries.

    Args:
        k, v: bf16 ``[layer, kv_head, context, dim]`` on the device; on MLA, v is columns of k.
        workload_context: tokens of the context that budgets are stated at.
        dense: layers that attend to everything.
        rope: rotary columns of a key, first and count; None: all.
        latent: values are the first columns of the keys.

    Raises:
        Unfused: E613, the candidate has no kernels, or keeps states or rankings over steps.
    """

    def __init__(
        self,
        candidate: Candidate,
        k: Tensor,
        v: Tensor,
        *,
        heads: int,
        scale: float,
        workload_context: int,
        dense: frozenset[int] = frozenset(),
        rope: tuple[int, int] | None = None,
        latent: bool = False,
    ) -> None:
        if candidate.states or candidate.policies.reuse_steps > 1:
            raise Unfused("states and rankings kept over steps need the steps in order")
        self.candidate, self.scale, self.dense, self.latent = candidate, scale, dense, latent
        layers, kv_heads, self.context, dim = k.shape
        self.k, self.v = k, v
        size, vdim = candidate.page_size, v.shape[3]
        shapes = Shapes(
            heads // kv_heads, dim, vdim, rope or (0, dim), layers, (dim, dim if latent else vdim),
            min(1.0, self.context / workload_context),
        )  # fmt: skip
        self.kernels: Kernels = kernels(candidate, shapes)
        self.anchors = anchors(layers, dense, candidate.policies.reuse_layers)
        self.shared = self.context // size
        self._rows: dict[tuple[int, int], _Rows] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol: q ``[row, step, head, dim]``, k and v by KV head."""
        questions, steps, heads, dim = q.shape
        rows = self._tables(questions, steps)
        cache = self._cache(layer, k, v)
        query = q.reshape(questions * steps, heads, dim).to(torch.bfloat16)
        out = torch.empty(*query.shape[:2], cache.v.shape[3], dtype=query.dtype, device=q.device)
        everything = layer in self.dense or self.kernels.everything
        if not everything and self.anchors[layer] == layer:
            self._route(layer, cache, query, rows)
        attend_chosen(
            self.kernels, SCHEDULE, query, cache, rows.steps, rows.step_lengths, rows.buffers, out,
            scale=self.scale, everything=everything,
        )  # fmt: skip
        return out.view(questions, steps, heads, -1).float()

    def chosen(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Lists of physical pages of every step, ``[row, kv_head, slot]``, and counts."""
        rows = self._tables(*q.shape[:2])
        query = q.reshape(-1, *q.shape[2:]).to(torch.bfloat16)
        self._route(layer, self._cache(layer, k, v), query, rows)
        return rows.buffers.pages, rows.buffers.counts

    def _route(self, layer: int, cache: Cache, query: Tensor, rows: _Rows) -> None:
        made = self.kernels
        fields = Fields.of_layer(
            made, layer, pages=len(cache.k), rows=len(query), width=rows.steps.shape[1],
            kv_heads=cache.k.shape[1], device=query.device,
        )  # fmt: skip
        summarise_pages(made, cache, fields, rows.questions, rows.lengths)
        route(
            made, SCHEDULE, query, fields, rows.steps, rows.step_lengths, rows.buffers,
            scale=self.scale, layer=layer,
        )  # fmt: skip

    def _cache(self, layer: int, k: Tensor, v: Tensor) -> Cache:
        """The context's pages, then those of each question: its share of the last context page,
        its own tokens, and what is left of the last page."""
        keys = self._pages(self.k[layer], k)
        if self.latent:
            return Cache(keys, keys[..., : self.v.shape[3]], self.candidate.page_size)
        return Cache(keys, self._pages(self.v[layer], v), self.candidate.page_size)

    def _pages(self, old: Tensor, new: Tensor) -> Tensor:
        """``[page, kv_head, token, dim]`` of ``[kv_head, context, dim]`` and ``[question, step,
        kv_head, dim]``."""
        size, (questions, steps, kv_heads, dim) = self.candidate.page_size, new.shape
        cut = self.shared * size
        whole = old[:, :cut].reshape(kv_heads, self.shared, size, dim).transpose(0, 1)
        own = self._own(steps)
        tail = old.new_zeros(questions, own * size, kv_heads, dim)
        rest = self.context - cut
        tail[:, :rest] = old[:, cut:].transpose(0, 1)
        tail[:, rest : rest + steps] = new.to(old.dtype)
        paged = tail.view(questions * own, size, kv_heads, dim).transpose(1, 2)
        return torch.cat([whole, paged]).contiguous()

    def _own(self, steps: int) -> int:
        """Pages of a question that no other shares."""
        return -(-(self.context - self.shared * self.candidate.page_size + steps)
                 // self.candidate.page_size)  # fmt: skip

    def _tables(self, questions: int, steps: int) -> _Rows:
        found = self._rows.get((questions, steps))
        if found is not None:
            return found
        device, own = self.k.device, self._own(steps)
        shared = torch.arange(self.shared, device=device).expand(questions, self.shared)
        mine = self.shared + torch.arange(questions * own, device=device).view(questions, own)
        table = torch.cat([shared, mine], 1).to(torch.int32)
        at = self.context + 1 + torch.arange(steps, device=device)
        lengths = torch.full((questions,), self.context + steps, device=device)
        rows, kv_heads = questions * steps, self.k.shape[1]
        made = _Rows(
            table, lengths.to(torch.int32), table.repeat_interleave(steps, 0),
            at.repeat(questions).to(torch.int32),
            Buffers.of(self.kernels, SCHEDULE, rows, kv_heads, table.shape[1], device),
        )  # fmt: skip
        self._rows[questions, steps] = made
        return made
