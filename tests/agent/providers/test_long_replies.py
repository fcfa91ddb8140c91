"""Replies of many small parts are read in time that grows with their length, not its square."""

from __future__ import annotations

import time
from typing import Any

from agent.providers.openai import _extend


def test_calls_without_an_index_are_read_in_linear_time() -> None:
    calls: dict[int, dict[str, str]] = {}
    start = time.process_time()
    for _ in range(60_000):
        _extend(calls, {"id": "a"})
    assert len(calls) == 60_000 and time.process_time() - start < 5


def test_pieces_without_an_index_extend_the_latest_call() -> None:
    calls: dict[int, dict[str, str]] = {}
    pieces: list[dict[str, Any]] = [
        {"id": "a", "function": {"name": "f", "arguments": "1"}}, {"function": {"arguments": "2"}},
        {"id": "b", "function": {"name": "g", "arguments": "3"}}, {"function": {"arguments": "4"}},
    ]  # fmt: skip
    for piece in pieces:
        _extend(calls, piece)
    assert [c["arguments"] for c in calls.values()] == ["12", "34"]
