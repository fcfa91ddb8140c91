"""A crew that is dismissed ends at once; a worker at fault judges nothing more."""

from __future__ import annotations

import time

import pytest

from agent.crew import Crew, MachineFault, Unsound


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


def test_a_worker_that_raised_is_replaced() -> None:
    crew = Crew("tests.evals.misbehaving:Misbehaving", {}, size=1)
    try:
        (before,) = crew.submit([({"what": "who"}, 60.0)]).result()
        with pytest.raises(MachineFault, match="on purpose"):
            crew.submit([({"what": "raise"}, 60.0)]).result()
        (after,) = crew.submit([({"what": "who"}, 60.0)]).result()
        assert before != after
    finally:
        crew.close()


def test_a_crash_after_which_a_known_program_crashes_too_is_the_machine_s() -> None:
    crew = Crew("tests.evals.misbehaving:Misbehaving", {}, size=1, probe={"what": "exit"})
    try:
        with pytest.raises(Unsound, match=r"exit code 7; a known program fails too: .* code 7"):
            crew.submit([({"what": "exit", "kind": "throughput"}, 60.0)]).result()
    finally:
        crew.close()
