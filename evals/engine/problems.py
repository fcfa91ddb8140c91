"""Problems with answers: a user's JSONL, read line by line with every bad line named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.engine.scorers import SCORERS, ScorerName, canonical
from evals.result import Record
from vortex.errors import VortexError, printable

MOST_LINE_BYTES, MOST_PROBLEMS = 8 << 20, 200_000
_SHOWN = 10
_KEYS = ("id", "prompt", "answer", "scorer", "group")


class Problem(Record):
    """One question to a model.

    Attributes:
        answer: right answers; see :func:`evals.engine.scorers.score` for what several mean.
        group: what it is reported under, as the name of a set.
    """

    id: str
    prompt: str
    answer: tuple[str, ...]
    scorer: ScorerName
    group: str = ""

    @property
    def digest(self) -> str:
        """Identifies prompt, answers and scorer, whatever the problem is called."""
        content = [self.prompt, self.answer, self.scorer]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def read_problems(path: Path) -> Iterator[Problem]:
    """The problems of a file, one JSON object a line; the file is read twice and never held.

    A line has ``id``, ``prompt``, ``answer`` (text, number, or a list of them) and ``scorer``
    (exact, contains, number, boxed, choice), and may have ``group``.

    Raises:
        VortexError: E901, the file cannot be read, or lines are wrong; before any is given.
    """
    bad: list[str] = []
    ids: set[str] = set()
    for at, found in _lines(path):
        if isinstance(found, str):
            bad.append(f"{path}:{at}: {found}")
        elif found.id in ids:
            bad.append(f"{path}:{at}: the id {found.id[:60]!r} is there already")
        else:
            ids.add(found.id)
        if len(bad) > _SHOWN:
            bad[-1] = "and more"
            break
    if bad:
        raise _wrong("\n".join(["lines are wrong", *bad]) if len(bad) > 1 else bad[0])
    if not ids:
        raise _wrong(f"{path} holds no problem")
    return (found for _, found in _lines(path) if isinstance(found, Problem))


def _lines(path: Path) -> Iterator[tuple[int, Problem | str]]:
    """Every line that is not blank: its number, and its problem or what is wrong."""
    try:
        with path.open("rb") as file:
            at = 0
            while line := file.readline(MOST_LINE_BYTES + 1):
                at += 1
                if len(line) > MOST_LINE_BYTES:
                    yield at, f"longer than {MOST_LINE_BYTES:,} bytes; nothing after it was read"
                    return
                if at > MOST_PROBLEMS:
                    yield at, f"more than {MOST_PROBLEMS:,} lines"
                    return
                if line.strip():
                    yield at, _parsed(line)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror or error}") from None


def _parsed(line: bytes) -> Problem | str:
    try:
        data: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except (ValueError, RecursionError) as error:
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        return f"it is no JSON{where}"
    if not isinstance(data, dict):
        return "it is no JSON object"
    odd = sorted(str(key) for key in data if key not in _KEYS)
    if odd:
        return f"unknown key {printable(odd[0], limit=40)!r} (known: {', '.join(_KEYS)})"
    given = data.get("answer")
    answers = [_text(a) for a in (given if isinstance(given, list) else [given])]
    scorer, prompt, group = data.get("scorer"), data.get("prompt"), data.get("group", "")
    if not isinstance(data.get("id"), str | int) or not str(data["id"]).strip():
        return "`id` must be a text"
    if not isinstance(prompt, str) or not prompt.strip():
        return "`prompt` must be a text"
    if not isinstance(group, str):
        return "`group` must be a text"
    if scorer not in SCORERS:
        return f"`scorer` must be one of {', '.join(SCORERS)}"
    if not answers or None in answers:
        return "`answer` must be a text, a number, or a list of them"
    right = tuple(a for a in answers if a is not None)
    for answer in right:
        if canonical(scorer, answer) is None:
            shown = printable(answer, limit=40)
            return f"no reply could match the answer {shown!r} by the scorer '{scorer}'"
    return Problem(
        id=printable(str(data["id"]), limit=200), prompt=prompt, answer=right, scorer=scorer,
        group=printable(group, limit=60),
    )  # fmt: skip


def _text(answer: Any) -> str | None:
    if isinstance(answer, str):
        return answer
    return None if isinstance(answer, bool) or not isinstance(answer, int | float) else str(answer)


def _wrong(message: str) -> VortexError:
    return VortexError(
        message, code="E901",
        hint='one object a line: {"id": "1", "prompt": "2 + 2 =", "answer": "4", "scorer": '
        '"number"}',
    )  # fmt: skip
