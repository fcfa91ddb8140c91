"""An engine in miniature: pools, a page allocator, batches; attention in torch for its inner
backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vortex.ir import Candidate
from vortex.plan import Scaling, plan_of, reserved_counts
from vortex.reference import Decoder, reserved
from vortex.serving.equality import Agreement, Choice, compare, decoder_of
from vortex.serving.sglang.backend import VortexBackend
from vortex.serving.sglang.sparse import Served, SparseDecode


@dataclass(frozen=True)
class Mode:
    """A batch's mode, with the questions that a backend asks of it."""

    name: str

    def is_decode(self) -> bool:
        return self.name == "decode"

    def is_extend(self) -> bool:
        return self.name == "extend"

    def is_idle(self) -> bool:
        return self.name == "idle"


@dataclass(frozen=True)
class Shape:
    """Of the fake model; ``latent`` is MLA."""

    layers: int = 2
    kv_heads: int = 2
    group: int = 2
    dim: int = 32
    vdim: int = 32
    latent: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


LATENT = Shape(kv_heads=1, group=4, dim=48, vdim=32, latent=True)


@dataclass
class Inner:
    """Full attention in torch that writes the pool as SGLang's backends do."""

    engine: Engine
    calls: list[str] = field(default_factory=list)
    needs_cpu_seq_lens: bool = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("init_", "on_", "get_")):
            return lambda *a, **k: self.calls.append(name)
        raise AttributeError(name)

    def _write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        pool = self.engine.pools[layer]
        pool[0][slots] = k.view(len(slots), *pool[0].shape[1:])
        if not self.engine.shape.latent:
            pool[1][slots] = v.view(len(slots), *pool[1].shape[1:])

    def forward_extend(self, q: Tensor, k: Tensor, v: Tensor, layer: Any, batch: Any,
                       save_kv_cache: bool = True) -> Tensor:  # fmt: skip
        self.calls.append("extend")
        if save_kv_cache:
            self._write(layer.layer_id, batch.out_cache_loc, k, v)
        return q

    def forward_decode(self, q: Tensor, k: Tensor, v: Tensor, layer: Any, batch: Any,
                       save_kv_cache: bool = True) -> Tensor:  # fmt: skip
        self.calls.append("decode")
        if save_kv_cache:
            self._write(layer.layer_id, batch.out_cache_loc, k, v)
        rows = [
            self.engine.full(layer.layer_id, int(r), int(n), q[i])
            for i, (r, n) in enumerate(zip(batch.req_pool_indices, batch.seq_lens, strict=True))
        ]
        return torch.stack(rows).flatten(1).to(q.dtype)


class Engine:
    """Requests with token slots in pages of ``page`` tokens, at most ``pages`` of them."""

    def __init__(
        self, candidate: Candidate, shape: Shape | None = None, *, pages: int = 40,
        page: int = 0, context: int = 256, **options: Any,
    ) -> None:  # fmt: skip
        self.shape = shape or Shape()
        self.page = page or candidate.page_size
        self.candidate, s = candidate, self.shape
        slots = (pages + 1) * self.page
        self.pools = {}
        for layer in range(s.layers):
            k = torch.zeros(slots, s.kv_heads, s.dim, dtype=s.dtype)
            v = k[..., : s.vdim] if s.latent else torch.zeros(slots, s.kv_heads, s.vdim,
                                                              dtype=s.dtype)  # fmt: skip
            self.pools[layer] = (k, v)
        self.free = list(range(1, pages + 1))[::-1]
        self.req_to_token = torch.zeros(9, context + 4, dtype=torch.int32)
        self.lengths: dict[int, int] = {}
        self.random = torch.Generator().manual_seed(0)
        served = Served(
            "mla" if s.latent else "gqa", s.layers, s.group, s.kv_heads, s.dim, s.vdim,
            (s.vdim, s.dim - s.vdim) if s.latent else (0, s.dim), context, "cpu",
        )  # fmt: skip
        self.inner = Inner(self)
        self.sparse = SparseDecode(candidate, served, self.pools, requests=len(self.req_to_token))
        self.steps: dict[int, int] = {}  # since a request's prefill, or its last dense step
        self.picks: dict[tuple[int, int], list[set[int]]] = {}  # by request and layer
        self.decoders: dict[tuple[int, int], Decoder] = {}  # of programs with states
        self.backend = VortexBackend(self.inner, self.sparse, self.req_to_token, **options)
        self.scale = s.dim**-0.5

    def draw(self, *shape: int) -> Tensor:
        """Random numbers that bf16 holds."""
        return torch.randn(*shape, generator=self.random).to(self.shape.dtype)

    def layer(self, number: int) -> Any:
        """What a backend is given for a layer."""
        return SimpleNamespace(layer_id=number, scaling=self.scale)

    def grow(self, request: int, tokens: int) -> Tensor:
        """Slots for new tokens of a request, new pages where they are needed."""
        at = self.lengths.get(request, 0)
        found = []
        for position in range(at, at + tokens):
            if position % self.page == 0:
                page = self.free.pop()
                self.req_to_token[request, position : position + self.page] = torch.arange(
                    page * self.page, (page + 1) * self.page
                )[: self.req_to_token.shape[1] - position]
            found.append(int(self.req_to_token[request, position]))
        self.lengths[request] = at + tokens
        return torch.tensor(found)

    def drop(self, request: int, *, keep: int = 0) -> None:
        """Free a request's pages beyond the first ``keep``; they are used again next."""
        pages = -(-self.lengths.pop(request) // self.page)
        slots = self.req_to_token[request, keep * self.page : pages * self.page : self.page]
        self.free += (slots // self.page).tolist()

    def share(self, source: int, request: int, pages: int) -> None:
        """Begin a request with another's first pages."""
        many = pages * self.page
        self.req_to_token[request, :many] = self.req_to_token[source, :many]
        self.lengths[request] = many

    def prefill(self, extends: dict[int, int], *, padded: int = 0) -> None:
        """Add tokens to requests, in one batch."""
        s, prefixes = self.shape, [self.lengths.get(r, 0) for r in extends]
        slots = torch.cat([self.grow(r, n) for r, n in extends.items()])
        batch = SimpleNamespace(
            forward_mode=Mode("extend"), batch_size=len(extends), out_cache_loc=slots,
            extend_prefix_lens_cpu=prefixes, extend_seq_lens_cpu=list(extends.values()),
            req_pool_indices=torch.tensor(list(extends)),
            seq_lens=torch.tensor([self.lengths[r] for r in extends]),
        )  # fmt: skip
        self.steps |= dict.fromkeys(extends, 0)
        self.decoders = {at: d for at, d in self.decoders.items() if at[0] not in extends}
        self.backend.init_forward_metadata(batch)
        for number in range(s.layers):
            k = self.draw(len(slots), s.kv_heads, s.dim)
            v = self.draw(len(slots), s.kv_heads, s.vdim)
            q = self.draw(len(slots), s.heads * s.dim)
            self.backend.forward(q, k, v, self.layer(number), batch)

    def batch(self, *requests: int, pad: int = 0) -> SimpleNamespace:
        """One step of requests, which grow by a token."""
        slots = torch.cat([self.grow(r, 1) for r in requests] + [torch.zeros(pad).long()])
        lengths = torch.tensor([self.lengths[r] for r in requests] + [1] * pad)
        return SimpleNamespace(
            forward_mode=Mode("decode"), batch_size=len(lengths), out_cache_loc=slots,
            seq_lens=lengths, req_pool_indices=torch.tensor([*requests, *[0] * pad]),
            seq_lens_cpu=lengths.clone(),
        )  # fmt: skip

    def decode(
        self, *requests: int, pad: int = 0, graph: bool = False, saved: bool = False,
        split: bool = False,
    ) -> list[Agreement]:  # fmt: skip
        """One step; every output is checked against the reference.

        Args:
            pad: rows that a captured graph has besides.
            graph: call what is called around a graph.
            saved: keys and values are in the pool before attention.
            split: MLA's parts come apart.
        """
        s, rows = self.shape, len(requests) + pad
        batch = self.batch(*requests, pad=pad)
        slots = batch.out_cache_loc
        if graph:
            self.backend.init_forward_metadata_out_graph(batch)
            self.backend.init_forward_metadata_in_graph(batch)
        else:
            self.backend.init_forward_metadata(batch)
        # After the snapshot the scheduler may write: what a graph must not read.
        held = self.req_to_token.clone()
        if graph and not self.backend.dense:  # the inner backend here keeps no snapshot
            self.req_to_token.random_(0, 7)
        found = []
        outputs = []
        for number in range(s.layers):
            k, v = self.draw(rows, s.kv_heads, s.dim), self.draw(rows, s.kv_heads, s.vdim)
            q = self.draw(rows, s.heads * s.dim)
            if saved:
                self.inner._write(number, slots, k, v)
            more: dict[str, Any] = {"save_kv_cache": not saved}
            given = (q, k, k[..., : s.vdim] if s.latent else v)
            if split:
                parts = q.view(rows, s.heads, s.dim)
                more |= {"q_rope": parts[..., s.vdim :], "k_rope": k[..., s.vdim :]}
                given = (parts[..., : s.vdim].contiguous(), k[..., : s.vdim], given[2])
            outputs.append((number, q, self.backend.forward(
                *given, self.layer(number), batch, **more
            )))  # fmt: skip
            step = self.backend._step
            found.append(None if step is None else (step.buffers.pages.clone(),
                                                    step.buffers.counts.clone()))  # fmt: skip
        self.req_to_token.copy_(held)
        agreed = [
            agreement
            for (number, q, out), lists in zip(outputs, found, strict=True)
            for agreement in self._checked(number, q, out, lists, requests)
        ]
        for request in requests:
            self.steps[request] = 0 if self.backend.dense else self.steps[request] + 1
        return agreed

    def _checked(
        self, number: int, q: Tensor, out: Tensor, lists: tuple[Tensor, Tensor] | None,
        requests: tuple[int, ...],
    ) -> list[Agreement]:  # fmt: skip
        s, size, found = self.shape, self.candidate.page_size, []
        for row, request in enumerate(requests):
            length = self.lengths[request]
            total = -(-length // size)
            table = (self.req_to_token[request, : total * size : size] // size).tolist()
            chosen = tuple(frozenset(range(total)) for _ in range(s.kv_heads))
            if lists is not None and number in self.sparse.layers:
                pages, counts = lists
                logical = {page: i for i, page in enumerate(table)}
                chosen = tuple(
                    frozenset(logical[int(p)] for p in pages[row, h, : int(counts[row, h])])
                    for h in range(s.kv_heads)
                )
                cache = self.sparse.caches[number]
                anchor = self.sparse.anchors[number]
                ranks = self.steps[request] % self.candidate.policies.reuse_steps == 0
                if anchor == number:
                    self._held_to_picks(number, request, chosen, ranks=ranks)
                choice = Choice(
                    q[row].view(s.heads, s.dim), cache.k[table], cache.v[table], chosen,
                    length, number, s.layers, self.scale, self.sparse.served.rope,
                )  # fmt: skip
                if anchor == number and self.candidate.states:
                    found.append(self._with_states(request, choice))
                elif anchor == number and ranks:
                    found.append(compare(self.candidate, choice))
            wanted = self.full(number, request, length, q[row], chosen)
            gap = (out[row].view(s.heads, s.vdim).float() - wanted).abs().max()
            assert float(gap) < 0.02, f"request {request}, layer {number}: {float(gap):.3f}"
        return found

    def _with_states(self, request: int, choice: Choice) -> Agreement:
        """Held against a reference that saw every step of the request."""
        at = request, choice.layer
        decoder = self.decoders.setdefault(at, decoder_of(self.candidate, choice))
        found = compare(self.candidate, choice, decoder=decoder)
        decoder.advance()
        if found.near:  # a tie fell the other way: the reference goes on from there
            rows = self.sparse.fields[choice.layer].rows
            pages = choice.length // self.candidate.page_size
            for head in range(self.shape.kv_heads):
                decoder._states[choice.layer, head] = {
                    name: rows[f"state{i}"][request, head, :pages].clone()
                    for i, name in enumerate(self.candidate.states)
                }
        return found

    def _held_to_picks(
        self, number: int, request: int, chosen: tuple[frozenset[int], ...], *, ranks: bool
    ) -> None:
        """A step that does not rank attends to what the last ranking picked, and to what is
        reserved now."""
        plan, size = plan_of(self.candidate.select), self.candidate.page_size
        sinks, recent = reserved_counts(plan, Scaling(size, 1.0))
        kept = reserved(self.lengths[request], page_size=size, sinks=sinks, recent=recent)
        if ranks:
            self.picks[request, number] = [set(pages) - kept for pages in chosen]
        else:
            assert [set(c) for c in chosen] == [p | kept for p in self.picks[request, number]]

    def full(
        self, number: int, request: int, length: int, q: Tensor,
        chosen: tuple[frozenset[int], ...] | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention over all tokens, or those of the chosen pages: ``[head, vdim]``."""
        s, size = self.shape, self.candidate.page_size
        slots = self.req_to_token[request, :length].long()
        k, v = (x[slots].float() for x in self.pools[number])
        rows = []
        for head in range(s.heads):
            own = head // s.group
            keep = torch.tensor([
                chosen is None or t // size in chosen[own] for t in range(length)
            ])  # fmt: skip
            logits = (k[:, own] @ q.view(s.heads, s.dim)[head].float()) * self.scale
            rows.append(torch.softmax(logits.masked_fill(~keep, -torch.inf), 0) @ v[:, own])
        return torch.stack(rows)
