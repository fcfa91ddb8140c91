"""Asks again after failures that pass."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent.providers.records import ProviderError, Reply

SLICE = 1.0  # seconds of sleep between two looks at stop()
LONGEST = 1800.0  # seconds: a server that asks to wait longer is given up


def with_retries(
    send: Callable[[], Reply], *, rng: random.Random, sleep: Callable[[float], None],
    on_retry: Callable[[ProviderError, float], None], stop: Callable[[], bool], tries: int = 5,
    base: float = 1.0, cap: float = 60.0,
) -> Reply:  # fmt: skip
    """Call ``send`` until it brings a reply.

    The pause before attempt n + 1 is uniform in [0, min(cap, base * 2**(n - 1))], so that clients
    that failed together do not come back together, and at least as long as the provider asks.

    Args:
        send: one attempt.
        sleep: called with at most ``SLICE`` seconds at a time.
        on_retry: told of the failure and the seconds before the next attempt.
        stop: whether to give up: looked at before each pause and all through it.
        tries: attempts in all; ``base``, ``cap``: seconds.

    Raises:
        ProviderError: the last failure: it does not pass, or came too often, or ``stop()``.
    """
    for attempt in range(1, tries + 1):
        try:
            return send()
        except ProviderError as error:
            if not error.trouble.passes or attempt == tries or stop():
                raise
            if error.wait is not None and error.wait > LONGEST:
                raise
            pause = rng.uniform(0.0, min(cap, base * 2.0 ** (attempt - 1)))
            pause = max(pause, error.wait or 0.0)
            on_retry(error, pause)
            if not _slept(pause, sleep, stop):
                raise
    raise ValueError("at least one try")


def _slept(seconds: float, sleep: Callable[[float], None], stop: Callable[[], bool]) -> bool:
    """Sleep; False as soon as ``stop()``."""
    left = seconds
    while left > 0.0:
        if stop():
            return False
        sleep(min(left, SLICE))
        left -= SLICE
    return not stop()
