"""Memory of a decode step on a device, allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.schedule import Schedule
from vortex.triton.attend import Workspace
from vortex.triton.kernels import Kernels


@dataclass(frozen=True, slots=True)
class Followed:
    """What is kept of a step for states.

    Attributes:
        places: int32 ``[row, kv_head, slot]``, logical pages of the lists.
        mass: float32 ``[row, kv_head, page]``, zero between steps.
        lse: float32 ``[row, head]``, of attention over the lists.
    """

    places: Tensor
    mass: Tensor
    lse: Tensor

    @staticmethod
    def of(
        k: Kernels, rows: int, kv_heads: int, width: int, device: torch.device
    ) -> Followed | None:  # fmt: skip
        """Room for it, or None where no kernel reads a state."""
        if k.updates is None:
            return None
        shape = (rows, kv_heads, width)
        return Followed(
            torch.zeros(shape, dtype=torch.int32, device=device),
            torch.zeros(shape, device=device), torch.zeros(rows, kv_heads * k.shapes.group,
                                                           device=device),
        )  # fmt: skip

    def first(self, rows: int) -> Followed:
        """Of the first rows."""
        return Followed(self.places[:rows], self.mass[:rows], self.lse[:rows])


@dataclass(frozen=True, slots=True)
class Buffers:
    """Memory of a step, allocated once; every layer of a step may use the same.

    Attributes:
        pages: int32 ``[row, kv_head, slot]``, chosen physical pages; counts: how many.
        scratch: float32, flat, row * kv_head * channel * page: what scoring keeps of each page.
        counter: int32 ``[row * kv_head]``, zero between launches.
        workspace, full_workspace: of attention over lists, and over everything.
        slots: int32 ``[row]``, where picks and states of a row are kept.
        ranks: int32 ``[row]``, 0 where a row lists again what was picked (Scoring.keeps).
        followed: what states need of a step; None without states.
    """

    pages: Tensor
    counts: Tensor
    scratch: Tensor
    counter: Tensor
    workspace: Workspace
    full_workspace: Workspace
    slots: Tensor
    ranks: Tensor
    followed: Followed | None

    @staticmethod
    def of(
        k: Kernels, schedule: Schedule, rows: int, kv_heads: int, width: int, device: torch.device
    ) -> Buffers:
        """Room for ``rows`` sequences of at most ``width`` pages."""
        heads = kv_heads * k.shapes.group
        channels = k.channels
        work, full = (
            Workspace.of(rows, heads, k.shapes.vdim, s.splits, device)
            for s in (schedule.attend, schedule.full)
        )
        return Buffers(
            torch.zeros(rows, kv_heads, width, dtype=torch.int32, device=device),
            torch.zeros(rows, kv_heads, dtype=torch.int32, device=device),
            torch.empty(max(1, rows * kv_heads * channels * width), device=device),
            torch.zeros(rows * kv_heads, dtype=torch.int32, device=device),
            work,
            full,
            torch.arange(rows, dtype=torch.int32, device=device),
            torch.ones(rows, dtype=torch.int32, device=device),
            Followed.of(k, rows, kv_heads, width, device),
        )
