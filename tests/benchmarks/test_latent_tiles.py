"""The experiment's kernel is right in Triton's interpreter: what is wrong on a device is not its
algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("on a device: python benchmarks/latent_tiles.py", allow_module_level=True)

from benchmarks import latent_tiles
from benchmarks.latent_bed import DEVICE, Setting, gap
from benchmarks.latent_tiles import by_tiles
from evals.device import tuning
from vortex.schedule import AttendSchedule
from vortex.triton.attend import Workspace, attend

FIRST = AttendSchedule(block=32, splits=3, warps=4, stages=2, transposed=True)


def agrees(setting: Setting, schedule: AttendSchedule, *, whole: bool = False) -> None:
    out, lse, exact, sums = setting.attended(schedule, whole=whole)
    assert gap(out, exact) < 0.01
    assert float((lse.double() - sums).abs().max()) < 0.02


@pytest.mark.parametrize("whole", [False, True], ids=["listed", "whole"])
@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("turned", [False, True])
def test_lists_and_whole_sequences(whole: bool, block: int, turned: bool) -> None:
    agrees(Setting.of(), replace(FIRST, block=block, transposed=turned), whole=whole)


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


def test_the_plain_kernel_gives_the_same() -> None:
    setting = Setting.of()
    out, lse, _, _ = setting.attended(FIRST)
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


def test_what_the_script_says_of_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(run: Callable[[int], None], layers: int, replays: int) -> list[float]:
        run(0)
        return [2e-6] * (layers * replays)

    monkeypatch.setattr(tuning, "replayed", once)
    monkeypatch.setattr(latent_tiles, "_LENGTHS", {"whole tiles": (64,), "a part of one": (70,)})
    monkeypatch.setattr(latent_tiles, "_RUNS", 2)
    for lengths in ("whole tiles", "a part of one"):
        found = latent_tiles.tried(replace(FIRST, splits=2), lengths)
        assert found["microseconds"] == 2.0
        for kind in ("listed", "whole"):
            said = found[kind]
            assert isinstance(said, dict) and said["same"] and 0 < said["error"] < 0.01
