"""The language models of a run: named, priced, and asked once whether they answer."""

from __future__ import annotations

from collections.abc import Callable

from agent.llm.account import Agent, Books, TurnEnds, caps_of
from agent.llm.tools import TOOLS
from agent.llm.turns import PROBE
from agent.providers.named import parse_agent, provider_named
from agent.providers.prices import Price, price_of
from agent.providers.probe import probe
from agent.providers.records import Provider, Reply, Request
from runs.ledger import Ledger
from runs.records import RunConfig
from runs.store import Store
from vortex.errors import ExitCode, VortexError


def overrides_of(config: RunConfig) -> dict[str, Price]:
    """The user's prices."""
    return {m: Price(*figures, source="given by the user") for m, figures in config.prices.items()}


def check_agents(config: RunConfig) -> None:
    """Refuse what cannot work, before a run is made.

    Raises:
        VortexError: E702, a name is wrong; E703, a package is missing; E708, a cap on money for a
            model without a price; E303, a baseline of language models without one.
    """
    for name in config.agents:
        spec = parse_agent(name)
        provider_named(spec)
        if config.max_cost is not None and price_of(spec, overrides_of(config)) is None:
            raise VortexError(
                f"no price is known for {name}: a cap on money cannot be kept", code="E708",
                hint=f"--price {spec.model}=INPUT,CACHED,WRITTEN,OUTPUT, or --max-tokens",
            )  # fmt: skip
    if config.strategy == "independent" and not config.agents:
        raise VortexError(
            "--strategy independent samples a language model", code="E303",
            hint="name one with --agent, as openai:NAME@http://127.0.0.1:8000/v1",
        )  # fmt: skip
    if len(set(config.agents)) < len(config.agents):
        raise VortexError("an agent is named twice", code="E303")


def recruit(store: Store, config: RunConfig, say: Callable[[str], None]) -> list[Agent]:
    """Ask every model of a run whether it answers and calls tools; the probe is in the ledger.

    Raises:
        VortexError: E701, one does not answer; E709, a cap leaves no room for asking.
    """
    found = []
    ledger = Ledger(store)
    for name in config.agents:
        spec = parse_agent(name)
        price = price_of(spec, overrides_of(config))
        agent = Agent(spec.name, provider_named(spec), price)
        say(f"asking {spec.name} whether it answers")
        asked = _Asked(agent, ledger, config)
        result = probe(asked, TOOLS)
        ledger.close_turn(asked.turn, "answered" if result.ok else "failed", result.line)
        if not result.ok:
            raise VortexError(result.line, code="E701", exit_code=ExitCode.ENVIRONMENT)
        say(result.line + _priced(price))
        found.append(Agent(agent.name, agent.provider, price, result.tools))
    return found


def _priced(price: Price | None) -> str:
    if price is None:
        return "; no price is known, so its cost is not counted (--price)"
    since = f", {price.checked}" if price.checked else ""
    return f"; ${price.input:g} in, ${price.output:g} out a million tokens ({price.source}{since})"


class _Asked(Provider):
    """A provider whose requests are in the ledger, as a turn of their own."""

    def __init__(self, agent: Agent, ledger: Ledger, config: RunConfig) -> None:
        self.name, self.model = agent.name, agent.provider.model
        self.turn = ledger.open_turn(PROBE, agent.name, ledger.seen())
        self._books = Books(ledger, agent, self.turn, caps_of(config))
        self._inner, self._step = agent.provider, 0

    @property
    def adapted(self) -> tuple[str, ...]:
        """What the provider found out about its server."""
        return tuple(getattr(self._inner, "adapted", ()))

    def complete(self, request: Request) -> Reply:
        """See Provider."""
        self._step += 1
        try:
            return self._books.send(self._step - 1, request)
        except TurnEnds as end:
            raise VortexError(
                f"{self.name} cannot be asked: {end.detail}", code="E709",
                hint="raise --max-cost or --max-tokens",
            ) from None  # fmt: skip
