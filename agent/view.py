"""Shows progress on stderr: one line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from agent.loop import Progress
from vortex.errors import printable

_PLAIN_SECONDS = 15.0


class View:
    """A callable that prints progress, not more often than is useful."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self._last, self._shown, self._phase = 0.0, "", ""

    def __call__(self, progress: Progress) -> None:
        """Show it, if it is news."""
        now = time.monotonic()
        line = self._line(progress)
        due = now - self._last >= (0.5 if self.terminal else _PLAIN_SECONDS)
        if line == self._shown or not (due or progress.phase != self._phase):
            return
        self._last, self._shown, self._phase = now, line, progress.phase
        clock = time.strftime("%M:%S", time.gmtime(now - self.started))
        if self.terminal:
            print(f"\r\x1b[2K[{clock}] {line[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(f"[{clock}] {line}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """End the rewritten line."""
        if self.terminal and self._shown:
            print(file=sys.stderr)
            self._shown = ""

    def _line(self, p: Progress) -> str:
        plural = "s" if p.controls > 1 else ""
        controls = f" (+ {p.controls} control{plural})" if p.controls else ""
        parts = [f"{p.phase} {p.done}/{p.total}{controls}"]
        if p.running:
            parts.append(f"{p.running} running")
        if p.turns:
            parts.append(f"{p.turns} asking")
        if p.dollars:
            parts.append(f"${p.dollars:.2f}")
        if p.front:
            shown = "; ".join(p.front[:4])
            parts.append(printable(f"front of {len(p.front)}: {shown}", limit=220))
        if p.seconds_left:
            parts.append(f"about {p.seconds_left / 60:.0f} min left")
        return ", ".join(parts)
