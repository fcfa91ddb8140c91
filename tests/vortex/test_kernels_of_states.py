"""Attention mass of listed pages, and updates of states, by kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from vortex.compile import compile_text  # noqa: E402
from vortex.geometry import geometry  # noqa: E402
from vortex.triton.arrays import Shapes  # noqa: E402
from vortex.triton.attend import Cache  # noqa: E402
from vortex.triton.launches import launch_plan  # noqa: E402
from vortex.triton.mass import add_mass  # noqa: E402
from vortex.triton.module import load_module  # noqa: E402
from vortex.triton.tiles import Unfused  # noqa: E402
from vortex.triton.updates import updates  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
TEXT = """import vortex as vx
class P(vx.Algorithm):
    page_size = 16
    heat = vx.state(init=0.5)
    age = vx.state(init=1.0)
    def summarize(self, k, v):
        return vx.Summary(c=k.mean("token"))
    def score(self, q, page):
        return vx.dot(q, page.c, "dim").max("head") + page.heat + page.age
    def update(self, page, mass):
        return vx.State({update})
    def select(self, score):
        return vx.top_k(score, tokens=64) | vx.sinks(1)
"""


def drawn(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(DEVICE)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_mass_is_the_softmax_of_what_was_listed(
    size: int, latent: bool, dtype: torch.dtype
) -> None:
    rows, kv_heads, group, dim, vdim, width = 3, 1 if latent else 2, 3, 48, 32, 12
    k = drawn(rows * width, kv_heads, size, dim, seed=1).to(dtype)
    v = k[..., :vdim] if latent else drawn(rows * width, kv_heads, size, vdim, seed=2).to(dtype)
    scaled = None if dtype == torch.bfloat16 else torch.tensor([0.5, 2.0][:kv_heads]).to(DEVICE)
    cache = Cache(k, v, size, scaled, scaled)
    q = drawn(rows, kv_heads * group, dim, seed=3).to(torch.bfloat16)
    lengths = [1, 3 * size, 11 * size + 5]
    table = torch.randperm(rows * width, generator=torch.Generator().manual_seed(4))
    table = table.view(rows, width).to(DEVICE, torch.int32)
    places = torch.zeros(rows, kv_heads, width, dtype=torch.int32, device=DEVICE)
    pages, counts = places.clone(), torch.zeros(rows, kv_heads, dtype=torch.int32, device=DEVICE)
    wanted = torch.zeros(rows, kv_heads, width, device=DEVICE)
    lse = torch.zeros(rows, kv_heads * group, device=DEVICE)
    for row, length in enumerate(lengths):
        total = -(-length // size)
        for head in range(kv_heads):
            own = [p for p in range(total) if p == total - 1 or (p + head) % 3 == 0]
            counts[row, head] = len(own)
            places[row, head, : len(own)] = torch.tensor(own)
            pages[row, head, : len(own)] = table[row, own]
            where = [t for t in range(length) if t // size in own]
            keys = k.float()[table[row].long(), head].flatten(0, 1)[where]
            keys = keys if scaled is None else keys * scaled[head]
            some = slice(head * group, (head + 1) * group)
            logits = q[row, some].float() @ keys.T * 0.2
            lse[row, some] = logits.logsumexp(-1)
            index = torch.tensor(where, device=DEVICE) // size
            wanted[row, head].index_add_(0, index, logits.softmax(-1).sum(0))
    mass = torch.full_like(wanted, 7.0)
    lengths_of = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    add_mass(q, cache, pages, places, counts, lengths_of, lse, mass, scale=0.2)
    listed = wanted > 0
    assert float((mass - wanted)[listed].abs().max()) < 2e-3
    assert bool((mass[~listed] == 7.0).all())


def test_an_update_changes_complete_pages_of_its_slot_alone_and_clears_the_mass() -> None:
    text = "heat=0.5 * page.heat + mass * vx.page_count, age=page.age.shift(by=1) + page.heat"
    candidate = compile_text(TEXT.format(update=text))
    made = updates(candidate, Shapes(2, 64, 64, (0, 64), 4, (64, 64)))
    rows, heads, width, size = 2, 2, 9, 16
    heat, age = drawn(5, heads, width, seed=1), drawn(5, heads, width, seed=2)
    mass = drawn(rows, heads, width, seed=3).abs()
    slots, lengths = torch.tensor([3, 1]), torch.tensor([100, 20])
    want_heat, want_age = heat.clone(), age.clone()
    for row, slot in enumerate(slots.tolist()):
        n = int(lengths[row]) // size
        own = mass[row, :, :n] * max(n, 1)
        before = age[slot, :, [max(p - 1, 0) for p in range(n)]]
        want_age[slot, :, :n] = before + heat[slot, :, :n]
        want_heat[slot, :, :n] = 0.5 * heat[slot, :, :n] + own
    scratch = torch.empty(rows * heads * max(1, made.channels) * width, device=DEVICE)
    states = {"heat": heat, "age": age}
    load_module(made.text).update[(heads, rows)](
        *(states[name] for name in made.states.values()), mass, slots.to(DEVICE, torch.int32),
        lengths.to(DEVICE, torch.int32), scratch, width, 0.1, 0, CHANNELS=made.channels, PAGES=16,
    )  # fmt: skip
    assert torch.allclose(heat, want_heat) and torch.allclose(age, want_age)
    assert not mass.any()


def test_an_update_that_reads_fields_says_that_it_has_no_kernel() -> None:
    candidate = compile_text(TEXT.format(update='heat=mass + page.c.max("dim"), age=page.age'))
    with pytest.raises(Unfused, match="reads fields"):
        updates(candidate, Shapes(2, 64, 64, (0, 64), 4, (64, 64)))
    assert "reads fields" in launch_plan(candidate, geometry("qwen3-1.7b"))[-1]


def test_the_launch_plan_shows_what_states_cost() -> None:
    candidate = compile_text(TEXT.format(update="heat=mass, age=page.age"))
    assert launch_plan(candidate, geometry("qwen3-1.7b"))[-2:] == (
        "sum the attention of each chosen page", "update the states",
    )  # fmt: skip
