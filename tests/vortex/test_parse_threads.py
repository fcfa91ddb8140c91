"""Programs are read by several threads at once: turns of language models, and the search."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from search_spaces.grammar import program
from vortex.compile import parse


@pytest.fixture
def switching() -> Iterator[None]:
    """Garbage is collected, and another thread's turn comes, in the middle of everything."""
    before = gc.get_threshold()

    def pause(phase: str, info: dict[str, int]) -> None:
        time.sleep(0.0001)

    gc.callbacks.append(pause)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(pause)


@pytest.mark.timeout(120)
def test_threads_that_parse_at_once_do_not_disturb_each_other(switching: None) -> None:
    problems: list[BaseException] = []

    def read(first: int) -> None:
        try:
            for i in range(first, first + 8):
                parse(program(i))
        except BaseException as error:  # what it raises is what is tested
            problems.append(error)

    threads = [threading.Thread(target=read, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
