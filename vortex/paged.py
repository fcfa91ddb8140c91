"""Paged decoding on the CPU: a pool of pages, tables, and attention that reads what was chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from vortex.cpu import Router, Steps, page_fields
from vortex.ir import Candidate
from vortex.named import Named


class PagedPool:
    """Keys, values and fields of many sequences in pages; one page of one head is one run.

    Args:
        sequences, max_tokens: capacity.
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
    ) -> None:
        self.page_size = page_size
        self.per_sequence = -(-max_tokens // page_size)
        total = sequences * self.per_sequence
        order = torch.arange(total)
        if shuffle is not None:
            order = torch.randperm(total, generator=torch.Generator().manual_seed(shuffle))
        self.table = order.view(sequences, self.per_sequence)
        self.k = torch.zeros(layers, total, kv_heads, page_size, dim)
        self.v = torch.zeros(layers, total, kv_heads, page_size, dim)
        self.length = 0

    def fill(self, sequence: int, kv: Tensor) -> None:
        """Store a prefilled context: ``[layer, 2, kv_head, tokens, dim]``; sets the length."""
        layers, _, kv_heads, tokens, dim = kv.shape
        pages = tokens // self.page_size
        for target, source in ((self.k, kv[:, 0]), (self.v, kv[:, 1])):
            whole = source[:, :, : pages * self.page_size].to(torch.float32)
            paged = whole.reshape(layers, kv_heads, pages, self.page_size, dim).transpose(1, 2)
            target[:, self.table[sequence, :pages]] = paged
            rest = source[:, :, pages * self.page_size :].to(torch.float32)
            if rest.shape[2]:
                target[:, self.table[sequence, pages], :, : rest.shape[2]] = rest
        self.length = tokens

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store one token of every sequence at position ``length``: ``[row, kv_head, dim]``."""
        page, slot = divmod(self.length, self.page_size)
        at = self.table[: k.shape[0], page]
        self.k[layer, at, :, slot] = k.to(torch.bfloat16).to(torch.float32)
        self.v[layer, at, :, slot] = v.to(torch.bfloat16).to(torch.float32)


class PagedDecode:
    """One decode step of all sequences under a candidate; an Attend of the model.

    Call :meth:`summarise` once after the pool is filled, and :meth:`advance` after each step.
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
    ) -> None:
        self.candidate, self.pool, self.scale, self.dense = candidate, pool, scale, dense
        self.router = Router(candidate, context=context, workload_context=workload_context)
        self.reader = Reader(pool, scale)
        self.fields: list[dict[str, Named]] = []

    def summarise(self) -> None:
        """Fields of all complete pages of every layer, with room for the pages to come."""
        pool = self.pool
        pages = pool.length // pool.page_size
        for layer in range(pool.k.shape[0]):
            fields = self._fields(layer, pool.table[:, :pages]) if pages else {}
            self.fields.append(
                {n: Named(_room(f.data, pool.per_sequence), f.names) for n, f in fields.items()}
            )

    def _fields(self, layer: int, table: Tensor) -> dict[str, Named]:
        if not self.router.needs_fields:
            return {}
        k = self.pool.k[layer, table].permute(2, 0, 1, 3, 4)
        v = self.pool.v[layer, table].permute(2, 0, 1, 3, 4)
        return page_fields(self.candidate, k, v)

    def advance(self) -> None:
        """Count the step's token."""
        self.pool.length += 1

    def _completed(self, layer: int) -> None:
        """Summarise the page that the step's own token completes, if it does."""
        page, rest = divmod(self.pool.length + 1, self.pool.page_size)
        if rest:
            return
        fields = self.fields[layer]
        for name, value in self._fields(layer, self.pool.table[:, page - 1 : page]).items():
            if name not in fields:
                fields[name] = Named(_room(value.data, self.pool.per_sequence), value.names)
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
        table, valid = pool.table[:rows, None, :pages].expand(rows, kv_heads, pages), None
        if layer not in self.dense and not self.router.plan.everything:
            table, valid = self.chosen(layer, grouped, pages)
        out = self.reader.attend(layer, grouped, table, tokens, valid)
        return out.reshape(rows, 1, heads, dim)

    def chosen(self, layer: int, q: Tensor, pages: int) -> tuple[Tensor, Tensor]:
        """Physical pages to read, ``[row, kv_head, width]`` int64, the newest last, and which of
        them count (rows that keep fewer are padded in front)."""
        rows, kv_heads = q.shape[:2]
        steps = Steps(
            q.permute(1, 0, 2, 3)[:, :, None], torch.tensor([self.pool.length + 1]), pages, layer,
            self.scale,
        )  # fmt: skip
        keep = self.router.select(steps, self.fields[layer])[:, :, 0].transpose(0, 1)
        counts = keep.sum(-1)
        width = int(counts.max())
        if bool((counts == width).all()):
            order = keep.nonzero()[:, 2].view(rows, kv_heads, width)
        else:  # rows that keep fewer are padded in front
            order = torch.argsort(keep.to(torch.uint8), dim=-1, stable=True)[..., -width:]
        physical = self.pool.table[:rows, None].expand(rows, kv_heads, -1).gather(2, order)
        return physical, keep.gather(2, order)


def _room(x: Tensor, pages: int) -> Tensor:
    """The array with its page axis (2) padded to ``pages``."""
    full = torch.zeros(*x.shape[:2], pages, *x.shape[3:])
    full[:, :, : x.shape[2]] = x
    return full


class Reader:
    """Attention over listed pages; gathers one sequence at a time into a buffer that stays in
    the processor's cache (a fresh array for each would cost more in page faults than the copy)."""

    def __init__(self, pool: PagedPool, scale: float) -> None:
        self.pool, self.scale = pool, scale
        kv_heads, size, dim = pool.k.shape[2:]
        self.buffer = torch.empty(kv_heads * pool.per_sequence, size * dim)
        self.heads = torch.arange(kv_heads)[None, :, None]

    def attend(
        self, layer: int, q: Tensor, table: Tensor, tokens: int, valid: Tensor | None
    ) -> Tensor:
        """Attend to the listed pages, the newest of which is last.

        Args:
            q: float32 ``[row, kv_head, group, dim]``; table: int64 ``[row, kv_head, kept]``.
            valid: bool like ``table``; None when every listed page counts.
        """
        rows, kv_heads, kept = table.shape
        size = self.pool.page_size
        used = (kept - 1) * size + (tokens - 1) % size + 1
        index = (table * kv_heads + self.heads).view(rows, -1)
        k, v = (x[layer].view(-1, size * q.shape[-1]) for x in (self.pool.k, self.pool.v))
        bias = None
        if valid is not None and not bool(valid.all()):
            bias = torch.where(valid, 0.0, float("-inf")).repeat_interleave(size, -1)[..., :used]
        query, out = q * self.scale, torch.empty_like(q)
        for row in range(rows):
            logits = torch.bmm(query[row], self._gather(k, index[row], kv_heads, used).mT)
            if bias is not None:
                logits += bias[row, :, None]
            weights = torch.softmax(logits, -1)
            torch.bmm(weights, self._gather(v, index[row], kv_heads, used), out=out[row])
        return out

    def _gather(self, source: Tensor, index: Tensor, kv_heads: int, used: int) -> Tensor:
        """Pages as ``[kv_head, token, dim]``, in the buffer."""
        target = self.buffer[: len(index)]
        torch.index_select(source, 0, index, out=target)
        return target.view(kv_heads, -1, self.pool.k.shape[-1])[:, :used]


class ContiguousDecode:
    """Full attention over an unpaged cache: the baseline, free of any gathering.

    Args:
        kv: ``[layer, 2, row, kv_head, capacity, dim]`` float32, filled to ``length``.
    """

    def __init__(self, kv: Tensor, length: int, *, scale: float) -> None:
        self.kv, self.length, self.scale = kv, length, scale

    def advance(self) -> None:
        """Count the step's token."""
        self.length += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol, with one new token per sequence."""
        rows, _, heads, dim = q.shape
        kv_heads = k.shape[2]
        for at, new in enumerate((k, v)):
            self.kv[layer, at, :, :, self.length] = new[:, 0].to(torch.bfloat16).to(torch.float32)
        old = self.kv[layer, :, :, :, : self.length + 1].flatten(1, 2)
        query = (q[:, 0] * self.scale).reshape(rows * kv_heads, heads // kv_heads, dim)
        weights = torch.softmax(query @ old[0].transpose(1, 2), -1)
        return (weights @ old[1]).reshape(rows, 1, heads, dim)
