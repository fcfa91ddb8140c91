"""An agent run may be killed at any moment: no reply is asked for twice, none is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.llm.prefix import prefix
from agent.llm.replay import replay
from agent.providers.codec import request_from_json
from runs.ledger import Entry, Ledger, State
from runs.naming import list_runs
from runs.store import Store
from tests.agent.llm.driving import Guesser
from tests.agent.providers.wire import Recorded, Scripted, Wire

ROOT = Path(__file__).resolve().parents[3]


class Slow:
    """Answers after a while, so that kills meet requests in flight."""

    def __init__(self) -> None:
        self.guess, self.rng = Guesser(), random.Random(3)

    def __call__(self, request: Recorded) -> Scripted:
        time.sleep(self.rng.uniform(0.0, 0.05))
        return self.guess(request)


def start(runs_dir: Path, agent: str) -> subprocess.Popen[str]:
    environment = os.environ | {"VORTEX_CACHE": str(runs_dir / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drive_agent", str(runs_dir), agent],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def entries(runs_dir: Path) -> list[Entry]:
    names = list_runs(runs_dir)
    if not names:
        return []
    store = Store.open_to_read(runs_dir / names[0])
    found = Ledger(store).entries()
    store.close()
    return found


def opening_of(text: object) -> str:
    return " ".join(str(text).split())


@pytest.mark.timeout(400)
@pytest.mark.parametrize("wanted", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_lose_no_reply_and_repeat_no_request(wanted: int, tmp_path: Path) -> None:
    rng = random.Random(1)
    answered: dict[int, object] = {}
    kills = 0
    with Wire(Slow()) as wire:
        agent = f"openai:m@{wire.url}/v1"
        while kills < wanted:
            process = start(tmp_path, agent)
            before, limit = len(wire.requests), time.monotonic() + 60
            while len(wire.requests) < before + 2 and time.monotonic() < limit:
                if process.poll() is not None:
                    break
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.3))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            now = entries(tmp_path)
            kept = {e.id: e.reply for e in now if e.state == State.ANSWERED}
            assert answered.items() <= kept.items(), "a reply was lost"
            answered = kept
        out, err = start(tmp_path, agent).communicate(timeout=120)
        assert "finished" in out, err
        assert kills >= wanted // 2, "the run ended before it could be killed often enough"
        whole = [r.body for r in wire.requests if r.body]  # a kill may come before a body does
        sent = Counter(opening_of(body["messages"][-1].get("content")) for body in whole)
    rows = entries(tmp_path)
    recorded = Counter(opening_of(request_from_json(e.content).messages[-1].text) for e in rows)
    assert sent <= recorded, "a request was sent that was not recorded, or one was sent twice"
    by_step: dict[tuple[int, int], list[State]] = {}
    for entry in rows:
        by_step.setdefault((entry.turn, entry.step), []).append(entry.state)
    final = (State.ANSWERED, State.UNKNOWN)
    assert all(s not in final for states in by_step.values() for s in states[:-1])
    store = Store.open_to_read(tmp_path / list_runs(tmp_path)[0])
    ledger = Ledger(store)
    unknown = [e for e in rows if e.state == State.UNKNOWN]
    lost = {t.id for t in ledger.turns() if t.outcome == "lost"}
    assert {e.turn for e in unknown if e.turn in lost} == {e.turn for e in unknown}
    assert all(e.count.prompt > 0 for e in unknown), "what may have been charged is booked"
    assert all(t.outcome is not None for t in ledger.turns())
    assert store.evaluated() == 40
    found = replay(store, prefix(store.config()))
    assert found.changes == (), found.changes[:1]
