"""One decode step of a model's attention on a device, layer by layer; it can be captured."""

from __future__ import annotations

from torch import Tensor

from vortex.ir import Candidate
from vortex.plan import anchors, plan_of
from vortex.triton.attend import Workspace, attend
from vortex.triton.choose import Chooser, Pool, Setting, chooser_of
from vortex.triton.store import store_tokens


class Decode:
    """Attention under a candidate; call it for the layers in order.

    Fill the pool, call :meth:`summarise` once; before each step, lengths count its tokens.

    Attributes:
        chooser: None where every layer attends to everything.
        ranks: whether the coming step ranks pages; a program may keep a ranking for some steps.

    Raises:
        Unfused: E613, the candidate cannot choose pages on a device.
    """

    def __init__(self, candidate: Candidate, pool: Pool, setting: Setting) -> None:
        self.pool, self.setting, self.ranks = pool, setting, True
        shapes, schedule = setting.shapes, setting.schedule
        layers = shapes.layers
        everything = plan_of(candidate.select).everything
        self.dense = frozenset(range(layers)) if everything else setting.dense
        self.chooser: Chooser | None = None
        if len(self.dense) < layers:
            self.chooser = chooser_of(candidate, pool, setting)
        self.anchors = anchors(layers, self.dense, candidate.policies.reuse_layers)
        rows, heads = len(pool.table), pool.kv_heads * shapes.group
        self._sparse, self._full = (
            Workspace.of(rows, heads, shapes.vdim, s.splits, pool.table.device)
            for s in (schedule.attend, schedule.full)
        )

    def summarise(self) -> None:
        """Fields of all complete pages."""
        if self.chooser is not None:
            self.chooser.summarise()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """Append a token of every sequence and attend.

        Args:
            q: ``[row, head, dim]`` after RoPE, unscaled; heads dense.
            k, v: ``[row, kv_head, dim]`` of the new tokens, dense within a row; on MLA v is the
                first columns of k.
            out: ``[row, head, vdim]``, written.
        """
        self.append(layer, k, v)
        self.attend(layer, q, out)

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the step's keys and values, and what scores need of them."""
        if self.chooser is None:
            store_tokens(self.pool.cache(layer), self.pool.table, self.pool.lengths, k, v)
            return
        self.chooser.append(layer, k, v)

    def attend(self, layer: int, q: Tensor, out: Tensor) -> None:
        """Choose pages and attend to them, or to everything."""
        pool, setting = self.pool, self.setting
        if layer in self.dense or self.chooser is None:
            attend(
                q, pool.cache(layer), pool.table, None, pool.lengths, out, scale=setting.scale,
                schedule=setting.schedule.full, workspace=self._full,
            )  # fmt: skip
            return
        pages, counts = self.chooser.choose(layer, self.anchors[layer], q, ranks=self.ranks)
        attend(
            q, pool.cache(layer), pages, counts, pool.lengths, out, scale=setting.scale,
            schedule=setting.schedule.attend, workspace=self._sparse, lse=self.chooser.lse,
        )  # fmt: skip
        self.chooser.attended(layer, q)
