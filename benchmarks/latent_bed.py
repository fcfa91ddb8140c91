"""Latents in scattered pages, and exact attention over them: what the kernels of
``latent_tiles.py`` are held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.latent_tiles import attend_latent, by_tiles
from vortex.schedule import AttendSchedule
from vortex.triton.attend import Cache, Workspace

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = (1, 63, 64, 65, 500, 705)


@dataclass
class Setting:
    """Latents in scattered pages; what no token has written is NaN."""

    cache: Cache
    q: Tensor
    table: Tensor
    lengths: Tensor
    scale: float

    @staticmethod
    def of(
        *, page: int = 64, own: int = 64, heads: int = 5, vdim: int = 64, rest: int = 16,
        apart: int = 0, lengths: tuple[int, ...] = LENGTHS, scaled: bool = False,
    ) -> Setting:  # fmt: skip
        """Random ones.

        Args:
            page: tokens of the program's page; own: of the cache's.
            apart: columns between the rows of the cache, unread.
        """
        g = torch.Generator().manual_seed(0)
        dim, width = vdim + rest, -(-max(lengths) // own)
        slots = torch.full((len(lengths) * width * own, dim + apart), float("nan"))
        order = torch.randperm(len(lengths) * width, generator=g).view(len(lengths), width)
        for row, length in enumerate(lengths):
            for at in range(length):
                slot = int(order[row, at // own]) * own + at % own
                slots[slot, :dim] = torch.randn(dim, generator=g)
        k = slots.to(DEVICE, torch.bfloat16).view(-1, 1, own, dim + apart)[..., :dim]
        scales = torch.full((1,), 0.5, device=DEVICE) if scaled else None
        table = (order[..., None] * (own // page) + torch.arange(own // page)).flatten(1)
        return Setting(
            Cache(k, k[..., :vdim], page, scales, scales),
            torch.randn(len(lengths), heads, dim, generator=g).to(DEVICE, torch.bfloat16),
            table.to(DEVICE, torch.int32),
            torch.tensor(lengths, dtype=torch.int32, device=DEVICE), dim**-0.5,
        )  # fmt: skip

    def lists(self) -> tuple[Tensor, Tensor]:
        """Every other page of each row, and its newest; poison behind the end."""
        pages, counts = torch.full_like(self.table, 2**30), torch.zeros_like(self.lengths)
        for row, length in enumerate(self.lengths.tolist()):
            last = (length - 1) // self.cache.page_size
            chosen = [*range(0, last, 2), last]
            pages[row, : len(chosen)] = self.table[row, chosen]
            counts[row] = len(chosen)
        return pages[:, None], counts[:, None]

    def exact(self, pages: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs and log-sum-exps in float64."""
        cache, size = self.cache, self.cache.page_size
        per = cache.k.shape[2] // size
        flat = cache.k.double().unflatten(2, (per, size)).permute(0, 2, 1, 3, 4)
        flat = flat.reshape(-1, size, flat.shape[-1])
        factor = 1.0 if cache.k_scale is None else float(cache.k_scale)
        outs, sums = [], []
        for row, length in enumerate(self.lengths.tolist()):
            count = -(-length // size) if counts is None else int(counts[row])
            listed = pages.view(len(pages), -1)[row, :count].long()
            tokens = (count - 1) * size + (length - 1) % size + 1
            keys = flat[listed].reshape(-1, flat.shape[-1])[:tokens] * factor
            logits = self.q[row].double() @ keys.T * self.scale
            outs.append(logits.softmax(-1) @ keys[:, : cache.v.shape[-1]])
            sums.append(logits.logsumexp(-1))
        return torch.stack(outs), torch.stack(sums)

    def attended(
        self, schedule: AttendSchedule, *, whole: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Outputs and log-sum-exps of the kernel, and the exact ones; memory is poisoned first."""
        rows, heads, _ = self.q.shape
        vdim = self.cache.v.shape[-1]
        work = Workspace.of(rows, heads, vdim, schedule.splits, DEVICE)
        work.partial.fill_(float("nan"))
        work.stats.fill_(float("nan"))
        out = torch.full((rows, heads, vdim), float("nan"), dtype=torch.bfloat16, device=DEVICE)
        lse = torch.full((rows, heads), float("nan"), device=DEVICE)
        pages, counts = (self.table, None) if whole else self.lists()
        if not by_tiles(self.cache, self.q.shape[-1], schedule.block, self.q.dtype):
            raise ValueError("tiles cannot be copied as they lie")
        attend_latent(
            self.q, self.cache, pages, counts, self.lengths, out, scale=self.scale,
            schedule=schedule, workspace=work, lse=lse,
        )  # fmt: skip
        return out, lse, *self.exact(pages, counts)


def gap(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over that of what is wanted."""
    return float((found.double() - wanted).norm() / wanted.norm())
