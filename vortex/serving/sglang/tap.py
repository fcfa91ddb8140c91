"""Keeps what the engine chose, and what it chose from, so that it can be checked elsewhere.

Off unless ``SGLANG_VORTEX_TAP`` names a folder. Copies are recorded in the graphs; of the first
steps in which the first row ranks, and has more pages than its budget, that row is written: one
safetensors file for each step and layer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vortex.serving.sglang.bookkeeping import budget_tokens
from vortex.serving.sglang.internals import unsupported

if TYPE_CHECKING:
    from vortex.serving.sglang.sparse import SparseDecode, Step

FOLDER, STEPS = "SGLANG_VORTEX_TAP", "SGLANG_VORTEX_TAP_STEPS"


@dataclass
class Tap:
    """The tap of a rank.

    Attributes:
        layers: those that are watched.
        left: files are written for so many more steps.
    """

    folder: Path
    layers: frozenset[int]
    left: int
    written: int = 0
    step: Step | None = None
    held: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)

    @staticmethod
    def of(sparse: SparseDecode, rank: int) -> Tap | None:
        """What the environment asks for: the first, middle and last ranking layer.

        Raises:
            VortexError: E804, the number of steps is none.
        """
        folder = os.environ.get(FOLDER)
        ranking = sorted(sparse.ranking)
        if not folder or not ranking or sparse.candidate.states:
            return None  # with states, what a choice was made from is not in one step
        steps = os.environ.get(STEPS, "4")
        if not steps.isdecimal():
            raise unsupported(f"{STEPS} is no number of steps: {steps[:40]!r}")
        path = Path(folder) / f"rank{rank}"
        path.mkdir(parents=True, exist_ok=True)
        layers = frozenset({ranking[0], ranking[len(ranking) // 2], ranking[-1]})
        return Tap(path, layers, int(steps))

    def keep(self, layer: int, step: Step, q: Tensor, scale: float) -> None:
        """Copy the first row's query and list; may be recorded in a graph."""
        if layer not in self.layers:
            return
        pages, counts = step.buffers.pages[0], step.buffers.counts[0]
        if layer not in self.held:
            self.held[layer] = tuple(torch.zeros_like(x) for x in (q[0], pages, counts))  # type: ignore[assignment]
        for into, x in zip(self.held[layer], (q[0], pages, counts), strict=True):
            into.copy_(x)
        self.scales[layer] = scale

    def begin(self, sparse: SparseDecode, step: Step) -> None:
        """Before a step: write what the last one left. Waits for the device."""
        last = self.step
        if (
            last is not None and self.left > 0
            and int(last.lengths[0]) > budget_tokens(sparse.candidate)
            and bool(last.buffers.ranks[0])
        ):  # fmt: skip
            for layer in self.held:
                self._write(sparse, last, layer)
            self.left -= 1
            self.written += 1
        self.step = step if self.left > 0 else None

    def _write(self, sparse: SparseDecode, step: Step, layer: int) -> None:
        from safetensors.torch import save_file

        q, pages, counts = (x.cpu() for x in self.held[layer])
        size, length = sparse.candidate.page_size, int(step.lengths[0])
        own = step.table[0, : -(-length // size)]
        cache = sparse.caches[layer]
        tensors = {
            "q": q, "pages": pages[:, : int(counts.max())], "counts": counts, "table": own.cpu(),
            "k": cache.k[own.long()].cpu(), "v": cache.v[own.long()].cpu(),
        }  # fmt: skip
        facts = {
            "length": str(length), "layer": str(layer), "scale": repr(self.scales[layer]),
            "layers": str(sparse.served.layers), "rope": "{},{}".format(*sparse.served.rope),
        }  # fmt: skip
        path = self.folder / f"step{self.written:03d}_layer{layer:03d}.safetensors"
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=facts)
