"""Prices: bytes counted by hand, published measurements, and what must only ever grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_spaces.block_topk.space import controls, seeds
from vortex.compile import compile_text
from vortex.cost import full_step, price
from vortex.devices import DEVICES, device
from vortex.errors import VortexError
from vortex.geometry import GEOMETRIES, Workload, geometry
from vortex.graph_cost import graph_flops
from vortex.ir import Candidate
from vortex.kernel_cost import select_seconds

H200 = device("h200")
QWEN = geometry("qwen3-1.7b")
GLM = geometry("glm-4.7-flash")

PROGRAM = """
import vortex as vx


class Two(vx.Algorithm):
    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(64, 1048576, default=2048)
    dtype = vx.choice("bf16", "fp8", "int8")
    dense_layers = vx.layers(first={first})

    def summarize(self, k, v):
        return vx.Summary(
            center=k.mean("token"), energy=v.norm("dim").mean("token"),
            dtype=self.dtype,
        )

    def score(self, q, page):
        return vx.dot(q, page.center, "dim").max("head") * page.energy

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
"""


def candidate(first: int = 0, **knobs: object) -> Candidate:
    return compile_text(PROGRAM.format(first=first), knobs)


def control(name: str, **knobs: object) -> Candidate:
    text = next(seed.text for seed in (*controls(), *seeds()) if seed.name == name)
    return compile_text(text, knobs, reserved=True)


def test_bytes_are_those_counted_by_hand() -> None:
    # 28 layers of which 2 are dense, 8 KV heads, head dim 128; 1,000 tokens are 62 complete pages.
    cost = price(candidate(2, page_size=16, budget=512), QWEN, Workload(3, 1000), H200)
    rows, kv = 3 * 8, 2 * 128 * 2
    assert cost.sparse_layers == 26
    assert cost.attended_tokens == 512
    assert cost.sparse.index_bytes == 26 * rows * 62 * (128 + 1) * 2
    assert cost.sparse.attended_bytes == 26 * rows * 512 * kv
    assert cost.sparse.dense_bytes == 2 * rows * 1000 * kv
    assert cost.full.dense_bytes == 28 * rows * 1000 * kv
    assert cost.sparse.upkeep_bytes == pytest.approx(26 * rows * (kv + 129 * 2 / 16))
    assert cost.pages_completed == 3 / 16


def test_operations_are_those_counted_by_hand() -> None:
    cost = price(candidate(page_size=16, budget=512), QWEN, Workload(1, 1600), H200)
    dot, reduce_heads, gate = 2 * 100 * 2 * 128, 100 * 2, 100
    assert cost.sparse.score_flops == 28 * 8 * (dot + reduce_heads + gate)
    assert cost.sparse.attention_flops == 28 * 8 * 512 * 2 * 2 * (128 + 128)


def test_a_narrow_field_has_a_scale() -> None:
    for dtype in ("int8", "fp8"):
        cost = price(candidate(page_size=16, dtype=dtype), QWEN, Workload(1, 1600), H200)
        assert cost.sparse.index_bytes == 28 * 8 * 100 * ((128 + 4) + (1 + 4))


def test_mla_counts_the_latent_once() -> None:
    cost = price(control("block_centroid", page_size=32, budget=1024), GLM, Workload(1, 3200), H200)
    assert cost.sparse.index_bytes == 47 * 100 * 576 * 2
    assert cost.sparse.attended_bytes == 47 * 1024 * 576 * 2
    assert cost.index_share == pytest.approx(1 / 32)


def test_launches_are_those_of_the_kernels() -> None:
    # Route and attend on a sparse layer, attend on a dense one; splits merge in the same launch.
    routed = candidate(2, page_size=16)
    for batch in (1, 64):
        cost = price(routed, QWEN, Workload(batch, 4096), H200)
        assert cost.sparse.launches == 26 * 2 + 2
        assert cost.full.launches == 28


def test_all_is_full_attention() -> None:
    cost = price(control("full"), QWEN, Workload(4, 8192), H200)
    assert cost.sparse == cost.full
    assert (cost.speedup_step, cost.speedup_attention, cost.index_share) == (1.0, 1.0, 0.0)


def test_random_needs_no_index_and_recency_no_ranking() -> None:
    workload = Workload(1, 8192)
    random = price(control("random_pages", page_size=16), QWEN, workload, H200).sparse
    recency = price(control("streaming_llm", page_size=16), QWEN, workload, H200).sparse
    assert (random.index_bytes, random.score_flops, random.launches) == (0, 0.0, 28 * 2)
    assert (recency.index_bytes, recency.launches) == (0, 28 * 2)
    # Both launch a list; bisection is what random pages pay and a window does not.
    ranking = select_seconds(H200, 8, 512) - H200.pass_latency
    gap = random.attention_seconds - recency.attention_seconds
    assert gap == pytest.approx(28 * ranking)


def test_the_oracle_reads_every_key() -> None:
    cost = price(control("oracle", page_size=16, budget=512), QWEN, Workload(1, 8192), H200)
    assert cost.sparse.index_bytes == 28 * 8 * 8192 * 128 * 2
    assert cost.sparse.attended_bytes == 28 * 8 * 512 * 2 * 128 * 2
    assert cost.index_bytes_per_token == 0


def test_a_step_reads_the_weights_too() -> None:
    cost = price(candidate(page_size=16), QWEN, Workload(1, 8192), H200)
    rest = cost.sparse.seconds - cost.sparse.attention_seconds
    assert rest == pytest.approx(QWEN.weight_bytes(1) / H200.bandwidth)
    assert cost.full.seconds - cost.full.attention_seconds == pytest.approx(rest)


def test_memory_holds_weights_cache_and_fields_of_the_last_token() -> None:
    cost = price(candidate(page_size=16), QWEN, Workload(2, 1600, generated=400), H200)
    kv, fields = 28 * 8 * 2 * 128 * 2, 28 * 8 * 129 * 2 / 16
    assert cost.memory == pytest.approx(QWEN.weight_bytes_stored() + 2 * 2000 * (kv + fields))
    assert cost.fits
    assert not price(candidate(), geometry("minimax-m2.7"), Workload(1, 1024), H200).fits


STATEFUL = """
import vortex as vx


class Seen(vx.Algorithm):
    page_size = vx.choice(16, 32)
    heat = vx.state(init=0.0)
    age = vx.state(init=1.0)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.center, "dim").max("head") + page.heat * page.age

    def update(self, page, mass):
        return vx.State(heat=page.heat + mass, age=page.age * 0.5)

    def select(self, score):
        return vx.top_k(score, tokens=512)
"""


def test_states_are_kept_per_request_and_fields_per_token() -> None:
    load = Workload(64, 32000, generated=768)
    cost = price(compile_text(STATEFUL), QWEN, load, H200)
    per_token = 28 * 8 * 128 * 2 / 16
    assert cost.index_bytes_per_token == per_token
    assert cost.request_bytes == 28 * 8 * 2048 * 2 * 4
    kv = 28 * 8 * 2 * 128 * 2
    held = 64 * (32768 * (kv + per_token) + cost.request_bytes)
    assert cost.memory == pytest.approx(QWEN.weight_bytes_stored() + held)
    assert price(candidate(), QWEN, load, H200).request_bytes == 0


def test_a_ranking_for_several_layers_and_steps_keeps_a_bit_a_page_where_it_is_made() -> None:
    text = PROGRAM.format(first=0).replace(
        "    dense_layers", "    reuse = vx.reuse(layers=2, steps=4)\n    dense_layers"
    )
    load = Workload(8, 32000, generated=768)
    cost = price(compile_text(text, {"page_size": 16}), QWEN, load, H200)
    assert cost.request_bytes == 14 * 8 * 2048 // 8


@pytest.mark.parametrize(
    ("batch", "context", "microseconds"),
    [(1, 1, 11.0), (1, 32, 43.5), (8, 1, 17.5), (8, 4, 41.6), (16, 4, 70.4), (8, 16, 132.7)],
)
def test_full_attention_is_near_another_librarys_published_times(
    batch: int, context: int, microseconds: float
) -> None:
    # FlashAttention-3, 32 query and 8 KV heads of 128, bf16, page 16 (vLLM pull request 43232).
    # The model's figures are of our kernels; nothing was fitted to these.
    layer = replace(geometry("llama-3.1-8b"), layers=1)
    step = full_step(layer, Workload(batch, context * 1024), H200)
    assert step.attention_seconds * 1e6 == pytest.approx(microseconds, rel=0.25)


@pytest.mark.parametrize("dev", DEVICES.values(), ids=lambda d: d.name)
@pytest.mark.parametrize("model", GEOMETRIES.values(), ids=lambda g: g.name)
def test_every_seed_has_a_price_on_every_model_and_device(model, dev) -> None:  # type: ignore[no-untyped-def]
    for seed in (*seeds(), *controls()):
        cost = price(compile_text(seed.text, reserved=seed.control), model, Workload(8, 32768), dev)
        assert cost.sparse.seconds > 0
        assert cost.origin == "predicted"


contexts = st.integers(256, 200_000)
batches = st.integers(1, 256)
page_sizes = st.sampled_from([16, 32, 64])
models = st.sampled_from(sorted(GEOMETRIES))


@settings(max_examples=60, deadline=None)
@given(contexts, batches, page_sizes, models, st.integers(64, 100_000), st.integers(0, 100_000))
def test_a_larger_budget_never_costs_less(
    context: int, batch: int, page: int, model: str, budget: int, more: int
) -> None:
    assume(budget >= 4 * page)  # three reserved pages and one more
    workload = Workload(batch, context)
    small, large = (
        price(candidate(page_size=page, budget=b), geometry(model), workload, H200).sparse
        for b in (budget, budget + more)
    )
    assert small.attended_bytes <= large.attended_bytes
    assert small.seconds <= large.seconds


@settings(max_examples=60, deadline=None)
@given(contexts, st.integers(1, 100_000), batches, page_sizes, models)
def test_a_longer_context_never_costs_less(
    context: int, more: int, batch: int, page: int, model: str
) -> None:
    short, long = (
        price(candidate(page_size=page), geometry(model), Workload(batch, s), H200)
        for s in (context, context + more)
    )
    assert short.sparse.seconds <= long.sparse.seconds
    # One token more may fit a tile that is half empty: more bytes, the same time.
    assert short.full.seconds <= long.full.seconds
    assert short.full.dense_bytes < long.full.dense_bytes


@settings(max_examples=60, deadline=None)
@given(contexts, batches, page_sizes, models)
def test_a_narrower_field_never_reads_more(context: int, batch: int, page: int, model: str) -> None:
    shapes = geometry(model)
    wide, narrow = (
        price(candidate(page_size=page, dtype=d), shapes, Workload(batch, context), H200)
        for d in ("bf16", "int8")
    )
    assert narrow.sparse.index_bytes < wide.sparse.index_bytes
    # Where heads lie on a tile, unpacking may take longer than the bytes saved: measured, too.
    if shapes.group <= 3:
        assert narrow.sparse.seconds <= wide.sparse.seconds


@settings(max_examples=60, deadline=None)
@given(contexts, st.integers(1, 255), page_sizes, models)
def test_a_larger_batch_never_takes_fewer_bytes(
    context: int, batch: int, page: int, model: str
) -> None:
    few, more = (
        price(candidate(page_size=page), geometry(model), Workload(b, context), H200).sparse
        for b in (batch, batch + 1)
    )
    assert few.attention_bytes < more.attention_bytes
    assert few.weight_bytes <= more.weight_bytes


def test_shared_nodes_are_counted_once() -> None:
    bound = candidate(page_size=16)
    sizes = {"page": 10, "token": 16, "dim": 4, "vdim": 4, "head": 2}
    (score,) = bound.scores.values()
    assert graph_flops([score, score], sizes) == graph_flops([score], sizes)


@pytest.mark.parametrize("ends", ["first=28", "first=99", "first=20, last=8", "last=40"])
def test_a_program_that_leaves_no_layer_sparse_is_refused_for_this_model_only(ends: str) -> None:
    text = PROGRAM.format(first=0).replace("first=0", ends)
    wrong = compile_text(text)
    with pytest.raises(VortexError) as error:
        price(wrong, QWEN, Workload(3, 1000), H200)
    assert error.value.code == "E209" and "qwen3-1.7b has 28" in str(error.value)
    assert error.value.span is not None and error.value.span.line == 9
    deeper = replace(QWEN, layers=100)
    assert price(wrong, deeper, Workload(3, 1000), H200).sparse_layers > 0
    assert price(control("full"), QWEN, Workload(3, 1000), H200).sparse_layers == 0
