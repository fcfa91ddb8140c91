"""The GPU backend against the reference: in Triton's interpreter, or on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from tests.vortex.kernel_parity import MLA, Case, bed, disagreements, scaled  # noqa: E402
from vortex.compile import compile_text  # noqa: E402
from vortex.ir import Candidate  # noqa: E402
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule  # noqa: E402
from vortex.triton.backend import append_tokens  # noqa: E402
from vortex.triton.tiles import Unfused  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk"
SEEDS = sorted(p.stem for p in (ROOT / "seeds").glob("*.py"))
LIBRARY = sorted(p.stem for p in (ROOT / "library").glob("*.py"))
DEVICE = "cuda" if GPU else "cpu"
BOTH = pytest.mark.parametrize(
    "case", [Case(device=DEVICE), scaled(MLA, device=DEVICE)], ids=["gqa", "mla"]
)


def seed(name: str, folder: str = "seeds", **knobs: object) -> Candidate:
    text = (ROOT / folder / f"{name}.py").read_text()
    given = {"budget": 1024, **knobs} if "budget" in text else knobs
    return compile_text(text, given)


def with_type(name: str, dtype: str) -> Candidate:
    text = (ROOT / "seeds" / f"{name}.py").read_text()
    return compile_text(
        text.replace("vx.Summary(", f'vx.Summary(dtype="{dtype}", '), {"budget": 1024}
    )


@BOTH
@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_chooses_and_attends_as_the_reference(name: str, case: Case) -> None:
    assert disagreements(bed(seed(name), case)) == []


@pytest.mark.parametrize("name", LIBRARY)
def test_an_algorithm_of_the_library_agrees_or_says_why_it_has_no_kernel(name: str) -> None:
    candidate = seed(name, "library", **({"budget": 2048} if name == "less_is_more" else {}))
    try:
        made = bed(candidate, Case(kv_heads=1, lengths=(115, 320), device=DEVICE))
    except Unfused as reason:
        assert reason.message
        pytest.skip(reason.message)
    assert disagreements(made) == []


@pytest.mark.parametrize("dtype", ["fp8", "int8", "int4"])
@pytest.mark.parametrize("name", ["quest", "block_centroid"])
def test_narrow_fields_are_rounded_as_the_reference_rounds_them(name: str, dtype: str) -> None:
    assert disagreements(bed(with_type(name, dtype), Case(device=DEVICE))) == []


@pytest.mark.parametrize(("group", "dim"), [(1, 96), (3, 128), (6, 64), (16, 64)])
def test_groups_and_widths_of_heads(group: int, dim: int) -> None:
    case = Case(group=group, dim=dim, vdim=dim, rope=(0, dim), device=DEVICE)
    assert disagreements(bed(seed("quest"), case)) == []


@pytest.mark.parametrize("size", [16, 32, 64])
def test_page_sizes_with_one_page_and_partial_pages(size: int) -> None:
    lengths = (1, size - 1, size, size + 1, 9 * size, 12 * size + 5)
    case = Case(lengths=lengths, device=DEVICE)
    assert disagreements(bed(seed("sub_centroids", page_size=size), case)) == []


def test_a_completed_page_is_summarised_as_the_step_appends_it() -> None:
    made = bed(seed("quest"), Case(lengths=(31, 32, 47, 160), device=DEVICE))
    before = {n: a.clone() for n, a in made.fields.arrays.items()}
    k, v = made.cache.k, made.cache.v
    new = torch.randn(2, 4, 2, 64, generator=torch.Generator().manual_seed(5))
    new_k, new_v = (x.to(k.device, torch.bfloat16) for x in new)
    made.lengths.add_(1)
    append_tokens(made.kernels, made.cache, made.fields, made.table, made.lengths, new_k, new_v)
    for row, length in enumerate(made.lengths.tolist()):
        page, slot = divmod(length - 1, 16)
        at = int(made.table[row, page])
        assert torch.equal(k[at, :, slot], new_k[row])
        assert torch.equal(v[at, :, slot], new_v[row])
        lo = made.fields.arrays["field0"].view(-1, 2, 64)[at]
        if length % 16 == 0:
            assert torch.equal(lo, k[at].amin(1))
        else:
            was = before["field0"].view(-1, 2, 64)[at]
            assert torch.equal(lo.nan_to_num(7.0), was.nan_to_num(7.0))


def test_equal_scores_fall_by_the_fixed_hash_of_the_page() -> None:
    text = (
        "import vortex as vx\nclass Flat(vx.Algorithm):\n    page_size = 16\n"
        "    def summarize(self, k, v):\n        return vx.Summary(a=k.mean('token'))\n"
        "    def score(self, q, page):\n        return page.a.sum('dim') * 0.0\n"
        "    def select(self, score):\n        return vx.top_k(score, tokens=1024)\n"
    )
    made = bed(compile_text(text), Case(lengths=(320,), device=DEVICE))
    assert disagreements(made) == []
    assert 0 < int(made.buffers.counts[0, 0]) < 20


def test_what_is_not_finite_ranks_last() -> None:
    text = (
        "import vortex as vx\nclass Odd(vx.Algorithm):\n    page_size = 16\n"
        "    def summarize(self, k, v):\n        return vx.Summary(a=k.mean('token').sum('dim'))\n"
        "    def score(self, q, page):\n        return page.a.log()\n"
        "    def select(self, score):\n        return vx.top_k(score, tokens=1024)\n"
    )
    assert disagreements(bed(compile_text(text), Case(lengths=(320, 321), device=DEVICE))) == []


@pytest.mark.parametrize("budget", [768, 1280])
def test_the_parity_check_itself_finds_pages_too_few_and_too_many(budget: int) -> None:
    made = bed(seed("block_centroid"), Case(lengths=(320,), device=DEVICE))
    made.candidate = seed("block_centroid", budget=budget)
    assert any("wanted" in line for line in disagreements(made))


def test_two_launches_choose_what_one_does() -> None:
    from dataclasses import replace

    case = Case(device=DEVICE)
    apart = replace(case.schedule, score=replace(case.schedule.score, joined=False))
    one, two = bed(seed("quest"), case), bed(seed("quest"), scaled(case, schedule=apart))
    one.step()
    two.step()
    assert torch.equal(one.buffers.counts, two.buffers.counts)
    assert torch.equal(one.buffers.pages, two.buffers.pages)


@BOTH
def test_another_schedule_chooses_the_same_pages_and_attends_alike(case: Case) -> None:
    other = Schedule(
        ScoreSchedule(block=64, warps=8, choose_warps=4, joined=False),
        AttendSchedule(block=64, splits=3, warps=8, stages=2, transposed=True),
    )
    candidate = seed("block_centroid")
    one, two = bed(candidate, case), bed(candidate, scaled(case, schedule=other))
    for made in (one, two):
        made.step()
    assert torch.equal(one.buffers.counts, two.buffers.counts)
    used = torch.arange(one.buffers.pages.shape[2], device=DEVICE) < one.buffers.counts[..., None]
    assert torch.equal(one.buffers.pages[used], two.buffers.pages[used])
    gap = (one.out.float() - two.out.float()).norm() / one.out.float().norm()
    assert float(gap) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a device")
def test_a_captured_step_replays_with_other_lengths_and_tables() -> None:
    made = bed(seed("quest"), Case(lengths=(115, 320, 192), device=DEVICE))
    made.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made.step()
    made.lengths.copy_(torch.tensor([64, 33, 300], device=DEVICE))
    made.case = scaled(made.case, lengths=(64, 33, 300))
    made.step()
    wanted = (made.buffers.counts.clone(), made.out.clone())
    made.out.fill_(float("nan"))
    graph.replay()
    assert torch.equal(made.buffers.counts, wanted[0])
    assert torch.equal(made.out, wanted[1])
