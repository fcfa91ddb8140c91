"""Attention over latents by copied tiles, against softmax in float64 and the plain kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from vortex.schedule import AttendSchedule  # noqa: E402
from vortex.triton import attend as plain  # noqa: E402
from vortex.triton.attend import attend  # noqa: E402
from vortex.triton.attend_latent import attend_latent, by_tiles  # noqa: E402
from vortex.triton.paged_cache import Cache, Workspace  # noqa: E402

DEVICE = torch.device("cuda" if GPU else "cpu")
LENGTHS = (1, 63, 64, 65, 500, 705)
FIRST = AttendSchedule(block=32, splits=3, warps=4, stages=2, transposed=True)


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
        assert by_tiles(self.cache, self.q.shape[-1], schedule.block, self.q.dtype)
        attend_latent(
            self.q, self.cache, pages, counts, self.lengths, out, scale=self.scale,
            schedule=schedule, workspace=work, lse=lse,
        )  # fmt: skip
        return out, lse, *self.exact(pages, counts)


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def agrees(setting: Setting, schedule: AttendSchedule, *, whole: bool = False) -> None:
    out, lse, exact, sums = setting.attended(schedule, whole=whole)
    assert gap(out, exact) < 0.01
    assert float((lse.double() - sums).abs().max()) < 0.02


@pytest.mark.parametrize("whole", [False, True], ids=["listed", "whole"])
@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("turned", [False, True])
def test_lists_and_whole_sequences(whole: bool, block: int, turned: bool) -> None:
    agrees(Setting.of(), replace(FIRST, block=block, transposed=turned), whole=whole)


@pytest.mark.skipif(not GPU, reason="the interpreter knows neither warps nor stages")
@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_tiles_warps_and_stages_on_a_device(block: int, warps: int, stages: int) -> None:
    setting = Setting.of(heads=20, vdim=512, rest=64, lengths=(2048, 4000))
    schedule = replace(FIRST, block=block, warps=warps, stages=stages)
    agrees(setting, schedule)
    agrees(setting, schedule, whole=True)


@pytest.mark.parametrize("splits", [1, 2, 7, 16])
@pytest.mark.parametrize("stages", [1, 3])
def test_any_number_of_splits_more_than_there_are_tiles_too(splits: int, stages: int) -> None:
    agrees(Setting.of(), replace(FIRST, splits=splits, stages=stages))


@pytest.mark.parametrize(
    "other",
    [
        {"page": 32, "own": 64}, {"page": 32, "own": 32}, {"page": 64, "own": 128},
        {"apart": 16}, {"heads": 1}, {"heads": 16}, {"heads": 20, "vdim": 512, "rest": 64},
        {"scaled": True},
    ],
    ids=str,
)  # fmt: skip
def test_pages_widths_strides_and_scales(other: dict[str, int]) -> None:
    setting = Setting.of(**other)  # type: ignore[arg-type]
    agrees(setting, FIRST)
    agrees(setting, replace(FIRST, splits=1), whole=True)


def test_the_plain_kernel_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting.of()
    out, lse, _, _ = setting.attended(FIRST)
    monkeypatch.setattr(plain, "by_tiles", lambda *_: False)
    other, sums = torch.empty_like(out), torch.empty_like(lse)
    pages, counts = setting.lists()
    attend(
        setting.q, setting.cache, pages, counts, setting.lengths, other, scale=setting.scale,
        schedule=FIRST, workspace=Workspace.of(len(out), out.shape[1], 64, 3, DEVICE), lse=sums,
    )  # fmt: skip
    assert gap(out, other.double()) < 0.01
    assert torch.allclose(lse, sums, atol=0.01)


def test_tiles_are_copied_only_as_they_lie() -> None:
    cache, dim, bf16 = Setting.of().cache, 80, torch.bfloat16
    assert by_tiles(cache, dim, 32, bf16)
    assert not by_tiles(cache, dim, 128, bf16), "a tile of two pages"
    assert not by_tiles(cache, dim, 32, torch.float16), "another type than the queries'"
    assert not by_tiles(Setting.of(vdim=48).cache, 64, 32, bf16), "no power of two"
    assert not by_tiles(Setting.of(apart=4).cache, dim, 32, bf16), "rows not 16 bytes apart"
    apart = replace(cache, v=cache.v.clone())
    assert not by_tiles(apart, dim, 32, bf16), "values of their own"
    k = cache.k[::2]
    assert not by_tiles(replace(cache, k=k, v=k[..., :64]), dim, 32, bf16), "gaps between pages"
