"""A program is found in a reply without tool calls where there is exactly one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.llm.submission import from_text
from tests.agent.llm.state import PROGRAM
from vortex import compile_text


@pytest.mark.parametrize(
    "reply",
    [
        f"Here it is:\n\n```python\n{PROGRAM}```\nIt should win.",
        f"```\n{PROGRAM}```",
        f"~~~~\n{PROGRAM}\n~~~~",
        f"````python\n{PROGRAM}````\n",
        PROGRAM,
        f"I think this works.\n\n{PROGRAM}",
        f"First a line:\n```\nscore = q\n```\nthen all:\n```python\n{PROGRAM}```",
        f"```python\r\n{PROGRAM}".replace("\n", "\r\n"),  # never closed
    ],
)
def test_the_one_program_is_found_however_it_is_wrapped(reply: str) -> None:
    text = from_text(reply)
    assert text is not None
    assert compile_text(text).structure_hash == compile_text(PROGRAM).structure_hash


@pytest.mark.parametrize(
    "reply",
    ["", "No idea.", f"```\n{PROGRAM}```\n```\n{PROGRAM}```", "```\n```", "import numpy as np",
     "```\na\n```\n```\nb\n```"],
)  # fmt: skip
def test_no_program_or_two_are_none(reply: str) -> None:
    assert from_text(reply) is None


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(reply: str) -> None:
    from_text(reply)


def test_two_megabytes_are_read_quickly() -> None:
    started = time.monotonic()
    for reply in ("`" * 2_000_000, "```\n" * 500_000, "class " * 400_000, "x\n" * 1_000_000,
                  "class A(" * 250_000, " " * 2_000_000):  # fmt: skip
        from_text(reply)
    assert time.monotonic() - started < 10
