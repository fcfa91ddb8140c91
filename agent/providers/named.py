"""Which model ``--agent`` names, and the provider that asks it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.providers.exchange import is_local
from agent.providers.records import Provider
from agent.providers.redact import redact
from vortex.errors import VortexError, printable

KINDS = ("anthropic", "openai")
FORMS = "anthropic:NAME, openai:NAME or openai:NAME@http://HOST:PORT/v1"
_MODEL = re.compile(r"[A-Za-z0-9][^\s@]{0,199}")


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A model that proposes.

    Attributes:
        kind: ``anthropic`` or ``openai``: the wire format.
        model: its name at the provider.
        url: where it is served, without a slash at its end; None for the vendor.
    """

    kind: str
    model: str
    url: str | None = None

    @property
    def name(self) -> str:
        """As given by ``--agent``."""
        return f"{self.kind}:{self.model}" + (f"@{self.url}" if self.url else "")

    @property
    def local(self) -> bool:
        """Whether it is served by this machine."""
        return is_local(self.url)


def parse_agent(spec: str) -> AgentSpec:
    """The model that a text names: ``KIND:NAME`` or ``KIND:NAME@URL``.

    Raises:
        VortexError: E702, it names none.
    """
    kind, colon, rest = spec.strip().partition(":")
    if not colon or kind not in KINDS:
        raise _wrong(f"{_shown(spec)} names no model", f"write {FORMS}")
    model, at, url = rest.partition("@")
    if not _MODEL.fullmatch(model) or not model.isprintable():
        raise _wrong(f"{_shown(spec)}: no model is called {_shown(model)}", f"write {FORMS}")
    return AgentSpec(kind, model, _checked(url) if at else None)


def _checked(url: str) -> str:
    """The URL, if a model can be served there."""
    hint = "write http://HOST:PORT/v1 or https://HOST/v1 after the @"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong(f"{_shown(url)} is no URL", hint) from None
    if parts.username is not None or parts.password is not None:
        raise _wrong(
            "a URL with a user or password is refused: it would be shown and stored",
            "put the key into OPENAI_API_KEY or ANTHROPIC_API_KEY",
        )
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise _wrong(f"{_shown(url)} is no URL of a server", hint)
    if parts.query or parts.fragment or not url.isprintable() or re.search(r"\s", url):
        raise _wrong(f"{_shown(url)} is more than the base of a server's URLs", hint)
    base = url.rstrip("/")
    for tail in ("/chat/completions", "/messages"):
        if base.endswith(tail):
            raise _wrong(f"{_shown(url)} is one endpoint", f"leave out {tail}")
    return base


def _wrong(message: str, hint: str) -> VortexError:
    return VortexError(f"--agent: {message}", code="E702", hint=hint)


def _shown(text: str) -> str:
    return repr(printable(redact(text), limit=100))


def provider_named(
    spec: AgentSpec | str, *, timeout: float = 600.0, stream: bool | None = None
) -> Provider:
    """The provider of a model. Nothing is sent, and no key is read, before its first request.

    Args:
        timeout: seconds without a byte, and of a whole reply.
        stream: None for what suits the vendor.

    Raises:
        VortexError: E702, no model is named; E703, the vendor's package is not installed.
    """
    named = parse_agent(spec) if isinstance(spec, str) else spec
    if named.kind == "anthropic":
        from agent.providers.anthropic import Anthropic

        streams = True if stream is None else stream
        return Anthropic(named.model, url=named.url, timeout=timeout, stream=streams)
    from agent.providers.openai import OpenAI

    return OpenAI(named.model, url=named.url, timeout=timeout, stream=bool(stream))
