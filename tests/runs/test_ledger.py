"""What language models were asked: recorded before it is sent, counted while it is in flight."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runs.ledger import Count, Ledger, Seen, State
from runs.records import SCHEMA_VERSION, RunConfig
from runs.store import Store

NOW = Seen(0, 0, 0, 0)
CONTENT: dict[str, Any] = {"texts": ["system", "[]"], "messages": ['{"text": "hello"}']}
BOUND = Count(prompt=100, completion=50, dollars=0.5, estimated=True)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Store.create(tmp_path, RunConfig(), {}))


def send(ledger: Ledger, turn: int, step: int = 0, **caps: Any) -> int | None:
    return ledger.intend(turn, step, CONTENT, bound=BOUND, price={"input": 1.0}, **caps)


def test_a_request_is_recorded_before_its_outcome_and_counts_at_its_bound(ledger: Ledger) -> None:
    turn = ledger.open_turn("propose", "a", NOW)
    number = send(ledger, turn)
    assert number is not None
    (entry,) = ledger.entries()
    assert entry.state == State.FLYING and entry.content["messages"] == CONTENT["messages"]
    assert (ledger.spent().tokens, ledger.spent().dollars) == (150, 0.5)
    ledger.settle(number, State.ANSWERED, Count(80, 10, 0, 20, 0.1), reply={"text": "hi"})
    assert (ledger.spent().tokens, ledger.spent().dollars) == (100, pytest.approx(0.1))
    assert ledger.dollars_by_agent() == {"a": pytest.approx(0.1)}


@pytest.mark.parametrize("caps", [{"max_tokens": 299}, {"max_dollars": 0.99}])
def test_a_cap_counts_what_is_in_flight(ledger: Ledger, caps: dict[str, Any]) -> None:
    turn = ledger.open_turn("propose", "a", NOW)
    assert send(ledger, turn, **caps) is not None
    assert send(ledger, turn, 1, **caps) is None
    assert len(ledger.entries()) == 1, "what is refused is not recorded"


def test_failures_cost_nothing_and_unknown_outcomes_their_bound(ledger: Ledger) -> None:
    turn = ledger.open_turn("propose", "a", NOW)
    first, second = send(ledger, turn), send(ledger, turn)
    assert first is not None and second is not None
    ledger.settle(first, State.FAILED, Count(), error="server: 500")
    assert ledger.book_unknown() == [second]
    assert [e.state for e in ledger.entries()] == [State.FAILED, State.UNKNOWN]
    assert [e.attempt for e in ledger.entries()] == [0, 1]
    assert ledger.spent().dollars == 0.5
    assert ledger.book_unknown() == []


def test_long_texts_are_kept_once(ledger: Ledger) -> None:
    turn = ledger.open_turn("propose", "a", NOW)
    for step in range(5):
        send(ledger, turn, step)
    path = ledger.store.folder / "run.db"
    with sqlite3.connect(path) as raw:
        assert raw.execute("select count(*) from blobs").fetchone() == (3,)


def test_a_submission_ends_its_turn_in_the_same_transaction(ledger: Ledger) -> None:
    turn = ledger.open_turn("propose", "a", NOW)
    more: dict[str, Any] = {"knobs": {}, "proposer": "a", "parents": [], "note": "n"}
    claim = {"hypothesis": "h", "compared_to": 4}
    candidate, new = ledger.submit(turn, text="t", claim=claim, **more)
    assert new and ledger.claims() == {candidate: claim}
    (row,) = ledger.turns()
    assert (row.outcome, row.candidate) == ("submitted", candidate)
    again = ledger.open_turn("propose", "a", NOW)
    assert ledger.submit(again, text="t", claim={"hypothesis": "other"}, **more) == (
        candidate, False
    )  # fmt: skip
    assert ledger.turns()[1].outcome == "repeated"
    assert ledger.claims() == {candidate: claim}, "what was claimed first stands"


def test_a_state_of_the_run_can_be_read_again(ledger: Ledger) -> None:
    before = ledger.seen()
    turn = ledger.open_turn("notes", "a", before)
    ledger.write_notes(turn, "first")
    middle = ledger.seen()
    ledger.write_notes(ledger.open_turn("notes", "a", middle), "second")
    assert ledger.notes(before) == ("", 0)
    assert ledger.notes(middle)[0] == "first" and ledger.notes()[0] == "second"


def test_a_run_of_an_older_format_is_read_and_taken_up(tmp_path: Path) -> None:
    store = Store.create(tmp_path, RunConfig(), {})
    folder = store.folder
    store.close()
    with sqlite3.connect(folder / "run.db") as raw:
        for table in ("notes", "hypotheses", "replies", "requests", "turns", "blobs"):
            raw.execute(f"drop table {table}")
        raw.execute("update run set schema_version = 2")
    reading = Store.open_to_read(folder)
    old = Ledger(reading)
    assert (old.turns(), old.entries(), old.claims(), old.notes()) == ([], [], {}, ("", 0))
    assert (old.spent().tokens, old.spent().dollars) == (0, 0.0)
    reading.close()
    writing = Store.open_to_write(folder)
    assert Ledger(writing).open_turn("propose", "a", NOW) == 1
    with writing.read() as connection:
        version = connection.exec_driver_sql("select schema_version from run").scalar()
    assert version == SCHEMA_VERSION
