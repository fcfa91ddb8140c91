"""In one table no two candidates are called alike, and what is different is said."""

from __future__ import annotations

from collections.abc import Sequence

from runs.board import Row
from runs.titles import titled
from tests.runs.synthetic import row


def titles(*rows: Row) -> Sequence[str]:
    return [r.title for r in titled(rows)]


def one(
    number: int, program: str = "p", proposer: str = "evolve", note: str = "", **knobs: int
) -> Row:
    return row(number, name="Mine", program=program, proposer=proposer, note=note, knobs=knobs)


def test_a_name_that_one_candidate_has_is_its_title() -> None:
    assert titles(row(1), row(2, program="another")) == ["Program1", "Program2"]


def test_a_tuned_candidate_is_called_by_the_knobs_that_differ() -> None:
    first = one(4, page_size=16, budget=4096)
    tuned = one(11, proposer="tune", page_size=64, budget=2774)
    again = one(30, proposer="tune", page_size=16, budget=835)
    # A board's order is not that of the numbers.
    assert titles(again, first, tuned) == ["Mine budget=835", "Mine", "Mine page=64 budget=2774"]


def test_a_candidate_with_a_part_less_is_called_by_the_part() -> None:
    less = one(27, "q", "ablate", "without maximum(mul)", budget=1716)
    tuned = one(36, "q", "tune", "tuned: budget = 700", budget=700)
    assert titles(one(16, budget=1716), less, tuned) == [
        "Mine", "Mine without maximum(mul)", "Mine without maximum(mul) budget=700",
    ]  # fmt: skip


def test_what_would_still_be_alike_has_its_number() -> None:
    note = "without maximum(mul)"
    found = titles(one(16), one(27, "q", "ablate", note), one(34, "r", "ablate", note))
    assert found == ["Mine", f"Mine {note} #27", f"Mine {note} #34"]
    assert titles(one(1), one(2, "q", "llm")) == ["Mine #1", "Mine #2"]
