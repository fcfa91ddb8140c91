"""Teacher-forced suffixes on one context, as one batch that equals token-by-token decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vortex.cpu import Router, Steps
from vortex.ir import Candidate
from vortex.named import Named
from vortex.plan import anchors


@dataclass(frozen=True, slots=True)
class SuffixKV:
    """Keys and values that a batch of teacher-forced suffixes sees in one layer.

    Attributes:
        k, v: float32 ``[kv_head, context, dim]`` (``vdim`` of the value), shared by all rows.
        k_new, v_new: float32 ``[kv_head, row, step, dim]``: each row's own suffix.
    """

    k: Tensor
    v: Tensor
    k_new: Tensor
    v_new: Tensor


def suffix_fields(router: Router, kv: SuffixKV, layer: int) -> dict[str, Named]:
    """Fields of all complete pages of every row; the shared context is summarised once."""
    size = router.candidate.page_size
    kv_heads, rows, steps, _ = kv.k_new.shape
    context = kv.k.shape[1]
    shared = context // size

    def pages(x: Tensor) -> Tensor:
        return x[:, : shared * size].reshape(kv_heads, 1, shared, size, x.shape[-1])

    parts = [router.page_fields(pages(kv.k), pages(kv.v), layer)]
    tail = context - shared * size
    own = (tail + steps) // size
    if own:
        length = own * size

        def tails(old: Tensor, new: Tensor) -> Tensor:
            edge = old[:, None, shared * size :].expand(kv_heads, rows, tail, old.shape[-1])
            joined = torch.cat([edge, new], 2)[:, :, :length]
            return joined.reshape(kv_heads, rows, own, size, old.shape[-1])

        new_k, new_v = tails(kv.k, kv.k_new), tails(kv.v, kv.v_new)
        parts.append(router.page_fields(new_k, new_v, layer))
    return {name: _joined([p[name] for p in parts], rows) for name in parts[0]}


def _joined(parts: list[Named], rows: int) -> Named:
    """Pages of the context, repeated for each row, followed by each row's own."""
    if len(parts) == 1:
        return parts[0]
    full = [p.data.expand(p.data.shape[0], rows, *p.data.shape[2:]) for p in parts]
    return Named(torch.cat(full, 2), parts[0].names)


def suffix_attention(
    q: Tensor, kv: SuffixKV, keep: Tensor | None, *, page_size: int, scale: float
) -> Tensor:
    """Attention of every step over the kept pages, causal within the suffix.

    Args:
        q: float32 ``[kv_head, row, step, head, dim]``.
        keep: bool ``[kv_head, row, step, page]``; None attends to everything.

    Returns:
        float32 ``[kv_head, row, step, head, vdim]``.
    """
    kv_heads, rows, steps, heads, dim = q.shape
    context = kv.k.shape[1]
    out = q.new_empty(kv_heads, rows, steps, heads, kv.v.shape[-1])
    causal = torch.full((steps, steps), float("-inf")).triu(1)
    lines = rows * steps
    for a in range(kv_heads):
        query = (q[a] * scale).reshape(lines * heads, dim)
        logits = torch.empty(lines * heads, context + steps)
        torch.mm(query, kv.k[a].T, out=logits[:, :context])
        own = query.view(rows, steps * heads, dim) @ kv.k_new[a].transpose(1, 2)
        logits[:, context:] = own.reshape(lines * heads, steps)
        bias = causal.expand(rows, steps, steps)
        if keep is not None:
            pages = torch.where(keep[a], 0.0, float("-inf"))
            tokens = pages.repeat_interleave(page_size, -1)[..., : context + steps]
            logits.view(lines, heads, -1)[..., :context] += tokens[..., :context].reshape(
                lines, 1, context
            )
            bias = bias + tokens[..., context:]
        logits.view(lines, heads, -1)[..., context:] += bias.reshape(lines, 1, steps)
        weights = torch.softmax(logits, -1)
        value = weights[:, :context] @ kv.v[a]
        tail = weights[:, context:].reshape(rows, steps * heads, steps) @ kv.v_new[a]
        out[a] = value.view(out[a].shape) + tail.view(out[a].shape)
    return out


def page_mass(
    q: Tensor,
    kv: SuffixKV,
    *,
    page_size: int,
    scale: float,
    keep: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Attention mass by page, summed over heads: ``[kv_head, row, step, page]``.

    Args:
        keep: attend to these pages only; None: to all, which is the true mass.
        first: the steps of ``q`` are those of the suffix from here on.
    """
    kv_heads, rows, steps = q.shape[:3]
    context, suffix = kv.k.shape[1], kv.k_new.shape[2]
    pages = -(-(context + suffix) // page_size)
    causal = torch.ones(suffix, suffix, dtype=torch.bool).tril()[first : first + steps]
    mass = torch.zeros(kv_heads, rows, steps, pages * page_size)
    for a in range(kv_heads):
        old = torch.einsum("bthd,nd->bthn", q[a] * scale, kv.k[a])
        new = torch.einsum("bthd,bnd->bthn", q[a] * scale, kv.k_new[a])
        new = new.masked_fill(~causal[:, None], float("-inf"))
        logits = torch.cat([old, new], -1)
        if keep is not None:
            tokens = keep[a].repeat_interleave(page_size, -1)[..., : context + suffix]
            logits = logits.masked_fill(~tokens[:, :, None], float("-inf"))
        mass[a, ..., : context + suffix] = torch.softmax(logits, -1).sum(2)
    return mass.view(kv_heads, rows, steps, pages, page_size).sum(-1)


class SuffixAttend:
    """Attention of teacher-forced suffixes on one shared context, under a candidate.

    One batch equals token-by-token decoding: each step sees the pages that are complete at that
    step, its own row's included. Every row is a request of its own: states and reuse begin anew.

    Args:
        kv: ``[layer, 2, kv_head, context, dim]``, keys after RoPE; or keys and values apart, where
            their widths differ (MLA: one KV head, the value is the latent).
        dense: layers that attend to everything.
        rope: rotary columns of a key, first and count; None: all.
    """

    def __init__(
        self,
        candidate: Candidate,
        kv: Tensor | tuple[Tensor, Tensor],
        *,
        scale: float,
        workload_context: int,
        dense: frozenset[int] = frozenset(),
        rope: tuple[int, int] | None = None,
    ) -> None:
        self.candidate, self.scale, self.dense = candidate, scale, dense
        self.k, self.v = kv if isinstance(kv, tuple) else (kv[:, 0], kv[:, 1])
        layers = len(self.k)
        self.router = Router(
            candidate, context=self.k.shape[2], workload_context=workload_context, layers=layers,
            rope=rope,
        )  # fmt: skip
        self.anchors = anchors(layers, dense, candidate.policies.reuse_layers)
        self._picks: dict[int, Tensor | None] = {}
        self._stepwise: dict[int, list[Tensor | None]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol: q ``[row, step, head, dim]``, k and v by KV head."""
        rows, steps, heads, dim = q.shape
        kv_heads = k.shape[2]
        grouped = q.view(rows, steps, kv_heads, heads // kv_heads, dim).permute(2, 0, 1, 3, 4)
        old_k, old_v = (x[layer].to(torch.float32) for x in (self.k, self.v))
        kv = SuffixKV(old_k, old_v, _rounded(k), _rounded(v))
        keep = None
        if layer not in self.dense and not self.router.plan.everything:
            keep = self.pages(layer, grouped, kv)
        out = suffix_attention(
            grouped, kv, keep, page_size=self.candidate.page_size, scale=self.scale
        )
        return out.permute(1, 2, 0, 3, 4).reshape(rows, steps, heads, -1)

    def pages(self, layer: int, q: Tensor, kv: SuffixKV) -> Tensor:
        """Pages that each step attends: bool ``[kv_head, row, step, page]``. Layers come in
        order: a layer may use the ranking of an earlier one."""
        size, count = self.candidate.page_size, q.shape[2]
        context = kv.k.shape[1]
        tokens = context + 1 + torch.arange(count)
        steps = Steps(q, tokens, -(-(context + count) // size), layer, self.scale)
        if self.candidate.states:
            return self._one_by_one(steps, kv)
        anchor = self.anchors[layer]
        if anchor == layer:
            fields = suffix_fields(self.router, kv, layer) if self.router.needs_fields else {}
            mass = self._mass(q, kv, 0)
            self._picks[layer] = self._spread(self.router.pick(steps, fields, mass))
        return self.router.joined(steps, self._picks[anchor])

    def _mass(self, q: Tensor, kv: SuffixKV, first: int) -> Tensor | None:
        if not self.router.needs_mass:
            return None
        size = self.candidate.page_size
        return page_mass(q, kv, page_size=size, scale=self.scale, first=first)

    def _spread(self, picked: Tensor | None) -> Tensor | None:
        """One ranking for every ``reuse_steps`` steps: that of the first of them."""
        every = self.candidate.policies.reuse_steps
        if picked is None or every == 1:
            return picked
        step = torch.arange(picked.shape[2])
        return picked[:, :, step - step % every]

    def _one_by_one(self, steps: Steps, kv: SuffixKV) -> Tensor:
        """Steps in order, for programs whose states a step's attention changes."""
        router, candidate = self.router, self.candidate
        fields = suffix_fields(router, kv, steps.layer) if router.needs_fields else {}
        shape = (*steps.q.shape[:2], steps.pages)
        states = {name: torch.full(shape, init) for name, init in candidate.states.items()}
        kept: list[Tensor] = []
        picks: list[Tensor | None] = []
        found: list[dict[str, Tensor]] = []
        earlier = self._stepwise.get(self.anchors[steps.layer])
        for at in range(steps.q.shape[2]):
            one = replace(steps, q=steps.q[:, :, at : at + 1], tokens=steps.tokens[at : at + 1])
            if self.anchors[steps.layer] != steps.layer and earlier is not None:
                picked = earlier[at]
            elif at % candidate.policies.reuse_steps:
                picked = picks[-1]
            else:
                picked = router.pick(one, fields, self._mass(one.q, kv, at), states)
            picks.append(picked)
            if router.kept_scores is not None:
                found.append(router.kept_scores[self.anchors[steps.layer]])
            keep = router.joined(one, picked)
            kept.append(keep)
            mass = page_mass(
                one.q, kv, page_size=candidate.page_size, scale=self.scale, keep=keep, first=at
            )
            states = router.updated(one, fields, states, mass[:, :, 0])
        self._stepwise[steps.layer] = picks
        if router.kept_scores is not None and self.anchors[steps.layer] == steps.layer:
            router.kept_scores[steps.layer] = {
                key: torch.cat([f[key] for f in found], 2) for key in router.plan.rankings
            }
        return torch.cat(kept, 2)


def _rounded(x: Tensor) -> Tensor:
    """New keys or values as the cache stores them (bf16), ``[kv_head, row, step, dim]``."""
    return x.to(torch.bfloat16).to(torch.float32).permute(2, 0, 1, 3)
