"""Every op and policy of the language: parses, prints, and means the same in every executor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.vortex.programs import HEAD, POLICIES, SCORED, SELECT, SELECTORS, TOP_K, program_of
from tests.vortex.test_cpu import both
from vortex import compile_text, parse
from vortex.cpu import Router
from vortex.errors import ProgramError, VortexError
from vortex.printer import print_program
from vortex.reference import Place, summaries


@pytest.mark.parametrize("name", [*SCORED, *SELECTORS])
def test_the_example_of_every_op_means_the_same_in_both_executors(name: str) -> None:
    candidate = compile_text(program_of(name))
    for context in (3, 200):
        both(candidate, context, steps=4, rows=2, seed=context)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("context", [5, 250])
def test_policies_and_states_mean_the_same_in_both_executors(name: str, context: int) -> None:
    both(compile_text(POLICIES[name]), context, steps=7, rows=2, seed=context)


@pytest.mark.parametrize("name", [*SCORED, *SELECTORS, *POLICIES])
def test_what_is_printed_is_the_same_algorithm(name: str) -> None:
    text = POLICIES.get(name) or program_of(name)
    program = parse(text)
    again = print_program(program)
    assert compile_text(again).structure_hash == compile_text(text).structure_hash
    assert print_program(parse(again)) == again


def refused(text: str) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        compile_text(text)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("    def update", "    def other", "E105"),
        ("return vx.State(heat=", "return vx.State(cold=", "E123"),
        ("vx.state(init=1.0)", "vx.state(1.0)", "E123"),
        ("mass * (1 + page.mean.max(\"dim\"))", "page.mean", "E123"),
        ("heat = vx.state", "mean = vx.state", "E123"),
        ("vx.Summary(mean=k", "vx.Summary(mean=page.heat, other=k", "E109"),
        ("tokens=self.budget)", "tokens=page.heat)", "E109"),
        ("tokens=self.budget)", "tokens=score)", "E111"),
        ("page_size = 16", "page_size = 16\n    reuse = vx.reuse(layers=0)", "E119"),
        ("page_size = 16", 'page_size = 16\n    per_head = vx.shared("min")', "E119"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_its_place(old: str, new: str, code: str) -> None:
    text = POLICIES["state"]
    assert old in text
    error = refused(text.replace(old, new))
    assert code in [d.code for d in error.diagnostics]
    assert all(d.span is not None for d in error.diagnostics)


def test_a_state_that_nobody_updates_is_refused() -> None:
    text = POLICIES["state"]
    start, end = text.index("    def update"), text.index("    def select")
    assert refused(text[:start] + text[end:]).diagnostics[0].code == "E123"


def test_a_field_that_nobody_reads_is_refused() -> None:
    text = program_of("relu").replace("vx.Summary(", 'vx.Summary(idle=v.max("token"), ')
    error = refused(text)
    assert [d.code for d in error.diagnostics] == ["E122"]


def test_a_budget_below_the_reserved_pages_is_refused() -> None:
    text = program_of("relu").replace("vx.integer(512, 8192, default=4096)", "48")
    with pytest.raises(VortexError) as caught:
        compile_text(text)
    assert caught.value.code == "E205"


PROJECTED = (
    HEAD
    + """
    def summarize(self, k, v):
        return vx.Summary(low=k.mean("token").project("dim", into=4, name="chan", matrix=M))

    def score(self, q, page):
        mine = q.project("dim", into=4, name="chan", matrix=M)
        return vx.dot(mine, page.low, "chan").max("head")
"""
    + SELECT.format(TOP_K)
)
LOADED = PROJECTED.replace("M)", 'vx.load("low.safetensors", "basis", layer=True))')


def test_a_stored_matrix_is_loaded_and_known_by_its_numbers(tmp_path: Path) -> None:
    basis = torch.randn(3, 8, 4)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file({"basis": basis}, tmp_path / folder / "low.safetensors")
    save_file({"basis": basis + 1}, tmp_path / "low.safetensors")
    first = compile_text(LOADED, files=tmp_path / "a")
    both(first, 100, steps=3, rows=2, seed=0)
    assert first.candidate_hash == compile_text(LOADED, files=tmp_path / "b").candidate_hash
    assert first.candidate_hash != compile_text(LOADED, files=tmp_path).candidate_hash


def test_each_layer_summarises_by_its_own_matrix(tmp_path: Path) -> None:
    basis = torch.randn(3, 8, 4)
    save_file({"basis": basis}, tmp_path / "low.safetensors")
    candidate = compile_text(LOADED, files=tmp_path)
    k = torch.randn(64, 8)
    pages = k.view(1, 1, -1, candidate.page_size, 8)
    router = Router(candidate, context=64, workload_context=64, layers=3)
    for layer in range(3):
        want = (pages[0, 0].mean(1) @ basis[layer]).to(torch.bfloat16).float()
        slow = summaries(candidate, k, k, Place(layer, 3))["low"].data
        fast = router.page_fields(pages, pages, layer)["low"].data
        torch.testing.assert_close(slow, want, atol=1e-6, rtol=2**-7)
        torch.testing.assert_close(fast[0, 0], want, atol=1e-6, rtol=2**-7)


def test_absent_and_unfit_matrices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VortexError) as caught:
        compile_text(LOADED, files=tmp_path)
    assert caught.value.code == "E206"
    with pytest.raises(VortexError) as caught:
        compile_text(LOADED)
    assert caught.value.code == "E206"
    save_file({"other": torch.zeros(1)}, tmp_path / "low.safetensors")
    with pytest.raises(VortexError) as caught:
        compile_text(LOADED, files=tmp_path)
    assert "other" in caught.value.hint
    save_file({"basis": torch.zeros(1, 8, 5)}, tmp_path / "low.safetensors")
    with pytest.raises(VortexError) as caught:
        both(compile_text(LOADED, files=tmp_path), 100, steps=1, rows=1, seed=0)
    assert caught.value.code == "E206"


def test_random_matrices_differ_by_seed_and_are_the_same_everywhere() -> None:
    one, two = (
        compile_text(PROJECTED.replace("M)", f"vx.random_matrix(seed={seed}))")) for seed in (1, 2)
    )
    assert one.candidate_hash != two.candidate_hash
    both(one, 100, steps=3, rows=2, seed=0)


@pytest.mark.parametrize(
    "value", ['"x.safetensors", "t"', "seed=-1", '"../x.safetensors", "t"', '"x.pt", "t"']
)
def test_only_files_beside_the_program_can_be_named(value: str) -> None:
    name = "random_matrix" if "seed" in value else "load"
    error = PROJECTED.replace("M)", f"vx.{name}({value}))")
    if value.startswith('"x.safetensors"'):
        parse(error)
    else:
        assert refused(error).diagnostics[0].code == "E111"


def test_an_empty_part_of_the_key_is_refused_by_the_model() -> None:
    from vortex.cost import price
    from vortex.devices import device
    from vortex.geometry import Workload, geometry

    candidate = compile_text(program_of("part").replace("q.rope", "q.nope"))
    with pytest.raises(VortexError) as caught:
        price(candidate, geometry("qwen3-4b"), Workload(1, 4096), device("h200"))
    assert caught.value.code == "E207"
    price(candidate, geometry("glm-4.7-flash"), Workload(1, 4096), device("h200"))


def test_channels_that_the_model_does_not_have_are_refused() -> None:
    for name, count in (("take", "count=4"), ("top_indices", "count=8")):
        text = program_of(name).replace(count, "count=4096")
        with pytest.raises(VortexError) as caught:
            both(compile_text(text), 100, steps=1, rows=1, seed=0)
        assert caught.value.code == "E203"
