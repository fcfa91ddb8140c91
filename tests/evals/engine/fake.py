"""An engine by a script, whose clock is a number: replies, times and faults as a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evals.engine.engine import Completion, Mode, Request

Reply = Callable[[Request, Mode, int], str]


class FakeEngine:
    """Both modes by a switch, unless told otherwise.

    Args:
        first, each: seconds to the first token and between tokens, by mode; a drift multiplies
            them by (1 + drift * calls so far).
        reply: text of a completion, from request, mode and number of calls.
        tokens: how many tokens come, of those asked for; ``finish``: why it ends.
        breaks: raises after so many calls of :meth:`generate`.
    """

    def __init__(
        self, *, modes: tuple[Mode, ...] = ("full", "sparse"),
        first: Mapping[Mode, float] | None = None, each: Mapping[Mode, float] | None = None,
        reply: Reply = lambda request, mode, call: "42", finish: str = "length",
        tokens: Callable[[int], int] = lambda asked: asked, drift: float = 0.0,
        breaks: int | None = None, cached: Callable[[int], int] | None = None,
        weights: str = "real",
    ) -> None:  # fmt: skip
        self.modes = modes
        self.facts: Mapping[str, str] = {
            "engine": "fake 1", "device": "clock", "model": "none", "weights": weights,
        }  # fmt: skip
        self.first = first or {"full": 0.4, "sparse": 0.42}
        self.each = each or {"full": 0.02, "sparse": 0.01}
        self.reply, self.finish, self.tokens, self.drift = reply, finish, tokens, drift
        self.breaks, self.cached = breaks, cached
        self.mode: Mode = modes[0]
        self.calls: list[tuple[Mode, list[Request]]] = []
        self.closed = 0

    def use(self, mode: Mode) -> None:
        assert mode in self.modes
        self.mode = mode

    def generate(
        self, requests: Sequence[Request], *, stream: bool = True, at_once: int | None = None
    ) -> list[Completion]:
        if self.breaks is not None and len(self.calls) >= self.breaks:
            raise RuntimeError("killed")
        slow = 1.0 + self.drift * len(self.calls)
        self.calls.append((self.mode, list(requests)))
        width = at_once or len(requests)
        first, each = self.first[self.mode] * slow, self.each[self.mode] * slow
        found = []
        for at, request in enumerate(requests):
            count = self.tokens(request.sampling.tokens)
            arrivals = [(first + i * each, i + 1) for i in range(count)]
            wave = at // width * (first + (count - 1) * each)  # a closed loop in waves
            text = self.reply(request, self.mode, len(self.calls))
            ids = tuple(ord(c) for c in (text * count)[:count])
            prompt = None if isinstance(request.prompt, str) else len(request.prompt)
            found.append(Completion(
                text, ids, count, self.finish, max(request.after, wave),
                tuple(arrivals if stream else arrivals[-1:]), prompt,
                self.cached(len(self.calls)) if self.cached else None,
            ))  # fmt: skip
        return found

    def close(self) -> None:
        self.closed += 1
