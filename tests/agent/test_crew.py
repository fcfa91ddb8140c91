"""A crew that is dismissed ends at once, whatever its workers are doing."""

from __future__ import annotations

import time

import pytest

from agent.crew import Crew


@pytest.mark.parametrize("after", [0.0, 0.3, 1.5])
def test_dismissal_does_not_wait_for_work_or_for_a_probe(after: float) -> None:
    probe = {"what": "hang"}
    crew = Crew("tests.evals.misbehaving:Misbehaving", {}, size=2, probe=probe)
    futures = [crew.submit([({"what": "hang"}, 60.0)] * 2) for _ in range(6)]
    time.sleep(after)
    started = time.monotonic()
    crew.close()
    assert time.monotonic() - started < 10
    assert all(f.done() for f in futures)
