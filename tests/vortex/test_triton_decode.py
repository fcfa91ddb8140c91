"""Decoding on a device, by kernels or by torch operations, against the CPU backend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu] if GPU else []

from vortex.compile import compile_text  # noqa: E402
from vortex.ir import Candidate  # noqa: E402
from vortex.paged import PagedDecode, PagedPool  # noqa: E402
from vortex.schedule import AttendSchedule, Schedule, ScoreSchedule  # noqa: E402
from vortex.suffix import SuffixAttend  # noqa: E402
from vortex.triton.arrays import Shapes  # noqa: E402
from vortex.triton.attend import Cache  # noqa: E402
from vortex.triton.choose import KernelChooser, Pool, Setting, TorchChooser  # noqa: E402
from vortex.triton.decode import Decode  # noqa: E402
from vortex.triton.suffix import DeviceSuffix  # noqa: E402
from vortex.triton.tiles import Unfused  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk"
DEVICE = torch.device("cuda" if GPU else "cpu")
LAYERS, KV, GROUP, DIM, ROWS, CONTEXT = 3, 2, 2, 32, 2, 157
SCALE = DIM**-0.5
SMALL = Schedule(ScoreSchedule(block=16), AttendSchedule(block=32), AttendSchedule(block=32))
STATES = """import vortex as vx
class Heat(vx.Algorithm):
    page_size = 16
    heat = vx.state(init=0.0)
    {policies}
    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))
    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).max("head") + page.heat
    def update(self, page, mass):
        return vx.State(heat=page.heat * 0.5 + mass)
    def select(self, score):
        return vx.top_k(score, tokens=96) | vx.sinks(1) | vx.recent(1)
"""


def seed(name: str, policies: str = "") -> Candidate:
    text = (ROOT / "seeds" / f"{name}.py").read_text()
    text = re.sub(r"budget = vx.integer\(.*\)", policies, text)
    return compile_text(text.replace("self.budget", "96"))


def drawn(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(torch.bfloat16).float()


def pools(candidate: Candidate, steps: int) -> tuple[PagedPool, Pool]:
    """The same context in pages of the CPU backend and of the device."""
    kv = drawn(LAYERS, 2, KV, CONTEXT, DIM, seed=1)
    pool = PagedPool(
        layers=LAYERS, kv_heads=KV, dim=DIM, latent=None, page_size=candidate.page_size,
        sequences=ROWS, max_tokens=CONTEXT + steps, shuffle=0,
    )  # fmt: skip
    for row in range(ROWS):
        pool.fill(row, kv.roll(row, 3))
    caches = tuple(
        Cache(*(x[layer].to(DEVICE, torch.bfloat16) for x in (pool.k, pool.v)), candidate.page_size)
        for layer in range(LAYERS)
    )
    lengths = torch.full((ROWS,), CONTEXT, dtype=torch.int32, device=DEVICE)
    return pool, Pool(caches, pool.table.to(DEVICE, torch.int32), lengths, CONTEXT + steps)


def setting(dense: frozenset[int] = frozenset()) -> Setting:
    shapes = Shapes(GROUP, DIM, DIM, (0, DIM), LAYERS, (DIM, DIM))
    return Setting(shapes, SCALE, CONTEXT, dense, SMALL)


def gaps(candidate: Candidate, steps: int, dense: frozenset[int] = frozenset()) -> list[float]:
    """Largest difference of outputs in each step between device and CPU."""
    cpu_pool, pool = pools(candidate, steps)
    cpu = PagedDecode(
        candidate, cpu_pool, scale=SCALE, context=CONTEXT, workload_context=CONTEXT, dense=dense
    )
    device = Decode(candidate, pool, setting(dense))
    cpu.summarise()
    device.summarise()
    found = []
    for step in range(steps):
        pool.lengths.add_(1)
        device.ranks = step % candidate.policies.reuse_steps == 0
        worst = 0.0
        for layer in range(LAYERS):
            q = drawn(ROWS, 1, KV * GROUP, DIM, seed=100 * step + layer)
            k, v = drawn(2, ROWS, 1, KV, DIM, seed=100 * step + layer + 50)
            wanted = cpu(layer, q, k, v)[:, 0]
            out = torch.full(wanted.shape, float("nan"), dtype=torch.bfloat16, device=DEVICE)
            given = (x[:, 0].to(DEVICE, torch.bfloat16) for x in (q, k, v))
            device(layer, *given, out)
            worst = max(worst, float((out.cpu().float() - wanted).abs().max()))
        cpu.advance()
        found.append(worst)
    return found


@pytest.mark.parametrize("name", ["quest", "block_centroid", "streaming_llm"])
def test_steps_by_kernels_are_those_of_the_cpu(name: str) -> None:
    assert max(gaps(seed(name), 5)) < 0.02


def test_layers_may_attend_to_everything_or_use_an_earlier_ranking() -> None:
    candidate = seed("quest", "reuse = vx.reuse(layers=2)")
    assert candidate.policies.reuse_layers == 2
    assert max(gaps(candidate, 3, frozenset([0]))) < 0.02


def runs_by(candidate: Candidate) -> type:
    _, pool = pools(candidate, 1)
    return type(Decode(candidate, pool, setting()).chooser)


@pytest.mark.parametrize(
    "policies",
    ["", "reuse = vx.reuse(steps=2)", 'per_head = vx.shared("max")', "reuse = vx.reuse(layers=2)"],
)
def test_states_are_updated_by_kernels_and_agree(policies: str) -> None:
    candidate = compile_text(STATES.format(policies=policies))
    assert runs_by(candidate) is KernelChooser
    assert max(gaps(candidate, 5)) < 0.02


def test_an_update_that_reads_fields_runs_by_torch_and_agrees() -> None:
    text = STATES.format(policies="").replace("+ mass", "+ mass + page.mean.max('dim') * 0.1")
    candidate = compile_text(text)
    assert candidate.updates and runs_by(candidate) is TorchChooser
    assert max(gaps(candidate, 3)) < 0.02


@pytest.mark.parametrize("name", ["h2o", "attention_ema", "snap_kv"])
def test_library_programs_with_states_run_by_kernels(name: str) -> None:
    text = (ROOT / "library" / f"{name}.py").read_text()
    text = re.sub(r"budget = vx.integer\(.*\)", "", text).replace("self.budget", "64")
    candidate = compile_text(text)
    assert runs_by(candidate) is KernelChooser
    # Sums of the same few masses are equal but for rounding there: pages tie, and fall either way.
    if name != "snap_kv":
        assert max(gaps(candidate, 4)) < 0.02


@pytest.mark.parametrize(
    "policies", ["reuse = vx.reuse(layers=2, steps=3)", 'per_head = vx.shared("sum")']
)
def test_rankings_that_are_kept_and_shared_run_by_kernels_and_agree(policies: str) -> None:
    candidate = seed("block_centroid", policies)
    _, pool = pools(candidate, 1)
    assert isinstance(Decode(candidate, pool, setting()).chooser, KernelChooser)
    assert max(gaps(candidate, 7)) < 0.02


def test_a_key_times_a_matrix_is_kept_by_kernels_as_it_is_appended() -> None:
    text = (ROOT / "library" / "hash_attention.py").read_text()  # signs: nothing is rounded
    text = re.sub(r"budget = vx.integer\(.*\)", "", text).replace("self.budget", "96")
    candidate = compile_text(text)
    _, pool = pools(candidate, 1)
    assert isinstance(Decode(candidate, pool, setting()).chooser, KernelChooser)
    assert max(gaps(candidate, 5)) < 0.02


def test_steps_that_depend_on_each_other_are_not_taken_at_once() -> None:
    k = torch.zeros(1, 2, 32, DIM, dtype=torch.bfloat16, device=DEVICE)
    for text in (STATES.format(policies=""), STATES.format(policies="reuse = vx.reuse(steps=2)")):
        with pytest.raises(Unfused, match="in order"):
            DeviceSuffix(compile_text(text), k, k, heads=4, scale=SCALE, workload_context=32)


def test_torch_chooses_the_pages_that_kernels_choose() -> None:
    candidate = seed("quest")
    _, pool = pools(candidate, 1)
    made = [KernelChooser(candidate, pool, setting()), TorchChooser(candidate, pool, setting())]
    q = drawn(ROWS, KV * GROUP, DIM, seed=7).to(DEVICE, torch.bfloat16)
    found = []
    for chooser in made:
        chooser.summarise()
        pages, counts = chooser.choose(1, 1, q, ranks=True)
        found.append([
            pages[r, h, : int(counts[r, h])].tolist() for r in range(ROWS) for h in range(KV)
        ])  # fmt: skip
    assert found[0] == found[1]


def test_the_oracle_is_not_timed_on_a_device() -> None:
    text = next((ROOT / "controls").glob("*racle*.py")).read_text()
    candidate = compile_text(text, reserved=True)
    _, pool = pools(candidate, 1)
    with pytest.raises(Unfused):
        Decode(candidate, pool, setting())


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("context", [157, 160])
@pytest.mark.parametrize("name", ["quest", "block_centroid"])
def test_suffixes_by_kernels_are_those_of_the_cpu(name: str, context: int, latent: bool) -> None:
    candidate = seed(name)
    heads, kv_heads, vdim = (4, 1, 16) if latent else (4, 2, DIM)
    rope = (16, 16) if latent else (0, DIM)
    k = drawn(LAYERS, kv_heads, context, DIM, seed=1)
    v = k[..., :vdim] if latent else drawn(LAYERS, kv_heads, context, vdim, seed=2)
    q, new = drawn(3, 4, heads, DIM, seed=3), drawn(3, 4, kv_heads, DIM, seed=4)
    new_v = new[..., :vdim] if latent else drawn(3, 4, kv_heads, vdim, seed=5)
    cpu = SuffixAttend(candidate, (k, v), scale=SCALE, workload_context=context, rope=rope)
    old_k, old_v = (x.to(DEVICE, torch.bfloat16) for x in (k, v))
    device = DeviceSuffix(
        candidate, old_k, old_v, heads=heads, scale=SCALE, workload_context=context, rope=rope,
        latent=latent,
    )  # fmt: skip
    for layer in range(LAYERS):
        wanted = cpu(layer, q, new, new_v)
        got = device(layer, *(x.to(DEVICE) for x in (q, new, new_v)))
        assert float((got.cpu() - wanted).abs().max()) < 0.02
