"""Asks a model on a run's account: nothing is sent before it is recorded, nothing used before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from agent.providers.codec import reply_from_json, reply_to_json, request_to_json, tidied
from agent.providers.prices import Price, estimate_tokens
from agent.providers.records import Provider, ProviderError, Reply, Request
from agent.providers.retry import with_retries
from runs.ledger import Count, Ledger, State
from runs.records import RunConfig


@dataclass(frozen=True, slots=True)
class Agent:
    """A language model that proposes.

    Attributes:
        name: as ``--agent`` names it, and what its candidates are recorded under.
        price: None where no price is known.
        tools: whether it calls tools; else its text is searched for a program.
    """

    name: str
    provider: Provider
    price: Price | None
    tools: bool = True


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of a run, what is in flight included."""

    tokens: int | None = None
    dollars: float | None = None


def caps_of(config: RunConfig) -> Caps:
    """The caps of a run."""
    return Caps(config.max_tokens, config.max_cost)


class TurnEnds(Exception):
    """A turn cannot go on.

    Attributes:
        outcome: ``budget``: a cap would be passed; ``failed``: the provider brings no reply;
            ``lost``: a process ended with a request of it in flight, which is not sent again;
            None: stopped in order, and goes on when the run is resumed.
    """

    def __init__(self, outcome: str | None, detail: str = "") -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


class Books:
    """Sends requests of one turn, each recorded before and after."""

    def __init__(self, ledger: Ledger, agent: Agent, turn: int, caps: Caps) -> None:
        self.ledger, self.agent, self.turn, self.caps = ledger, agent, turn, caps

    def send(self, step: int, request: Request) -> Reply:
        """One attempt.

        Raises:
            ProviderError: it failed, and that is recorded.
            TurnEnds: a cap of the run could be passed.
        """
        bound, price = self._bound(request), self.agent.price
        number = self.ledger.intend(
            self.turn, step, request_to_json(request), bound=bound,
            price=None if price is None else asdict(price),
            max_tokens=self.caps.tokens, max_dollars=self.caps.dollars,
        )  # fmt: skip
        if number is None:
            raise TurnEnds("budget", "the next request could pass a cap of the run")
        try:
            reply = tidied(self.agent.provider.complete(request))
        except ProviderError as error:
            state = State.UNKNOWN if error.sent else State.FAILED
            count = bound if error.sent else Count()
            self.ledger.settle(number, state, count, error=f"{error.trouble}: {error.message}")
            raise
        self.ledger.settle(
            number, State.ANSWERED, self._count(request, reply), reply=reply_to_json(reply),
            seconds=reply.seconds,
        )  # fmt: skip
        return reply

    def _bound(self, request: Request) -> Count:
        price, tokens = self.agent.price, estimate_tokens(request)
        return Count(
            prompt=tokens, completion=request.max_tokens, estimated=True,
            dollars=None if price is None else price.bound(tokens, request.max_tokens),
        )  # fmt: skip

    def _count(self, request: Request, reply: Reply) -> Count:
        """What the provider counted; bounds of ours where it did not.

        No prompt is empty, nor is a reply with anything in it: a count of nothing is none. More
        tokens cannot be cached than were sent.
        """
        usage, price, bound = reply.usage, self.agent.price, self._bound(request)
        silent = not (reply.text or reply.calls or reply.blocks)
        if usage.prompt and (usage.completion or silent):
            prompt = max(usage.prompt, usage.cached)
            told = replace(usage, prompt=prompt, written=min(usage.written, prompt - usage.cached))
            dollars = None if price is None else price.of(told)
            return Count(told.prompt, told.cached, told.written, told.completion, dollars)
        prompt, completion = usage.prompt or bound.prompt, usage.completion or bound.completion
        dollars = None if price is None else price.bound(prompt, completion)
        return Count(prompt, completion=completion, dollars=dollars, estimated=True)


class Account:
    """The requests of one turn, those of an ended process included.

    Args:
        stop: whether the search is being stopped: no further request is then sent.
        on_retry: told of each failure that is tried again, and after how many seconds.
    """

    def __init__(
        self,
        books: Books,
        *,
        stop: Callable[[], bool],
        on_retry: Callable[[ProviderError, float], None],
        sleep: Callable[[float], None] = time.sleep,
        tries: int = 5,
    ) -> None:
        self._books = books
        self._stop, self._on_retry, self._sleep, self._tries = stop, on_retry, sleep, tries
        # The last attempt at each step.
        self._old = {e.step: e for e in books.ledger.entries(books.turn)}

    def ask(self, step: int, request: Request) -> Reply:
        """The reply to a request: from the record if it came before, else by sending it.

        Raises:
            TurnEnds: no reply is to be had.
        """
        old = self._old.get(step)
        if old is not None and old.state == State.ANSWERED and old.reply is not None:
            return reply_from_json(old.reply)
        if old is not None and old.state == State.UNKNOWN:
            raise TurnEnds("lost", old.error)
        if self._stop():
            raise TurnEnds(None)
        try:
            return with_retries(
                lambda: self._books.send(step, request), sleep=self._sleep, stop=self._stop,
                rng=random.Random(f"{self._books.turn}/{step}"), on_retry=self._on_retry,
                tries=self._tries,
            )  # fmt: skip
        except ProviderError as error:
            if self._stop() and error.trouble.passes:
                raise TurnEnds(None) from None
            raise TurnEnds("failed", error.message) from None
