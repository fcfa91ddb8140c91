"""What Ctrl-C does: the first ends a command in order, the second at once; the code is 130."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from vortex.errors import ExitCode

_STOPPING = "stopping when what runs has come back; Ctrl-C again stops at once, nothing is lost"


class Interrupts:
    """A handler of SIGINT. Ending at once is like a kill: workers go too, what came is on disk."""

    def __init__(self, first: Callable[[], None]) -> None:
        self._first, self.asked = first, False

    def __call__(self, *_: object) -> None:
        """The first is told to the command; the second is not waited for."""
        if self.asked:
            _say("interrupted")
            os._exit(ExitCode.INTERRUPTED)
        self.asked = True
        self._first()


def end_twice_at_once() -> None:
    """For a process that is one command: until it has ended, an end in order can be cut short.

    Where SIGINT is ignored, as of a script's background job, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, Interrupts(_raised))


@contextlib.contextmanager
def told() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C sets the event, says so, and interrupts nothing.

    Where SIGINT is ignored, it stays so.
    """
    stopped = threading.Event()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield stopped
        return

    def tell() -> None:
        stopped.set()
        _say(_STOPPING)

    mine = Interrupts(tell)
    previous = signal.signal(signal.SIGINT, mine)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
        if isinstance(previous, Interrupts):
            previous.asked |= mine.asked


def _say(line: str) -> None:
    """A line of its own on standard error; print may be at work where a signal comes."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def _raised() -> None:
    raise KeyboardInterrupt
