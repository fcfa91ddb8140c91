"""Decodes page-sparse layers on the engine's own pools: launches and the memory that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vortex.errors import ExitCode, VortexError
from vortex.ir import Candidate
from vortex.plan import anchors, attended_tokens, dense_layers, plan_of
from vortex.schedule import Schedule
from vortex.serving.sglang.bookkeeping import Turns, covered_tokens, newest_pages, paged
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache, Workspace
from vortex.triton.backend import Fields, append_tokens, attend_chosen, follow, route
from vortex.triton.buffers import Buffers, Followed
from vortex.triton.kernels import MOST_PAGES, Kernels, kernels
from vortex.triton.runtime import compiled_ahead, launch
from vortex.triton.schedules import StepShape, schedule_for
from vortex.triton.store import store_tokens
from vortex.triton.tiles import Unfused

_MOST_AT_ONCE = 32768  # pages of one launch: a grid's last axis has at most 65,535


@dataclass(frozen=True, slots=True)
class Served:
    """The attention of the model that an engine serves, as one rank has it.

    Attributes:
        layers: of the whole model.
        group: query heads of a KV head; kv_heads: of this rank.
        dim, vdim: columns of a key and of a value.
        rope: rotary columns of a key, first and count.
        context: the longest sequence.
        device: as torch names the GPU.
    """

    kind: Literal["gqa", "mla"]
    layers: int
    group: int
    kv_heads: int
    dim: int
    vdim: int
    rope: tuple[int, int]
    context: int
    device: str


@dataclass(slots=True)
class Step:
    """What one batch size needs, in memory that does not move: a captured graph reads it.

    Attributes:
        table: int32 ``[row, page]``; lengths: int32 ``[row]``.
        newest: int32 ``[row, 1]``; whole: int32 ``[row]`` (see ``newest_pages``).
        newest_known: whether the step has computed the last two.
    """

    table: Tensor
    lengths: Tensor
    newest: Tensor
    whole: Tensor
    buffers: Buffers
    schedule: Schedule
    newest_known: bool = False


@dataclass(slots=True)
class Space:
    """Static memory of batches of at most ``rows`` sequences. Steps follow one another, so that
    all sizes share it: graphs of several sizes, too.

    Attributes:
        table, lengths, newest, whole: see ``Step``; the others: see ``Buffers``.
        schedules: by the size of a batch, a power of two.
    """

    rows: int
    table: Tensor
    lengths: Tensor
    newest: Tensor
    whole: Tensor
    pages: Tensor
    counts: Tensor
    scratch: Tensor
    counter: Tensor
    slots: Tensor
    ranks: Tensor
    followed: Followed | None
    workspace: Workspace
    schedules: dict[int, Schedule]


class SparseDecode:
    """A candidate on the pools of an engine.

    Attributes:
        layers: those that it decodes, global numbers; the others attend to everything.
        ranking: those of them that rank pages, and so keep fields.
        covered: sequences up to so many tokens are attended to wholly.
        caches: views of the pools by layer.
        turns: where a program keeps something of a request, when it ranks.

    Raises:
        VortexError: E804, sequences have too many pages; E805, the program cannot be served; E807,
            no memory for its fields.
    """

    def __init__(
        self, candidate: Candidate, served: Served, pools: Mapping[int, tuple[Tensor, Tensor]],
        *, requests: int,
    ) -> None:  # fmt: skip
        """Make room for everything but the batch.

        Args:
            pools: keys ``[slot, kv_head, dim]`` and values of each layer; on MLA values are the
                first columns of the keys.
            requests: that the engine may hold at once: rows of ``req_to_token``.
        """
        self.served, size = served, candidate.page_size
        device = next(iter(pools.values()))[0].device
        numbers = {ref: m.to(device) for ref, m in candidate.matrices.items()}
        self.candidate = replace(candidate, matrices=numbers)
        everything = plan_of(candidate.select).everything
        dense = dense_layers(candidate, served.layers, served.layers)
        self.layers = frozenset() if everything else frozenset(range(served.layers)) - dense
        self.anchors = anchors(served.layers, dense, candidate.policies.reuse_layers)
        self.ranking = frozenset(self.anchors[layer] for layer in self.layers)
        self.covered, self.width = covered_tokens(candidate), -(-served.context // size)
        self.caches = {
            layer: Cache(paged(k, size), paged(v, size), size)
            for layer, (k, v) in pools.items() if layer in self.layers
        }  # fmt: skip
        self.device = device
        self.fields: dict[int, Fields] = {}
        self.kernels: Kernels | None = None
        if self.layers and self.width > MOST_PAGES:
            raise VortexError(
                f"a context of {served.context:,} tokens has {self.width:,} pages of {size}; "
                f"rankings choose among {MOST_PAGES:,} at most", code="E804",
                hint=f"--context-length {MOST_PAGES * size}", exit_code=ExitCode.ENVIRONMENT,
            )  # fmt: skip
        self.turns: Turns | None = None
        self._states: dict[str, float] = {}  # first values, by argument
        if self.layers:
            self._prepare(requests)

    def _prepare(self, requests: int) -> None:
        served, cache = self.served, next(iter(self.caches.values()))
        strides = (cache.k.stride(2), cache.v.stride(2))
        shapes = Shapes(served.group, served.dim, served.vdim, served.rope, served.layers, strides)
        try:
            self.kernels = kernels(self.candidate, shapes)
        except Unfused as reason:
            raise _unserved(reason.message) from None
        scoring = self.kernels.scoring
        if scoring is not None and (scoring.keeps or scoring.states):
            every = self.candidate.policies.reuse_steps
            self.turns = Turns.of(every, requests, self.device)
            given = self.candidate.states
            self._states = {argument: given[name] for argument, name in scoring.states.items()}
        try:
            for layer in sorted(self.ranking):
                self.fields[layer] = Fields.of_layer(
                    self.kernels, layer, pages=cache.k.shape[0], rows=requests, width=self.width,
                    kv_heads=served.kv_heads, device=self.device,
                )  # fmt: skip
                for array in self.fields[layer].arrays.values():
                    array.zero_()  # a page is read only once complete; zeros harm less than NaN
        except torch.OutOfMemoryError:
            raise VortexError(
                "no memory is left for the fields of the program's pages", code="E807",
                hint="lower --mem-fraction-static, or --max-running-requests for a program that "
                "keeps rankings or states", exit_code=ExitCode.ENVIRONMENT,
            ) from None  # fmt: skip

    @property
    def field_bytes(self) -> int:
        """Memory that the program keeps beside the engine's pools."""
        arrays = [a for f in self.fields.values() for a in (*f.arrays.values(), *f.rows.values())]
        return sum(a.numel() * a.element_size() for a in arrays)

    def space(self, rows: int) -> Space:
        """Memory for batches of up to ``rows`` sequences."""
        heads, channels = self.served.kv_heads, self.kernels.channels if self.kernels else 0

        def whole(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int32, device=self.device)

        scratch = torch.empty(max(1, rows * heads * channels * self.width), device=self.device)
        followed = None
        if self.kernels is not None:
            followed = Followed.of(self.kernels, rows, heads, self.width, self.device)
        # Few schedules, so that few kernels are compiled: those of powers of two.
        schedules = {1 << i: self._schedule(1 << i) for i in range((rows - 1).bit_length() + 1)}
        splits = max(min(n, rows) * s.attend.splits for n, s in schedules.items())
        work = Workspace.of(1, heads * self.served.group, self.served.vdim, splits, self.device)
        return Space(
            rows, whole(rows, self.width), whole(rows).fill_(1), whole(rows, 1), whole(rows),
            whole(rows, heads, self.width), whole(rows, heads), scratch, whole(rows * heads),
            whole(rows), whole(rows).fill_(1), followed,
            replace(work, counter=whole(rows * heads * self.served.group)), schedules,
        )  # fmt: skip

    def step(self, space: Space, rows: int) -> Step:
        """What a batch of so many sequences uses of a space."""
        schedule, work = space.schedules[1 << (rows - 1).bit_length()], space.workspace
        buffers = Buffers(  # no layer here attends to everything: one workspace is enough
            space.pages[:rows], space.counts[:rows], space.scratch, space.counter, work, work,
            space.slots[:rows], space.ranks[:rows],
            space.followed.first(rows) if space.followed else None,
        )  # fmt: skip
        return Step(
            space.table[:rows], space.lengths[:rows], space.newest[:rows], space.whole[:rows],
            buffers, schedule,
        )  # fmt: skip

    def _schedule(self, rows: int) -> Schedule:
        served, size, context = self.served, self.candidate.page_size, self.served.context
        arrays = [a for f in list(self.fields.values())[:1] for a in f.arrays.values()]
        index = sum(a[0].numel() * a.element_size() for a in arrays)
        attended = attended_tokens(self.candidate, context, context, layers=served.layers)
        return schedule_for(served.device, StepShape(
            served.kind, rows * served.kv_heads, served.group, served.dim, served.vdim, size,
            context, attended, index,
        ))  # fmt: skip

    def summarise(self, layer: int, pages: Tensor, whole: Tensor) -> None:
        """Fields of complete pages, read from the pool.

        Args:
            pages: int32 ``[n, 1]``, physical; whole: int32 ``[n]``, the page size for those that
                are complete, 0 for those to leave alone.
        """
        assert self.kernels is not None
        if layer not in self.ranking or self.kernels.summarise is None or not len(pages):
            return
        cache, fields = self.caches[layer], self.fields[layer]
        for at in range(0, len(pages), _MOST_AT_ONCE):
            part, complete = pages[at : at + _MOST_AT_ONCE], whole[at : at + _MOST_AT_ONCE]
            launch(
                self.kernels.summarise, (1, self.served.kv_heads, len(part)),
                cache.k, cache.v, *fields.arrays.values(), *fields.matrices.values(), part,
                complete, part.stride(0), *cache.k.stride()[:2], *cache.v.stride()[:2],
            )  # fmt: skip

    def keep(self, layer: int, step: Step, k: Tensor | None, v: Tensor | None) -> None:
        """Put the step's keys and values into the pool, and finish the pages that they complete.

        Args:
            k, v: ``[row, kv_head, dim]``, dense within a row; None: they are in the pool already.
        """
        assert self.kernels is not None
        if k is None or v is None:
            if layer in self.ranking and self.kernels.summarise is not None:
                if not step.newest_known:
                    newest_pages(step.table, step.lengths, self.candidate.page_size, step.newest,
                                 step.whole)  # fmt: skip
                    step.newest_known = True
                self.summarise(layer, step.newest, step.whole)
            return
        cache = self.caches[layer]
        if layer in self.ranking and self.kernels.append is not None:
            append_tokens(self.kernels, cache, self.fields[layer], step.table, step.lengths, k, v)
            return
        store_tokens(cache, step.table, step.lengths, k, v)

    def attend(self, layer: int, step: Step, q: Tensor, out: Tensor, *, scale: float) -> None:
        """Choose pages where the layer ranks, and attend to them.

        Args:
            q: ``[row, head, dim]``, unscaled, heads dense; out: ``[row, head, vdim]``, written.
        """
        assert self.kernels is not None
        if layer in self.ranking:
            route(
                self.kernels, step.schedule, q, self.fields[layer], step.table, step.lengths,
                step.buffers, scale=scale, layer=layer,
            )  # fmt: skip
        attend_chosen(
            self.kernels, step.schedule, q, self.caches[layer], step.table, step.lengths,
            step.buffers, out, scale=scale,
        )  # fmt: skip
        if layer in self.ranking:
            follow(
                self.kernels, step.schedule, q, self.caches[layer], self.fields[layer],
                step.lengths, step.buffers, scale=scale, layer=layer,
            )  # fmt: skip

    def compile_ahead(self, space: Space, dtype: torch.dtype) -> None:
        """Compile what steps of every size launch, all at once rather than one after the other.

        Args:
            dtype: of queries, and of keys before they are stored.
        """
        served = self.served
        heads, latent = served.kv_heads * served.group, served.kind == "mla"
        others = sorted(self.layers - self.ranking)  # these append no fields

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device=self.device)

        with compiled_ahead():
            for rows in sorted({min(n, space.rows) for n in space.schedules}):
                step, q = self.step(space, rows), empty(rows, heads, served.dim)
                k, out = empty(rows, served.kv_heads, served.dim), empty(rows, heads, served.vdim)
                v = k if latent else empty(rows, served.kv_heads, served.vdim)
                for layer in (min(self.ranking), *others[:1]):
                    self.keep(layer, step, k, v)
                    self.attend(layer, step, q, out, scale=1.0)
            self.summarise(min(self.ranking), step.newest, step.whole)

    def begin(self, requests: Tensor, seq_lens: Tensor) -> None:
        """These requests, which have so many tokens now, were prefilled: what was kept of whoever
        had their rows is gone."""
        if self.turns is not None:
            self.turns.restart(requests, seq_lens)
        for name, first in self._states.items():
            for fields in self.fields.values():
                fields.rows[name][requests.long()] = first


def _unserved(why: str) -> VortexError:
    return VortexError(
        f"this program cannot be served yet: {why}", code="E805",
        hint="`vortex-search check` shows a program's launches; choose one without this",
    )  # fmt: skip
