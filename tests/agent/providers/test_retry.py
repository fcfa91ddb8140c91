"""Failures that pass are asked again, with patience and an end."""

from __future__ import annotations

import random

import pytest

from agent.providers.records import ProviderError, Reply, Trouble
from agent.providers.retry import with_retries


class Clock:
    """Counts attempts and what is slept; fails by a script."""

    def __init__(self, *failures: ProviderError, stop_after: float = 1e9) -> None:
        self.failures, self.stop_after = list(failures), stop_after
        self.sent, self.slept, self.told = 0, 0.0, []  # type: ignore[var-annotated]

    def send(self) -> Reply:
        self.sent += 1
        if self.failures:
            raise self.failures.pop(0)
        return Reply("ok")

    def sleep(self, seconds: float) -> None:
        assert 0.0 < seconds <= 1.0
        self.slept += seconds

    def run(self, seed: int = 0, **more: float) -> Reply:
        return with_retries(
            self.send, rng=random.Random(seed), sleep=self.sleep, tries=5,
            on_retry=lambda error, pause: self.told.append((error.trouble, pause)),
            stop=lambda: self.slept >= self.stop_after, **more,
        )  # fmt: skip


def failed(trouble: Trouble, wait: float | None = None) -> ProviderError:
    return ProviderError("no", trouble, wait=wait)


def test_what_passes_is_asked_again_until_it_is_answered() -> None:
    clock = Clock(failed(Trouble.RATE), failed(Trouble.SERVER), failed(Trouble.NETWORK))
    assert clock.run().text == "ok"
    assert clock.sent == 4 and [t for t, _ in clock.told] == ["rate", "server", "network"]
    assert clock.slept == pytest.approx(sum(pause for _, pause in clock.told))


@pytest.mark.parametrize("trouble", [Trouble.KEY, Trouble.MODEL, Trouble.URL, Trouble.REQUEST])
def test_what_does_not_pass_is_given_up_at_once(trouble: Trouble) -> None:
    clock = Clock(failed(trouble))
    with pytest.raises(ProviderError):
        clock.run()
    assert clock.sent == 1 and clock.slept == 0.0 and clock.told == []


def test_there_is_an_end() -> None:
    clock = Clock(*[failed(Trouble.SERVER)] * 9)
    with pytest.raises(ProviderError):
        clock.run()
    assert clock.sent == 5 and len(clock.told) == 4


def test_pauses_grow_are_random_and_are_capped() -> None:
    means = []
    for attempt in range(4):
        pauses = []
        for seed in range(200):
            clock = Clock(*[failed(Trouble.SERVER)] * 4)
            clock.run(seed, base=2.0, cap=6.0)
            pauses.append(clock.told[attempt][1])
        means.append(sum(pauses) / len(pauses))
        assert max(pauses) <= 6.0 and min(pauses) < 0.3 and len(set(pauses)) == 200
    assert means == pytest.approx([1.0, 2.0, 3.0, 3.0], abs=0.4)


def test_the_provider_s_wish_is_the_least_pause() -> None:
    clock = Clock(failed(Trouble.RATE, wait=17.5))
    clock.run()
    assert clock.slept == pytest.approx(17.5)


def test_a_wish_beyond_reason_is_a_failure() -> None:
    clock = Clock(failed(Trouble.RATE, wait=86_400.0))
    with pytest.raises(ProviderError):
        clock.run()
    assert clock.slept == 0.0


def test_stopping_ends_the_pause_and_the_attempts() -> None:
    clock = Clock(failed(Trouble.RATE, wait=100.0), stop_after=3.0)
    with pytest.raises(ProviderError):
        clock.run()
    assert clock.sent == 1 and clock.slept == 3.0
    clock = Clock(failed(Trouble.RATE), stop_after=0.0)
    with pytest.raises(ProviderError):
        clock.run()
    assert clock.sent == 1 and clock.told == []
