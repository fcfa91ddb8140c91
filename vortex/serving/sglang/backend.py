"""The attention backend: an inner backend of the engine, with sparse layers decoded here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vortex.errors import ExitCode, VortexError
from vortex.serving.sglang.bookkeeping import (
    completed_offsets,
    completed_pages,
    fill_table,
    newest_token,
)
from vortex.serving.sglang.graphs import check_switch
from vortex.serving.sglang.sparse import Space, SparseDecode, Step
from vortex.serving.sglang.tap import Tap

_MOST_PENDING = 64
_log = logging.getLogger(__name__)

# What this class keeps; every other attribute is the inner backend's, read and written.
_OWN = frozenset({
    "inner", "sparse", "requests", "tap", "attends_all", "two_graphs", "dense", "capture_dense",
    "_dtype", "_all_sparse", "_graph_space", "_eager_space", "_step", "_complete", "_whole",
    "_finished", "_pending",
})  # fmt: skip


class VortexBackend:
    """An inner backend with another decode step on sparse layers.

    Page summaries belong to physical pages. They are computed from the pool when a page's last
    token is written, on the stream of the forward pass, whoever wrote it: after a prefill's
    attention, or in the decode step. So prefix sharing, retraction and reuse of pages need
    nothing: who writes a page again completes it again, and an incomplete page is never scored.
    What a ranking picked, where later steps go on with it, and states belong to a request.

    Attributes:
        inner: does prefill, dense layers, and dense steps.
        requests: ``req_to_token`` of the engine, int32 ``[request, position]``.
        attends_all: whether a step of these lengths (None: unknown) attends to everything.
        two_graphs: whether dense steps have graphs of their own.
        dense: whether the step at hand is one; capture_dense: whether those captured now are.
    """

    needs_cpu_seq_lens = True  # the rule of dense steps reads them, whatever the inner one does

    def __init__(
        self,
        inner: Any,
        sparse: SparseDecode,
        requests: Tensor,
        *,
        attends_all: Callable[[Tensor | None], bool] = lambda lengths: False,
        tap: Tap | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.inner, self.sparse, self.requests = inner, sparse, requests
        self.attends_all, self.tap = attends_all, tap
        self.two_graphs = self.dense = self.capture_dense = False
        self._dtype = dtype  # of the model
        self._all_sparse = len(sparse.layers) == sparse.served.layers
        self._graph_space: Space | None = None
        self._eager_space: Space | None = None
        self._step: Step | None = None
        self._complete: Tensor | None = None  # pages that this prefill completes
        self._whole: Tensor | None = None
        self._finished: set[int] = set()
        self._pending: list[tuple[Tensor, Tensor]] = []  # completed by dense steps

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    # -- what the engine calls once a step ------------------------------------------------------

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        """Memory that captured graphs will read.

        Raises:
            VortexError: E804, the switch of a measurement would choose nothing.
        """
        if self.sparse.layers:
            check_switch(self.two_graphs)
        self.inner.init_cuda_graph_state(max_bs, max_num_tokens)
        if self.sparse.layers:
            self._graph_space = self.sparse.space(max_bs)
            if self._graph_space.table.is_cuda:
                self._compile_ahead(self._graph_space)

    def _compile_ahead(self, space: Space) -> None:
        began = time.perf_counter()
        try:
            self.sparse.compile_ahead(space, self._dtype)
        except Exception as error:  # of a compiler, any kind: the first launch shows it
            _log.warning("vortex: kernels were not compiled ahead: %s", error)
            return
        _log.info("vortex: kernels compiled in %.1f s", time.perf_counter() - began)

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Before a step that no graph runs, and before a prefill."""
        self.inner.init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        if mode.is_decode():
            self.dense = self.attends_all(forward_batch.seq_lens_cpu)
            self._begin(forward_batch, captured=False)
        elif mode.is_extend():
            self._plan(forward_batch)

    def init_forward_metadata_out_graph(
        self, forward_batch: Any, in_capture: bool = False
    ) -> None:  # fmt: skip
        """Before a graph is captured or replayed: the page table is read here, not in the graph,
        since the scheduler may write it while the graph runs."""
        decodes = forward_batch.forward_mode.is_decode()
        if decodes:
            self.dense = self.capture_dense if in_capture else (
                self.two_graphs and self.attends_all(forward_batch.seq_lens_cpu)
            )  # fmt: skip
        # What the inner backend prepares is for layers that a sparse step may not have.
        if in_capture or not decodes or self.dense or not self._all_sparse:
            self.inner.init_forward_metadata_out_graph(forward_batch, in_capture=in_capture)
        if decodes:
            self._begin(forward_batch, captured=True)

    def init_forward_metadata_in_graph(self, forward_batch: Any) -> None:
        """The part that is recorded."""
        self.inner.init_forward_metadata_in_graph(forward_batch)
        if self._step is not None:
            self._step.newest_known = False

    def _begin(self, batch: Any, *, captured: bool) -> None:
        sparse, rows, size = self.sparse, int(batch.batch_size), self.sparse.candidate.page_size
        self._step = None
        if not sparse.layers or not rows:
            return
        requests, lengths = batch.req_pool_indices[:rows], batch.seq_lens[:rows]
        if self.dense:
            self._defer(batch, requests, lengths)
            if sparse.turns is not None:
                sparse.turns.restart(requests, lengths)
            return
        self._catch_up()
        step = sparse.step(self._space(rows, captured), rows)
        if self.tap is not None:
            self.tap.begin(sparse, step)
        fill_table(self.requests, requests, lengths, size, step.table, step.lengths)
        if sparse.turns is not None:
            buffers = step.buffers
            sparse.turns.step(requests, lengths, buffers.slots, buffers.ranks)
        step.newest_known = False
        self._step = step

    def _space(self, rows: int, captured: bool) -> Space:
        if self._graph_space is not None and rows <= self._graph_space.rows:
            return self._graph_space
        if captured:  # the other space moves when a larger batch comes
            raise VortexError(
                f"a graph for {rows} sequences, and no memory was made for it", code="E804",
                exit_code=ExitCode.ENVIRONMENT,
            )  # fmt: skip
        if self._eager_space is None or rows > self._eager_space.rows:
            self._eager_space = self.sparse.space(1 << (rows - 1).bit_length())
        return self._eager_space

    def _defer(self, batch: Any, requests: Tensor, lengths: Tensor) -> None:
        """Keep for later which pages a dense step completes: no dense step reads summaries."""
        known, size = batch.seq_lens_cpu, self.sparse.candidate.page_size
        if known is not None and not (known % size == 0).any():
            return
        if len(self._pending) >= _MOST_PENDING:
            self._catch_up()
        self._pending.append(newest_token(self.requests, requests, lengths, size))

    def _catch_up(self) -> None:
        """Summaries of the pages that dense steps completed; their tokens are in the pool."""
        if not self._pending:
            return
        pages, whole = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending.clear()
        for layer in self.sparse.ranking:
            self.sparse.summarise(layer, pages, whole)

    def _plan(self, batch: Any) -> None:
        """Which pages a prefill completes: known before it, by lengths that the host has."""
        self._complete, self._finished = None, set()
        prefixes, extends = batch.extend_prefix_lens_cpu, batch.extend_seq_lens_cpu
        if prefixes is None or extends is None or batch.out_cache_loc is None:
            return  # a capture's dummy batch
        self.sparse.begin(batch.req_pool_indices, batch.seq_lens)
        size = self.sparse.candidate.page_size
        offsets = completed_offsets(list(prefixes), list(extends), size)
        offsets = [at for at in offsets if at < len(batch.out_cache_loc)]
        if offsets:
            self._complete = completed_pages(batch.out_cache_loc, offsets, size)
            self._whole = torch.full_like(self._complete[:, 0], size)

    # -- what a layer calls ---------------------------------------------------------------------

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: Any, forward_batch: Any,
        save_kv_cache: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Attention of one layer, by the mode of the batch.

        Args:
            q: ``[token, head * dim]`` of this rank; k: ``[token, kv_head * dim]``; v: likewise. On
                MLA the latent parts, with ``q_rope`` and ``k_rope`` beside them or joined.

        Returns:
            ``[token, head * vdim]``.
        """
        mode = forward_batch.forward_mode
        if mode.is_idle():
            return self.inner.forward(q, k, v, layer, forward_batch, save_kv_cache, **kwargs)
        run = self.forward_decode if mode.is_decode() else self.forward_extend
        return run(q, k, v, layer, forward_batch, save_kv_cache=save_kv_cache, **kwargs)

    def forward_extend(
        self, q: Tensor, k: Tensor, v: Tensor, layer: Any, forward_batch: Any,
        save_kv_cache: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Prefill by the inner backend, then summaries of the pages that it completed."""
        out = self.inner.forward_extend(
            q, k, v, layer, forward_batch, save_kv_cache=save_kv_cache, **kwargs
        )
        number = layer.layer_id
        if self._complete is not None and self._whole is not None and number not in self._finished:
            self._finished.add(number)
            self.sparse.summarise(number, self._complete, self._whole)
        return out

    def forward_decode(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: Any, forward_batch: Any,
        save_kv_cache: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """One token of every sequence: ``[row, head * vdim]``.

        Args:
            k, v: None where they are in the pool already.

        Raises:
            VortexError: E804, the model gives attention what sparse layers do not take.
        """
        sparse, step, number = self.sparse, self._step, layer.layer_id
        if self.dense or step is None or number not in sparse.layers:
            return self.inner.forward_decode(
                q, k, v, layer, forward_batch, save_kv_cache=save_kv_cache, **kwargs
            )
        q, k, v = self._joined(q, k, v, kwargs)
        served = sparse.served
        heads = served.kv_heads * served.group
        query = q.view(-1, heads, served.dim)
        if k is not None and v is not None:
            k = k.view(-1, served.kv_heads, served.dim)
            v = k if served.kind == "mla" else v.view(-1, served.kv_heads, served.vdim)
        kept = (k, v) if save_kv_cache else (None, None)
        sparse.keep(number, step, *kept)
        out = q.new_empty(len(query), heads, served.vdim)
        sparse.attend(number, step, query, out, scale=layer.scaling)
        if self.tap is not None and number in sparse.ranking:
            self.tap.keep(number, step, query, layer.scaling)
        return out.view(-1, heads * served.vdim)

    def _joined(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """MLA's parts as one: a model gives them apart to some backends."""
        q_rope, k_rope = kwargs.pop("q_rope", None), kwargs.pop("k_rope", None)
        unknown = sorted(name for name, value in kwargs.items() if value is not None)
        if unknown:
            raise VortexError(
                f"the model gives attention '{unknown[0]}', which sparse layers do not take",
                code="E804", exit_code=ExitCode.ENVIRONMENT,
            )  # fmt: skip
        served = self.sparse.served
        if q_rope is not None:
            heads, rope = served.kv_heads * served.group, served.dim - served.vdim
            q = torch.cat([q.view(-1, heads, served.vdim), q_rope.view(-1, heads, rope)], -1)
        if k is not None and k_rope is not None:
            k = torch.cat([k.view(-1, 1, served.vdim), k_rope.view(-1, 1, k_rope.shape[-1])], -1)
        return q, k, v
