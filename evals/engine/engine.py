"""What an inference engine is to us: requests in, completions with the time of every token out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vortex.errors import ExitCode, VortexError

Mode = Literal["full", "sparse"]
MODES: tuple[Mode, ...] = ("full", "sparse")
Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn.

    Attributes:
        tokens: at most so many new ones.
        temperature: 0 takes the likeliest token.
        seed: for engines that honour one.
        ignore_end: go on to ``tokens`` whatever is said.
    """

    tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One completion that is asked for.

    Attributes:
        prompt: text, or token numbers as they are.
        after: seconds after the call at which it is sent.
    """

    prompt: Prompt
    sampling: Sampling
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. Times are the client's, in seconds.

    Attributes:
        ids: the tokens, where the engine tells them.
        tokens: how many they are.
        finish: why it ended: ``length``, ``stop``, or what the engine calls it.
        sent: when it was sent, after the call began.
        arrivals: (seconds after it was sent, tokens there by then), in order; the first one is
            the time to the first token. Without streaming there is one, of all tokens.
        prompt_tokens, cached_tokens: of the prompt, and of it served from a cache, where told.
    """

    text: str
    ids: tuple[int, ...] | None
    tokens: int
    finish: str
    sent: float
    arrivals: tuple[tuple[float, int], ...]
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0][0]

    @property
    def done(self) -> float:
        """Seconds from the call to the last token."""
        return self.sent + self.arrivals[-1][0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens, one number a token; those that came together share the wait."""
        found = []
        for (before, had), (at, has) in zip(self.arrivals, self.arrivals[1:], strict=False):
            if has > had:
                found += [(at - before) / (has - had)] * (has - had)
        return found


OWN = "own executor"  # ends the fact "engine" of our executor in an engine's place


class Engine(Protocol):
    """A running engine that holds one model.

    Attributes:
        modes: what :meth:`use` can choose between: both with a switch, else the only one.
        facts: what it is: versions, device, backend, settings. Goes into every record.
    """

    modes: tuple[Mode, ...]
    facts: Mapping[str, str]

    def use(self, mode: Mode) -> None:
        """Requests from now on are decoded in this mode."""
        ...

    def generate(
        self, requests: Sequence[Request], *, stream: bool = True, at_once: int | None = None
    ) -> list[Completion]:
        """Send requests and wait for all, in their order.

        Args:
            stream: have tokens come as they are made; without it the client costs less.
            at_once: so many in flight at most.

        Raises:
            VortexError: E904, it failed.
        """
        ...

    def close(self) -> None:
        """Stop it; more calls change nothing."""
        ...


Sides = Mapping[Mode, Engine]  # one engine under both modes where it has a switch


def sides_of(*engines: Engine) -> Sides:
    """Engines by mode; of two that have a mode, the first.

    Raises:
        VortexError: E906, no engine was given.
    """
    found: dict[Mode, Engine] = {}
    for mode in MODES:
        for engine in engines:
            if mode in engine.modes:
                found.setdefault(mode, engine)
    if not found:
        raise VortexError("no engine to evaluate in", code="E906", hint="name --model or --url")
    return found


def run(
    sides: Sides, mode: Mode, requests: Sequence[Request], *, stream: bool = True,
    at_once: int | None = None,
) -> list[Completion]:  # fmt: skip
    """Requests in one mode.

    Raises:
        VortexError: E904.
    """
    sides[mode].use(mode)
    return sides[mode].generate(requests, stream=stream, at_once=at_once)


def seconds(completions: Sequence[Completion]) -> float:
    """From the first request sent to the last token."""
    return max(c.done for c in completions) - min(c.sent for c in completions)


def digest(*parts: object) -> str:
    """A short hash of plain data."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def failed(why: str, hint: str = "see the engine's log; what was done is kept") -> VortexError:
    """The error of an engine that failed, which says nothing about a program."""
    return VortexError(why, code="E904", hint=hint, exit_code=ExitCode.ENVIRONMENT)


async def gathered(
    one: Callable[[Request, float], Awaitable[Completion]], requests: Sequence[Request],
    at_once: int | None,
) -> list[Completion]:  # fmt: skip
    """Every request's coroutine at its time, so many in flight at most; the first error ends all.

    Args:
        one: from a request and the clock's value at the beginning to a coroutine.
    """
    began = time.perf_counter()
    room = asyncio.Semaphore(at_once or max(1, len(requests)))

    async def placed(request: Request) -> Completion:
        if request.after > 0:
            await asyncio.sleep(request.after - (time.perf_counter() - began))
        async with room:
            return await one(request, began)

    tasks = [asyncio.ensure_future(placed(r)) for r in requests]
    try:
        return list(await asyncio.gather(*tasks))
    except (Exception, asyncio.CancelledError):
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
