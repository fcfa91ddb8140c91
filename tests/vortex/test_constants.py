"""A division by what is 0 whatever the keys and queries are is an error where it stands."""

from __future__ import annotations

import pytest

from search_spaces.block_topk import library
from vortex import ProgramError, compile_text, parse
from vortex.compile import bind

PROGRAM = """import vortex as vx


class Divided(vx.Algorithm):
    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, default=4096)
    w = vx.real(0.0, 2.0, default=1.0)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        x = vx.dot(q, page.mean, "dim").max("head") * self.w
        return {score}

    def select(self, score):
        return vx.top_k(score, tokens={budget}) | vx.sinks(1) | vx.recent(2)
"""


def text(score: str = "x", budget: str = "self.budget") -> str:
    return PROGRAM.format(score=score, budget=budget)


@pytest.mark.parametrize(
    "written",
    ["x / 0", "x / 0.0", "x / -0.0", "x / (1 - 1)", "x / (2 * 0)", "1 / (2 - 2) + x",
     "x / vx.maximum(0, -1)"],
)  # fmt: skip
def test_a_division_by_the_number_0_is_refused_where_it_stands(written: str) -> None:
    with pytest.raises(ProgramError) as error:
        parse(text(written), filename="mine.py")
    (found,) = error.value.diagnostics
    line = text(written).splitlines()[13]
    assert (found.code, found.span and found.span.line) == ("E125", 14)
    assert found.span is not None and "/" in line[found.span.col - 1 : found.span.end_col - 1]
    assert "mine.py:14:" in error.value.render() and "^" in error.value.render()


def test_a_budget_and_a_field_are_looked_at_too() -> None:
    field = text().replace('k.mean("token")', 'k.mean("token") / 0')
    for wrong in (text(budget="self.budget / 0"), field):
        with pytest.raises(ProgramError) as error:
            parse(wrong)
        assert [d.code for d in error.value.diagnostics] == ["E125"]


@pytest.mark.parametrize("written", ["x / self.w", "x / (self.w * self.w)", "x / (1 - 1 + self.w)"])
def test_a_knob_that_makes_a_divisor_0_is_refused_with_that_value_only(written: str) -> None:
    program = parse(text(written))
    assert bind(program, {"w": 0.5}).knobs["w"] == 0.5
    with pytest.raises(ProgramError) as error:
        compile_text(text(written), {"w": 0.0})
    (found,) = error.value.diagnostics
    assert found.code == "E208" and found.span is not None and found.span.line == 14


def test_what_keys_and_queries_decide_is_left_to_them() -> None:
    for written in ("x / page.mean.max('dim')", "x / vx.page_index", "0 / x", "x * 0"):
        assert compile_text(text(written).replace("'", '"')).candidate_hash


def test_a_chain_of_numbers_costs_no_more_than_its_length() -> None:
    lines = "\n".join("        y = y + y" for _ in range(120))
    long = text("x / y").replace("        return x / y", f"        y = self.w\n{lines}\n"
                                 "        return x / y")  # fmt: skip
    assert compile_text(long).knobs["w"] == 1.0


def test_no_published_algorithm_divides_by_0() -> None:
    assert all(compile_text(seed.text).candidate_hash for seed in library())


@pytest.mark.parametrize(
    "written",
    ["vx.where(self.w > 0.0, x / self.w, x)", "x + vx.where(self.w > 0.5, 1.0 / self.w, 2.0)"],
)
def test_a_division_that_where_may_leave_out_is_the_program_s_own_affair(written: str) -> None:
    bind(parse(text(written)), {"w": 0.0})
    with pytest.raises(ProgramError, match="divides by 0"):
        bind(parse(text(f"{written} + x / self.w")), {"w": 0.0})


def test_operations_on_numbers_alone_may_take_knobs_that_are_not_bound_yet() -> None:
    for number in ("1.0", "vx.maximum(1.0, 2.0)"):
        program = parse(text(f"x * {number}.clip(0.0, self.w)") if number != "1.0" else text(
            "x * vx.minimum(1.0, 3.0).clip(0.0, self.w)"))  # fmt: skip
        assert bind(program, {"w": 2.0}).knobs["w"] == 2.0


def test_what_is_0_by_rounding_alone_is_not_refused() -> None:
    parse(text(budget="self.budget * 1e-30 * 1e-25 / (1e-30 * 1e-25)"))
