"""The run in docs/runs/agent-smollm2, recorded with a real language model, replays with no key."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.llm.expenses import expenses
from agent.llm.prefix import prefix
from agent.llm.replay import Change, replay
from agent.llm.studio import tally
from agent.presentation import board_of
from agent.providers.codec import reply_from_json
from agent.providers.records import Reply
from agent.standing import standings
from runs.ledger import Ledger, State
from runs.store import Store
from tests.agent.llm.driving import config_for, run
from tests.agent.providers.wire import Recorded, Scripted, Wire, tool_calls

EXAMPLE = Path(__file__).resolve().parents[3] / "docs/runs/agent-smollm2"


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Store]:
    """A copy of the run: reading a database in WAL mode writes beside it."""
    folder = tmp_path / "agent-smollm2"
    folder.mkdir()
    shutil.copy(EXAMPLE / "run.db", folder)
    store = Store.open_to_read(folder)
    yield store
    store.close()


def is_known(change: Change) -> bool:
    """Since the recording, states, tokens chosen by rank and cuts of computed values have kernels:
    what the three checked programs that have them launch and cost."""
    lines = [x for x in change.diff.splitlines() if x[:1] in "+-" and x[:3] not in ("+++", "---")]
    return change.turn in (5, 7, 9) and all(
        x[1:].startswith(("launches of a sparse layer", "predicted step")) for x in lines
    )


def test_every_request_and_submission_comes_out_as_it_was_recorded(example: Store) -> None:
    found = replay(example, prefix(example.config()))
    new = [c for c in found.changes if not is_known(c)]
    shown = "\n".join(f"turn {c.turn}: {c.what}\n{c.diff}" for c in new[:3])
    assert not new, f"the prompts changed (CONTRIBUTING says what to do):\n{shown}"
    assert len(found.changes) == 3
    assert found.turns >= 30 and found.requests >= found.turns and found.partial == 0


def test_the_model_was_right_nine_times_in_ten_and_reached_the_front(example: Store) -> None:
    count = tally(Ledger(example))
    assert count.valid >= 30 and count.valid / count.ended >= 0.9
    (cost,) = [e for e in expenses(example) if e.turns]
    assert cost.on_front >= 1 and 0.5 < cost.repeated < 1
    now = standings(example, example.config())
    assert any(s.record.proposer == cost.agent for s in now.front())


def test_no_two_of_its_candidates_are_called_alike(example: Store) -> None:
    titles = {r.id: r.title for r in board_of(example).rows}
    assert len(set(titles.values())) == len(titles) == 47
    assert (titles[12], titles[25]) == ("GaussianMass", "GaussianMass without add(mul)")
    assert titles[38] == "TokenSlow8 page=16 budget=681"


def submissions(example: Store) -> list[Reply]:
    """Recorded replies that handed a program in, in their order."""
    turns = {t.id for t in Ledger(example).turns() if t.purpose == "propose"}
    replies = [
        reply_from_json(e.reply)
        for e in Ledger(example).entries()
        if e.turn in turns and e.state == State.ANSWERED and e.reply is not None
    ]
    return [r for r in replies if any(c.name == "submit_program" for c in r.calls)]


def test_the_same_replies_in_the_other_wire_format(
    example: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key-of-no-one")
    recorded = submissions(example)
    left = iter(recorded)

    def tape(request: Recorded) -> Scripted:
        if len(request.body["messages"]) == 1 and "test of the connection" in str(request.body):
            return tool_calls(("look_up_op", {"name": "k"}))
        calls = [(c.name, dict(c.arguments or {})) for c in next(left).calls]
        for _, arguments in calls:
            # The numbers of candidates are those of the recorded run.
            arguments.pop("compared_to", None)
        return tool_calls(*calls)

    with Wire(tape) as wire:
        config = config_for(
            f"anthropic:m@{wire.url}", evaluations=7 + 30, fill=0.0, parallel_turns=1,
            notes_every=1000,
        )  # fmt: skip
        store = run(tmp_path / "runs", config, proposers=())
    count = tally(Ledger(store))
    assert count.valid >= 30 and count.valid / count.ended >= 0.9
    now = standings(store, config)
    assert any(s.record.proposer.startswith("anthropic") for s in now.judged())
    found = replay(store, prefix(config))
    assert (found.changes, found.partial) == ((), 0)
