"""The tools that a language model may call, as every provider is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.llm.submission import EXPECTED
from agent.providers.records import ToolSpec

_PROGRAM = {"type": "string", "description": "The whole text: the import and one class."}
_KNOBS = {
    "type": "object",
    "description": "Values of knobs by name; others take their defaults.",
    "additionalProperties": {"type": ["number", "string"]},
}
_EXPECTED = {"type": "string", "enum": [*EXPECTED]}


def _spec(
    name: str, description: str, properties: Mapping[str, Any], required: tuple[str, ...]
) -> ToolSpec:
    schema = {
        "type": "object", "properties": dict(properties), "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip
    return ToolSpec(name, description, schema)


TOOLS: tuple[ToolSpec, ...] = (
    _spec(
        "check_program",
        "Parse and bind a program, every option of every choice: all errors with their places, or "
        "its fields, bytes, hash and launches on a GPU. Costs no evaluation.",
        {"program": _PROGRAM, "knobs": _KNOBS},
        ("program",),
    ),
    _spec(
        "price_program",
        "Predict a program's decode step on the target, beside the parent and the front. Costs no "
        "evaluation.",
        {"program": _PROGRAM, "knobs": _KNOBS},
        ("program",),
    ),
    _spec(
        "look_up_op",
        "What an operation, class attribute or method of the language means, with an example.",
        {"name": {"type": "string"}},
        ("name",),
    ),
    _spec(
        "read_candidate",
        "A candidate of this run: its program, its numbers, where it loses, why it ended.",
        {"id": {"type": "integer"}},
        ("id",),
    ),
    _spec(
        "submit_program",
        "Hand in a program for evaluation, with what you expect of it. Ends the turn if taken.",
        {
            "program": _PROGRAM,
            "hypothesis": {"type": "string", "description": "One sentence: why it should win."},
            "compared_to": {"type": "integer", "description": "Candidate that it is to beat."},
            "expected_loss": {**_EXPECTED, "description": "Its loss gap against that one's."},
            "expected_time": {**_EXPECTED, "description": "Its step time against that one's."},
            "knobs": _KNOBS,
        },
        ("program", "hypothesis", "compared_to", "expected_loss", "expected_time"),
    ),
)
