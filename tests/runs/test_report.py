"""The report is one file that needs no network and cannot be made to run a candidate's words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runs.board import ProposerRow
from runs.report import render_report, write_report
from tests.runs.synthetic import HOSTILE, board, row
from vortex.errors import ExitCode, VortexError


class Page(HTMLParser):
    """Tags, links and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


def test_a_page_holds_the_programs_the_numbers_and_their_origin() -> None:
    text = render_report(board(row(1, on_front=True), row(2, parents=(1,))))
    data = json.loads(Page(text).scripts[0])
    assert [r["program"] for r in data["rows"]] == ["class A: ..."] * 2
    assert data["rows"][1]["parents"] == [1]
    assert data["rows"][0]["step_ms"] == 2.0
    assert "0.125 ± 0.013" in data["rows"][0]["shown"]
    assert {c["origin"] for c in data["columns"]} == {"measured", "predicted"}
    assert "STAND-IN" in text and "a CPU" in text


def test_a_page_fetches_nothing() -> None:
    text = render_report(board(row(1)))
    assert Page(text).links == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)


@pytest.mark.parametrize("where", ["name", "program", "note", "message", "proposer"])
def test_words_of_a_candidate_stay_words(where: str) -> None:
    attack = f"</script>{HOSTILE}<!--<img src=x onerror=alert(1)>\u2028"
    clean = Page(render_report(board(row(1))))
    page = Page(render_report(board(row(1, **{where: attack}))))
    assert page.tags == clean.tags and page.links == []
    assert json.loads(page.scripts[0])["rows"][0][where] == attack


def test_words_of_a_run_stay_words() -> None:
    clean = Page(render_report(board(row(1))))
    hostile = board(
        row(1), target=HOSTILE, device=HOSTILE, standin_note=HOSTILE, accuracy_model=HOSTILE,
        config={"seed": HOSTILE}, environment={"processor": HOSTILE},
    )  # fmt: skip
    assert Page(render_report(hostile)).tags == clean.tags


def test_a_run_without_candidates_has_a_page() -> None:
    assert json.loads(Page(render_report(board())).scripts[0])["rows"] == []


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VortexError) as caught:
        write_report(board(row(1)), tmp_path / "file" / "report.html")
    assert (caught.value.code, caught.value.exit_code) == ("E604", ExitCode.ENVIRONMENT)


def test_who_proposed_is_on_the_page_and_stays_words() -> None:
    sources = (ProposerRow("evolve", 40, 38, 3, 0.625), ProposerRow(HOSTILE, 8, 2, 0, 0.375, 0.25))
    text = render_report(board(row(1), proposers=sources))
    assert "38 (95%)" in text and "$0.25" in text and "Who proposed" in text
    plain = (sources[0], ProposerRow("x", 8, 2, 0, 0.375, 0.25))
    assert Page(text).tags == Page(render_report(board(row(1), proposers=plain))).tags
    assert "Who proposed" not in render_report(board(row(1)))
