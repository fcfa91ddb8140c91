"""Paged decoding on the CPU: a pool of pages, tables, and attention that reads what was chosen."""

from __future__ import annotations

import os

import torch
from numba import set_num_threads
from torch import Tensor

from vortex.cpu import Router, Steps, dim_last
from vortex.cpu_attend import attend_pages
from vortex.ir import Candidate
from vortex.named import Named
from vortex.plan import anchors


class PagedPool:
    """Keys, values and fields of many sequences in pages; one page of one head is one run.

    Args:
        sequences, max_tokens: capacity.
        latent: columns of a key that are its value (MLA), kept once; None: values are kept too.
        shuffle: seed of the order in which pages are handed out (a serving engine's tables are
            fragmented); None hands them out in order.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        dim: int,
        page_size: int,
        sequences: int,
        max_tokens: int,
        shuffle: int | None = None,
        latent: int | None = None,
    ) -> None:
        self.page_size, self.latent = page_size, latent
        self.vdim = dim if latent is None else latent
        self.per_sequence = -(-max_tokens // page_size)
        total = sequences * self.per_sequence
        order = torch.arange(total)
        if shuffle is not None:
            order = torch.randperm(total, generator=torch.Generator().manual_seed(shuffle))
        self.table = order.view(sequences, self.per_sequence)
        self.k = torch.zeros(layers, total, kv_heads, page_size, dim)
        self.v = torch.zeros_like(self.k) if latent is None else self.k
        self.length = 0

    def fill(self, sequence: int, kv: Tensor) -> None:
        """Store a context: ``[layer, parts, kv_head, tokens, dim]``, parts 1 if values are columns
        of the keys, else 2; sets the length."""
        layers, parts, kv_heads, tokens, dim = kv.shape
        pages = tokens // self.page_size
        for target, source in zip((self.k, self.v)[:parts], kv.unbind(1), strict=True):
            whole = source[:, :, : pages * self.page_size].to(torch.float32)
            paged = whole.reshape(layers, kv_heads, pages, self.page_size, dim).transpose(1, 2)
            target[:, self.table[sequence, :pages]] = paged
            rest = source[:, :, pages * self.page_size :].to(torch.float32)
            if rest.shape[2]:
                target[:, self.table[sequence, pages], :, : rest.shape[2]] = rest
        self.length = tokens

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store one token of every sequence at position ``length``: ``[row, kv_head, dim]``; ``v``
        is left alone where it is a part of ``k``."""
        page, slot = divmod(self.length, self.page_size)
        at = self.table[: k.shape[0], page]
        self.k[layer, at, :, slot] = k.to(torch.bfloat16).to(torch.float32)
        if self.latent is None:
            self.v[layer, at, :, slot] = v.to(torch.bfloat16).to(torch.float32)


class PagedDecode:
    """One decode step of all sequences under a candidate; an Attend of the model.

    Call :meth:`summarise` once after the pool is filled, and :meth:`advance` after each step.

    Args:
        rope: rotary columns of a key, first and count; None: all.
    """

    def __init__(
        self,
        candidate: Candidate,
        pool: PagedPool,
        *,
        scale: float,
        context: int,
        workload_context: int,
        dense: frozenset[int] = frozenset(),
        rope: tuple[int, int] | None = None,
    ) -> None:
        self.candidate, self.pool, self.scale, self.dense = candidate, pool, scale, dense
        layers = pool.k.shape[0]
        self.router = Router(
            candidate, context=context, workload_context=workload_context, layers=layers, rope=rope
        )
        self.anchors = anchors(layers, dense, candidate.policies.reuse_layers)
        self.picks: dict[int, Tensor | None] = {}
        self.states: dict[int, dict[str, Tensor]] = {}
        self.steps = 0
        set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))
        self.fields: list[dict[str, Named]] = []

    def summarise(self) -> None:
        """Fields of all complete pages of every layer, with room for the pages to come."""
        pool = self.pool
        pages = pool.length // pool.page_size
        for layer in range(pool.k.shape[0]):
            fields = self._fields(layer, pool.table[:, :pages]) if pages else {}
            self.fields.append(
                {name: _room(field, pool.per_sequence) for name, field in fields.items()}
            )

    def _fields(self, layer: int, table: Tensor) -> dict[str, Named]:
        if not self.router.needs_fields:
            return {}
        k = self.pool.k[layer, table].permute(2, 0, 1, 3, 4)
        v = k if self.pool.latent else self.pool.v[layer, table].permute(2, 0, 1, 3, 4)
        return self.router.page_fields(k, v[..., : self.pool.vdim], layer)

    def advance(self) -> None:
        """Count the step's token."""
        self.pool.length += 1
        self.steps += 1

    def _completed(self, layer: int) -> None:
        """Summarise the page that the step's own token completes, if it does."""
        page, rest = divmod(self.pool.length + 1, self.pool.page_size)
        if rest:
            return
        fields = self.fields[layer]
        for name, value in self._fields(layer, self.pool.table[:, page - 1 : page]).items():
            if name not in fields:
                fields[name] = _room(value, self.pool.per_sequence)
            fields[name].data[:, :, page - 1] = value.data[:, :, 0]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol, with one new token per sequence."""
        rows, _, heads, dim = q.shape
        pool = self.pool
        pool.append(layer, k[:, 0], v[:, 0])
        self._completed(layer)
        kv_heads, tokens = k.shape[2], pool.length + 1
        grouped = q.view(rows, kv_heads, heads // kv_heads, dim)
        pages = -(-tokens // pool.page_size)
        if layer in self.dense or self.router.plan.everything:
            keep = torch.ones(rows, kv_heads, pages, dtype=torch.bool)
        else:
            keep = self.chosen(layer, grouped, pages)
        out = torch.empty(*grouped.shape[:3], pool.vdim)
        attend_pages(
            (grouped * self.scale).numpy(), pool.k[layer].numpy(), pool.v[layer].numpy(),
            pool.table[:rows].numpy(), keep.numpy(), tokens, out.numpy(),
        )  # fmt: skip
        return out.reshape(rows, 1, heads, pool.vdim)

    def chosen(self, layer: int, q: Tensor, pages: int) -> Tensor:
        """Pages to read: bool ``[row, kv_head, page]``, in the order of the sequence."""
        router, policies = self.router, self.candidate.policies
        steps = Steps(
            q.permute(1, 0, 2, 3)[:, :, None], torch.tensor([self.pool.length + 1]), pages, layer,
            self.scale,
        )  # fmt: skip
        anchor, fields = self.anchors[layer], self.fields[layer]
        states = self._states(layer, q)
        if anchor == layer and self.steps % policies.reuse_steps == 0:
            self.picks[layer] = router.pick(steps, fields, None, states)
        keep = router.joined(steps, self._picked(anchor, pages))
        if states:
            mass = self._mass(layer, steps, keep)
            self.states[layer] = router.updated(steps, fields, states, mass)
        return keep[:, :, 0].transpose(0, 1).contiguous()

    def _picked(self, anchor: int, pages: int) -> Tensor | None:
        """The ranking in force; pages that came after it are not in it."""
        picked = self.picks[anchor]
        if picked is None or picked.shape[-1] == pages:
            return picked
        return torch.nn.functional.pad(picked, (0, pages - picked.shape[-1]))

    def _states(self, layer: int, q: Tensor) -> dict[str, Tensor]:
        if layer not in self.states:
            shape = (q.shape[1], q.shape[0], self.pool.per_sequence)
            given = self.candidate.states
            self.states[layer] = {name: torch.full(shape, init) for name, init in given.items()}
        return self.states[layer]

    def _mass(self, layer: int, steps: Steps, keep: Tensor) -> Tensor:
        """Attention mass of the kept pages, ``[kv_head, row, page]``; gathers every key, so that
        programs with states are slow here."""
        kv_heads, rows, _, _, dim = steps.q.shape
        size, tokens = self.pool.page_size, int(steps.tokens.max())
        keys = self.pool.k[layer, self.pool.table[:rows, : steps.pages]]
        keys = keys.permute(2, 0, 1, 3, 4).reshape(kv_heads, rows, -1, dim)
        logits = steps.q[:, :, 0] * self.scale @ keys.transpose(2, 3)
        out = ~keep[:, :, 0].repeat_interleave(size, -1)
        out[..., tokens:] = True
        weights = torch.softmax(logits.masked_fill(out[:, :, None], float("-inf")), -1)
        return weights.sum(2).view(kv_heads, rows, steps.pages, size).sum(-1)


def _room(x: Named, pages: int) -> Named:
    """The array with its page axis (2) padded to ``pages``."""
    more = [*x.data.shape[:2], pages - x.data.shape[2], *x.data.shape[3:]]
    return dim_last(Named(torch.cat([x.data, x.data.new_zeros(more)], 2), x.names))


class ContiguousDecode:
    """Full attention over an unpaged cache: the baseline, free of any gathering.

    Args:
        kv: ``[layer, parts, row, kv_head, capacity, dim]`` float32, filled to ``length``.
        latent: columns of a key that are its value (MLA, parts 1); None: parts 2.
    """

    def __init__(self, kv: Tensor, length: int, *, scale: float, latent: int | None = None) -> None:
        self.kv, self.length, self.scale, self.latent = kv, length, scale, latent

    def advance(self) -> None:
        """Count the step's token."""
        self.length += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol, with one new token per sequence."""
        rows, _, heads, dim = q.shape
        kv_heads = k.shape[2]
        for at, new in enumerate((k, v)[: self.kv.shape[1]]):
            self.kv[layer, at, :, :, self.length] = new[:, 0].to(torch.bfloat16).to(torch.float32)
        old = self.kv[layer, :, :, :, : self.length + 1].flatten(1, 2)
        query = (q[:, 0] * self.scale).reshape(rows * kv_heads, heads // kv_heads, dim)
        weights = torch.softmax(query @ old[0].transpose(1, 2), -1)
        out = weights @ old[-1][..., : self.latent]
        return out.reshape(rows, 1, heads, -1)
