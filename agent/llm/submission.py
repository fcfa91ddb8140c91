"""What a language model hands in: a program, and the outcome that it predicts for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vortex.knobs import KnobValue

Expected = Literal["lower", "same", "higher", "unstated"]
EXPECTED: tuple[Expected, ...] = ("lower", "same", "higher")  # what can be stated

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CLASS = re.compile(r"^class\s+\w+\s*\(.*Algorithm\s*\)", re.MULTILINE)
_BARE = re.compile(r"^(import\s+vortex\b|class\s+\w+\s*\(.*Algorithm\s*\))", re.MULTILINE)
_MOST = 200_000  # characters of a reply that are looked at


@dataclass(frozen=True, slots=True)
class Submission:
    """A program with its knobs, and a hypothesis that was written down before the measurement.

    Attributes:
        compared_to: the candidate that the expectations are relative to.
        expected_loss, expected_time: of the loss gap and the step time, against that candidate's.
    """

    text: str
    knobs: Mapping[str, KnobValue]
    hypothesis: str
    compared_to: int | None
    expected_loss: Expected = "unstated"
    expected_time: Expected = "unstated"


def from_text(reply: str) -> str | None:
    """The program of a reply that calls no tool: its one fenced block, or a bare program.

    Of several blocks the only one that holds an algorithm counts; None where that is not clear.
    """
    reply = reply[:_MOST]
    blocks = _blocks(reply)
    if len(blocks) > 1:
        blocks = [b for b in blocks if _CLASS.search(b)]
    if blocks:
        return blocks[0] if len(blocks) == 1 else None
    start = _BARE.search(reply)
    if start is None or not _CLASS.search(reply):
        return None
    return reply[start.start() :].rstrip() + "\n"


def _blocks(reply: str) -> list[str]:
    """Contents of the fenced blocks; one that is never closed ends with the reply."""
    found: list[str] = []
    inside: list[str] | None = None
    fence = ""
    for line in reply.splitlines():
        mark = _FENCE.match(line)
        if inside is None:
            if mark:
                inside, fence = [], mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~"):
            found.append("\n".join(inside) + "\n")
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        found.append("\n".join(inside) + "\n")
    return [b for b in found if b.strip()]
