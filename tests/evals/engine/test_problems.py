"""A user's file of problems: what is read, and how what is wrong is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.engine import problems
from evals.engine.problems import Problem, read_problems
from vortex.errors import VortexError

GOOD: dict[str, Any] = {"id": "1", "prompt": "2 + 2 =", "answer": "4", "scorer": "number"}


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def complaint(path: Path) -> str:
    with pytest.raises(VortexError) as caught:
        read_problems(path)
    assert caught.value.code == "E901"
    return caught.value.message


def test_problems_are_read_in_order_with_their_answers(tmp_path: Path) -> None:
    path = written(
        tmp_path, GOOD, "", GOOD | {"id": 2, "answer": 4, "group": "sums"},
        GOOD | {"id": "3", "answer": ["4", 4.0], "scorer": "boxed"},
    )  # fmt: skip
    found = list(read_problems(path))
    assert found[0] == Problem(id="1", prompt="2 + 2 =", answer=("4",), scorer="number")
    assert [p.id for p in found] == ["1", "2", "3"]
    assert found[1].answer == ("4",) and found[1].group == "sums"
    assert found[2].answer == ("4", "4.0")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON, column"), ("[1]", "no JSON object"), (GOOD | {"id": None}, "`id`"),
        (GOOD | {"prompt": " "}, "`prompt`"), (GOOD | {"scorer": "foo"}, "`scorer`"),
        (GOOD | {"answer": None}, "`answer`"), (GOOD | {"answer": []}, "`answer`"),
        (GOOD | {"answer": True}, "`answer`"), (GOOD | {"answer": "four"}, "no reply could match"),
        (GOOD | {"answer": "12,34"}, "no reply could match"), (GOOD | {"group": 3}, "`group`"),
        (GOOD | {"scorrer": "x"}, "unknown key 'scorrer'"), (GOOD, "the id '1' is there already"),
        ("[" * 100_000, "no JSON"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: Any, said: str) -> None:
    message = complaint(written(tmp_path, GOOD, line))
    assert "problems.jsonl:2: " in message and said in message


def test_several_bad_lines_are_told_at_once_but_not_hundreds(tmp_path: Path) -> None:
    message = complaint(written(tmp_path, GOOD, *["x"] * 50))
    assert message.count("problems.jsonl:") == 10 and message.endswith("and more")


def test_what_is_no_file_of_problems_is_said(tmp_path: Path) -> None:
    assert "cannot read" in complaint(tmp_path / "absent")
    assert "cannot read" in complaint(tmp_path)
    assert "no problem" in complaint(written(tmp_path, ""))
    (tmp_path / "latin").write_bytes(b'{"id": "\xe9"}\n')
    assert "latin:1: it is not UTF-8" in complaint(tmp_path / "latin")


def test_lines_and_files_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "MOST_LINE_BYTES", 200)
    assert "longer than 200" in complaint(written(tmp_path, GOOD, GOOD | {"prompt": "x" * 200}))
    monkeypatch.setattr(problems, "MOST_PROBLEMS", 2)
    lines = [GOOD | {"id": str(i)} for i in range(3)]
    assert "more than 2" in complaint(written(tmp_path, *lines))


def test_a_digest_is_of_what_decides_the_score() -> None:
    one = Problem(id="1", prompt="p", answer=("4",), scorer="number")
    assert one.digest == one.model_copy(update={"id": "2", "group": "x"}).digest
    changes: list[dict[str, Any]] = [{"prompt": "q"}, {"answer": ("5",)}, {"scorer": "boxed"}]
    assert len({one.digest, *(one.model_copy(update=c).digest for c in changes)}) == 4
