"""What is said to a language model and what comes back, whoever serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from agent.providers.redact import redact
from vortex.errors import ExitCode, VortexError, printable

MESSAGE_CHARS = 600  # what is shown of a provider's complaint


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call: ``parameters`` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call by the model.

    Attributes:
        id: the provider's name of this call, which its result refers to.
        arguments: None where ``raw`` is no JSON object.
        raw: the arguments as they came.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a dialogue.

    Attributes:
        role: who speaks; ``tool`` is the result of a call.
        calls: what an assistant's message calls.
        call_id: the call that a tool's message answers.
        blocks: of an assistant's message: the ``blocks`` of the reply that it was, sent back as
            they came.
    """

    role: Literal["user", "assistant", "tool"]
    text: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    blocks: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        system: the stable prefix, the same bytes in every request of a run: providers cache it.
        max_tokens: of the reply.
        temperature: None leaves it to the provider.
    """

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 8192
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request, as the provider counts them.

    Attributes:
        prompt: all tokens sent, cached ones included.
        cached: those of them that were read from a cache; ``written``: stored in one.
        completion: tokens of the reply.
    """

    prompt: int = 0
    cached: int = 0
    written: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        stop: ``end``, ``tools``, ``length``, ``refused`` or the provider's own word.
        seconds: from sending to the last byte, retries apart.
        request_id: the provider's, for its support.
        blocks: the reply as it came, where that holds more than text and calls (thinking, which
            some models refuse to go on without): JSON objects, empty otherwise.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    stop: str = "end"
    seconds: float = 0.0
    request_id: str = ""
    blocks: tuple[Mapping[str, Any], ...] = ()

    def message(self) -> Message:
        """This reply as the assistant's message of the dialogue that goes on."""
        return Message("assistant", self.text, calls=self.calls, blocks=self.blocks)


class Trouble(StrEnum):
    """Why a request brought no reply."""

    KEY = "key"  # missing, wrong, or without permission
    MODEL = "model"  # no such model, or one without tools
    URL = "url"  # nobody answers there, or not in this wire format
    REQUEST = "request"  # refused as malformed: our fault
    RATE = "rate"  # too many requests, or no credit left for now
    SERVER = "server"  # 5xx, overloaded
    NETWORK = "network"  # broken off, or no answer in time
    REPLY = "reply"  # cannot be read

    @property
    def passes(self) -> bool:
        """Whether asking again later may help."""
        return self in (Trouble.RATE, Trouble.SERVER, Trouble.NETWORK, Trouble.REPLY)


class ProviderError(VortexError):
    """A request failed. Keys are taken out of its message, and what could drive a terminal.

    Attributes:
        trouble: what kind; ``sent``: whether the provider may have begun to work on it (and to
            charge for it); ``wait``: seconds that it asked us to wait, if it did.
    """

    def __init__(
        self, message: str, trouble: Trouble, *, sent: bool = False, wait: float | None = None,
        hint: str = "",
    ) -> None:  # fmt: skip
        clean = printable(redact(message), limit=MESSAGE_CHARS)
        super().__init__(clean, code="E701", hint=redact(hint), exit_code=ExitCode.ENVIRONMENT)
        self.trouble, self.sent, self.wait = trouble, sent, wait


class Provider(Protocol):
    """A served language model.

    Attributes:
        name: as given by ``--agent``: ``anthropic:MODEL`` or ``openai:MODEL@URL``.
        model: the model's name at the provider.
    """

    name: str
    model: str

    def complete(self, request: Request) -> Reply:
        """Send one request, once: retries are the caller's.

        Raises:
            ProviderError: it failed.
        """
        ...
