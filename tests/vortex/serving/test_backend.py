"""Decoding through the engine's backend: pages come, go and are shared; outputs stay right."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from tests.centroid import centroid  # noqa: E402
from tests.vortex.serving.fake_engine import LATENT, Engine, Shape  # noqa: E402
from vortex.compile import compile_text  # noqa: E402
from vortex.errors import VortexError  # noqa: E402
from vortex.ir import Candidate  # noqa: E402
from vortex.serving.equality import Agreement  # noqa: E402
from vortex.serving.sglang import graphs, sparse  # noqa: E402
from vortex.triton import attend, backend, store  # noqa: E402

pytestmark = [pytest.mark.skipif(GPU, reason="the miniature engine lives on the CPU")]

SEEDS = Path(__file__).resolve().parents[3] / "search_spaces" / "block_topk" / "seeds"


def small(budget: int = 64, more: str = "") -> Candidate:
    return compile_text(centroid(budget, more=more))


def right(found: list[Agreement]) -> bool:
    """Something was compared, and nothing differs beyond rounding."""
    assert sum(f.pages for f in found) > 0
    return all(f.wrong == 0 for f in found)


def test_ragged_batches_choose_and_attend_as_the_reference_does() -> None:
    engine = Engine(small())
    engine.prefill({1: 115, 2: 5, 3: 96})
    for _ in range(3):
        assert right(engine.decode(1, 2, 3))


@pytest.mark.parametrize("saved", [False, True])
def test_pages_that_fill_while_decoding_are_summarised(saved: bool) -> None:
    engine = Engine(small())
    engine.prefill({1: 110, 2: 142})
    for _ in range(5):  # pages fill at 112 and at 144
        assert right(engine.decode(1, 2, saved=saved))


def test_prefills_in_chunks_that_end_within_a_page_are_summarised() -> None:
    engine = Engine(small())
    for chunk in (10, 50, 3, 65):
        engine.prefill({1: chunk, 2: chunk + 1})
    assert right(engine.decode(1, 2))


def test_pages_that_are_freed_and_written_again_are_summarised_again() -> None:
    engine = Engine(small(), pages=14)
    engine.prefill({1: 80, 2: 90})
    engine.decode(1, 2)
    engine.drop(1)  # retracted: its pages go to whoever asks next
    engine.prefill({3: 77})
    for _ in range(5):
        assert right(engine.decode(2, 3))
    engine.drop(2)
    engine.prefill({1: 94})
    for _ in range(4):
        assert right(engine.decode(1, 3))


def test_requests_that_share_a_prefix_choose_each_for_itself() -> None:
    engine = Engine(small())
    engine.prefill({1: 96})
    engine.share(1, 2, 5)
    engine.prefill({2: 30})
    for _ in range(4):
        assert right(engine.decode(1, 2))


def test_padded_rows_of_a_graph_read_the_dummy_page_and_harm_nothing() -> None:
    engine = Engine(small())
    engine.backend.init_cuda_graph_state(4, 4)
    engine.prefill({1: 111, 2: 60})
    for _ in range(6):
        assert right(engine.decode(1, 2, pad=2, graph=True))


def test_a_graph_reads_no_table_that_the_scheduler_may_write() -> None:
    """The miniature engine overwrites req_to_token between the snapshot and the layers."""
    engine = Engine(small())
    engine.backend.init_cuda_graph_state(2, 2)
    engine.prefill({1: 130})
    assert right(engine.decode(1, graph=True))


@pytest.mark.parametrize("page", [32, 64])
def test_an_engines_page_may_hold_several_of_the_programs(page: int) -> None:
    engine = Engine(small(), page=page)
    engine.prefill({1: 110, 2: 47})
    for _ in range(4):
        assert right(engine.decode(1, 2))


@pytest.mark.parametrize("split", [False, True])
def test_mla_decodes_from_the_latent(split: bool) -> None:
    engine = Engine(small(), LATENT)
    engine.prefill({1: 115, 2: 30})
    for _ in range(4):
        assert right(engine.decode(1, 2, split=split))


@pytest.mark.parametrize("name", sorted(p.stem for p in SEEDS.glob("*.py")))
def test_every_seed_serves(name: str) -> None:
    """Under a budget that leaves pages out of the first sequence, seven pages long."""
    small_one = "budget = vx.integer(64, 128, default=64)"
    text = re.sub(r"budget = vx\.\w+\(.*\)", small_one, (SEEDS / f"{name}.py").read_text())
    engine = Engine(compile_text(text), Shape(layers=4), context=128)
    engine.prefill({1: 110, 2: 40})
    for _ in range(2):
        found = engine.decode(1, 2)
        if engine.sparse.ranking:
            assert right(found)
            assert sum(f.pages for f in found) < 4.5 * sum(f.lists for f in found)


def test_layers_that_use_an_earlier_ranking_keep_no_fields() -> None:
    engine = Engine(small(more="reuse = vx.reuse(layers=2)"), Shape(layers=4))
    assert engine.sparse.ranking == {0, 2}
    engine.prefill({1: 120})
    for _ in range(9):
        assert right(engine.decode(1))


def test_dense_layers_are_the_inner_backends() -> None:
    engine = Engine(small(more="dense_layers = vx.layers(first=1)"), Shape(layers=3))
    engine.prefill({1: 120})
    engine.inner.calls.clear()
    assert right(engine.decode(1))
    assert engine.inner.calls.count("decode") == 1


def test_a_budget_over_the_context_attends_to_everything() -> None:
    engine = Engine(small(budget=4096))
    engine.prefill({1: 150, 2: 33})
    found = engine.decode(1, 2)
    assert all(f.near == f.wrong == 0 for f in found)
    counts = engine.backend._step.buffers.counts
    assert counts[:, 0].tolist() == [10, 3]


def test_dense_steps_leave_summaries_for_later() -> None:
    def until(lengths: torch.Tensor | None) -> bool:
        return int(lengths.max()) <= 130

    engine = Engine(small(), attends_all=until)
    engine.prefill({1: 100})
    engine.inner.calls.clear()
    for _ in range(30):  # pages fill at 112 and 128 in dense steps
        engine.decode(1)
    assert engine.inner.calls.count("decode") == 2 * 30
    engine.share(1, 2, 8)
    engine.prefill({2: 3})
    for _ in range(3):
        assert right(engine.decode(1, 2))


def test_captured_steps_are_dense_only_where_dense_graphs_are() -> None:
    engine = Engine(small(), attends_all=lambda lengths: True)
    engine.backend.init_cuda_graph_state(1, 1)
    engine.prefill({1: 100})
    engine.decode(1, graph=True)
    assert not engine.backend.dense
    engine.backend.two_graphs = True
    engine.decode(1, graph=True)
    assert engine.backend.dense


def test_a_capture_takes_the_kind_that_it_is_told_whatever_ran_before() -> None:
    engine = Engine(small(), attends_all=lambda lengths: True)
    engine.backend.init_cuda_graph_state(1, 1)
    engine.prefill({1: 100})
    engine.decode(1)  # as the engine's tuning does before it captures: a dense step
    for kind in (False, True):
        engine.backend.capture_dense = kind
        batch = engine.batch(1)
        engine.backend.init_forward_metadata_out_graph(batch, in_capture=True)
        assert engine.backend.dense is kind


def test_a_graph_larger_than_its_memory_is_refused() -> None:
    """Memory of batches without a graph moves; a graph that read it would read what is freed."""
    engine = Engine(small())
    engine.backend.init_cuda_graph_state(1, 1)
    engine.prefill({1: 100, 2: 40})
    with pytest.raises(VortexError, match="a graph for 2 sequences") as raised:
        engine.backend.init_forward_metadata_out_graph(engine.batch(1, 2), in_capture=True)
    assert raised.value.code == "E804"


def test_a_replay_of_sparse_layers_alone_prepares_nothing_of_the_inner_backend() -> None:
    for more, wanted in (("", False), ("dense_layers = vx.layers(first=1)", True)):
        engine = Engine(small(more=more))
        engine.backend.init_cuda_graph_state(1, 1)
        engine.prefill({1: 100})
        engine.inner.calls.clear()
        engine.backend.init_forward_metadata_out_graph(engine.batch(1))
        assert ("init_forward_metadata_out_graph" in engine.inner.calls) is wanted


@pytest.mark.parametrize("more", ["", "reuse = vx.reuse(layers=1, steps=3)"])
def test_what_is_compiled_ahead_is_what_steps_launch(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[set[str]] = [set(), set()]
    ahead = [True]

    def recorded(kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        types = [str(a.dtype) if isinstance(a, torch.Tensor) else "-" for a in arguments]
        launched[not ahead[0]].add(f"{kernel} {types} {constants}")
        if not ahead[0]:
            kernel[grid](*arguments, **constants)

    for module in (attend, backend, store, sparse):
        monkeypatch.setattr(module, "launch", recorded)
    engine = Engine(small(more=more), Shape(layers=4))
    space = engine.sparse.space(4)
    engine.sparse.compile_ahead(space, engine.shape.dtype)
    ahead[0] = False
    engine.backend.init_cuda_graph_state(4, 4)
    engine.prefill({1: 115, 2: 5, 3: 96})
    for rows in ((1,), (1, 2), (1, 2, 3)):
        engine.decode(*rows)
    assert launched[1] and launched[1] <= launched[0]


def test_dense_steps_that_complete_no_page_keep_no_books() -> None:
    engine = Engine(small(), attends_all=lambda lengths: True)
    engine.prefill({1: 100})
    for _ in range(11):
        engine.decode(1)
    assert not engine.backend._pending
    engine.decode(1)  # 112 tokens: seven pages of 16
    assert len(engine.backend._pending) == 1


def test_what_the_wrapper_does_not_have_is_the_inner_backends() -> None:
    engine = Engine(small())
    engine.backend.prefill_attention_backend_str = "vortex"
    assert engine.inner.prefill_attention_backend_str == "vortex"
    assert engine.backend.prefill_attention_backend_str == "vortex"
    assert engine.backend.needs_cpu_seq_lens and not engine.inner.needs_cpu_seq_lens
    engine.backend.on_after_cuda_graph_warmup()
    assert engine.inner.calls[-1] == "on_after_cuda_graph_warmup"


def test_what_a_model_gives_besides_is_refused_on_sparse_layers() -> None:
    engine = Engine(small())
    engine.prefill({1: 40})
    batch = None
    with pytest.raises(VortexError, match="sinks"):
        engine.backend._joined(torch.zeros(1), batch, batch, {"sinks": torch.zeros(1)})


KEPT = "reuse = vx.reuse(steps=3)"


def test_a_ranking_serves_the_steps_of_its_own_request() -> None:
    """Requests come, and rank, at different steps; one is retracted, and another has its row."""
    engine = Engine(small(more=KEPT), Shape(layers=3))
    engine.prefill({1: 120})
    assert right(engine.decode(1))
    engine.prefill({2: 140, 3: 99})
    assert right([a for _ in range(5) for a in engine.decode(3, 1, 2)])  # in another order
    engine.drop(1)
    engine.prefill({1: 77, 2: 5})
    assert right([a for _ in range(4) for a in (*engine.decode(2, 1), *engine.decode(3))])


def test_kept_rankings_serve_captured_steps_layers_and_mla() -> None:
    for shape in (Shape(layers=4), LATENT):
        more = "reuse = vx.reuse(layers=2, steps=4)"
        engine = Engine(small(more=more), shape)
        engine.backend.init_cuda_graph_state(4, 4)
        engine.prefill({1: 111, 2: 60})
        engine.decode(1, pad=3, graph=True)
        assert right([a for _ in range(6) for a in engine.decode(1, 2, pad=2, graph=True)])


def test_what_was_picked_before_dense_steps_is_not_gone_on_with() -> None:
    dense: list[bool] = [False]
    engine = Engine(small(more=KEPT), attends_all=lambda lengths: dense[0])
    engine.prefill({1: 120})
    for step in range(12):
        dense[0] = step in (1, 2, 6)
        engine.decode(1)


def test_a_ranking_that_is_kept_covers_no_sequence_for_certain() -> None:
    """Between rankings the program leaves out a page that was reserved and is no longer."""
    engine = Engine(small(budget=4096, more=KEPT))
    assert engine.sparse.covered == 0 < Engine(small(budget=4096)).sparse.covered
    engine.prefill({1: 94})
    seen = set()
    for _ in range(9):
        engine.decode(1)
        counts = engine.backend._step.buffers.counts
        seen.add((int(counts[0, 0]), -(-engine.lengths[1] // 16)))
    assert any(count < pages for count, pages in seen)


def test_picks_are_a_bit_for_each_page_of_each_request() -> None:
    engine = Engine(small(more=KEPT), context=500)
    kept = [f.rows["picks"] for f in engine.sparse.fields.values()]
    assert all(k.shape == (len(engine.req_to_token), 2, 4) for k in kept)  # 32 pages
    plain = Engine(small(), context=500).sparse.field_bytes
    assert engine.sparse.field_bytes == plain + sum(k.numel() for k in kept)


def stateful(update: str, more: str = "") -> Candidate:
    text = centroid(64, more=f"heat = vx.state(init=0.25)\n    {more}")
    text = text.replace('.max("head")', '.max("head") + page.heat.smooth(radius=1)')
    return compile_text(
        f"{text}    def update(self, page, mass):\n        return vx.State({update})\n"
    )


@pytest.mark.parametrize(
    ("shape", "more"), [(Shape(), ""), (LATENT, "reuse = vx.reuse(layers=1, steps=2)")],
    ids=["gqa", "mla, a ranking kept"],
)  # fmt: skip
def test_states_live_with_their_request(shape: Shape, more: str) -> None:
    engine = Engine(stateful("heat=0.5 * page.heat + 2 * mass", more), shape)
    engine.backend.init_cuda_graph_state(4, 4)
    engine.prefill({1: 110, 2: 60})
    found = [a for _ in range(4) for a in engine.decode(2, 1, pad=1, graph=True)]
    engine.prefill({3: 142})
    found += [a for _ in range(3) for a in engine.decode(3, 1, 2)]
    engine.drop(1)  # retracted: whoever has its row next begins anew
    engine.prefill({1: 125})
    found += [a for _ in range(4) for a in engine.decode(1, 2, 3)]
    assert right(found)
    heat = engine.sparse.fields[0].rows["state0"]
    assert len({float(heat[r].max()) for r in (1, 2, 3)}) == 3
    assert bool((heat[5] == 0.25).all())


def test_a_context_of_too_many_pages_is_refused_with_the_length_that_fits() -> None:
    with pytest.raises(VortexError, match="16,385 pages of 16") as raised:
        Engine(small(), context=16 * 16385)
    assert raised.value.code == "E804" and raised.value.hint == "--context-length 262144"


def test_a_program_without_a_kernel_for_a_part_is_refused() -> None:
    with pytest.raises(VortexError, match="cannot be served yet") as raised:
        Engine(stateful('heat=page.mean.sum("dim") + mass'))
    assert raised.value.code == "E805"


def test_a_measurement_without_graphs_of_both_kinds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its switch would choose nothing: full attention would be measured as sparse."""
    engine = Engine(small())
    engine.backend.init_cuda_graph_state(2, 2)  # nobody measures
    monkeypatch.setenv(graphs.SWITCH, str(tmp_path / "switch"))
    with pytest.raises(VortexError) as raised:
        engine.backend.init_cuda_graph_state(2, 2)
    assert raised.value.code == "E804" and graphs.TWO in str(raised.value.hint)
    engine.backend.two_graphs = True
    engine.backend.init_cuda_graph_state(2, 2)
