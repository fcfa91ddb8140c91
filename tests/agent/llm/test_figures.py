"""Numbers are shown to the digits that matter."""

from __future__ import annotations

import math

import pytest

from agent.llm.figures import measured, milliseconds, size


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.12534, 0.01234, "0.125 ± 0.012"),
        (0.1, 0.0996, "0.10 ± 0.10"),
        (1.5, 0.00095, "1.50000 ± 0.00095"),
        (123.4, 12.3, "123 ± 12"),
        (0.12345, None, "0.123"),
        (0.12345, math.inf, "0.123"),
        (0.12345, 1e-18, "0.123"),
        (math.nan, 0.1, "unknown"),
    ],
)
def test_an_error_has_two_digits_and_its_value_ends_where_it_does(
    value: float, error: float | None, text: str
) -> None:
    assert measured(value, error) == text


def test_signs_and_units() -> None:
    assert measured(0.5, 0.1, sign=True) == "+0.50 ± 0.10"
    assert milliseconds(0.00123456) == "1.235 ms" and milliseconds(math.inf) == "unknown"
    assert [size(x) for x in (12, 1200, 1.2e6, 3.456e9)] == ["12 B", "1.2 KB", "1.2 MB", "3.46 GB"]
