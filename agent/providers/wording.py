"""What a provider's refusal means, in one line that says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from agent.providers.records import ProviderError, Trouble

CHARS = 300  # of the provider's own words
_BILLING = ("credit balance", "insufficient_quota", "billing")
_NO_MODEL = re.compile(r"(?i)\bmodel\b.*(not found|not exist|no such|unknown|invalid|not a valid)")
# Servers without a parser of tool calls say so in many words, all with the word "tool".
_NO_TOOLS = re.compile(
    r"(?i)(tool|function).*(not support|n't support|unsupported|requires|not enabled|not available)"
    r"|not support.*(tool|function)"
)
# A server that fails with these may have begun to work; with 503 and 529 it declined to begin.
_BEGUN = (408, 500, 502, 504)


def refusal_of(
    status: int, data: bytes, *, name: str, variable: str, url: str | None, wait: float | None
) -> ProviderError:
    """The error that an answer with a status other than 2xx stands for.

    Args:
        data: the answer's body; ``wait``: the seconds that it asks to wait.
        name: of the agent; ``variable``: where its key is; ``url``: its server, if it is named.
    """
    said = complaint(data)
    trouble = trouble_of(status, said)
    words = {
        Trouble.KEY: f"the key in {variable} is refused",
        Trouble.MODEL: "the model is not there, or cannot do this",
        Trouble.URL: "nothing of this kind is served at this URL",
        Trouble.REQUEST: "the request is refused",
        Trouble.RATE: "too many requests, or no credit left",
        Trouble.SERVER: "the server fails or is overloaded",
        Trouble.NETWORK: "the server gave up waiting",
    }[trouble]
    hints = {
        Trouble.KEY: _key_hint(variable, url),
        Trouble.MODEL: "start the server with a parser of tool calls, or use another model"
        if about_tools(said)
        else "check the model's name: the server's list is at /models under its URL",
        Trouble.URL: "the URL of an OpenAI-compatible server mostly ends in /v1",
    }
    text = f"{name}: {words} (HTTP {status}){': ' + said if said else ''}"
    begun = status in _BEGUN or (status > 504 and status != 529)
    return ProviderError(text, trouble, sent=begun, wait=wait, hint=hints.get(trouble, ""))


def _key_hint(variable: str, url: str | None) -> str:
    if url and url.startswith("http://"):
        return (
            f"{variable} is sent over https and to this machine only, never in clear over a network"
        )
    return f"check {variable}, and that the account may use this model"


def trouble_of(status: int, said: str) -> Trouble:
    """The kind of trouble, by the status and the provider's words."""
    if status in (400, 404, 422, 500, 501) and about_tools(said):
        return Trouble.MODEL
    if status in (400, 403) and any(word in said.lower() for word in _BILLING):
        return Trouble.RATE
    if status == 404:
        return Trouble.MODEL if "model" in said.lower() else Trouble.URL
    if status in (400, 422) and _NO_MODEL.search(said):
        return Trouble.MODEL
    fixed = {401: Trouble.KEY, 402: Trouble.RATE, 403: Trouble.KEY, 405: Trouble.URL,
             408: Trouble.NETWORK, 409: Trouble.SERVER, 425: Trouble.SERVER,
             429: Trouble.RATE}  # fmt: skip
    if status in fixed:
        return fixed[status]
    if status < 400:
        return Trouble.URL
    return Trouble.REQUEST if status < 500 else Trouble.SERVER


def about_tools(said: str) -> bool:
    """Whether a complaint says that tools cannot be used."""
    return bool(_NO_TOOLS.search(said))


def complaint(data: bytes) -> str:
    """The provider's own words in an error's body, at most ``CHARS`` of them; empty for a page."""
    text = data.decode("utf-8", "replace").strip()
    try:
        found = words_of(json.loads(text))
    except (ValueError, RecursionError):
        found = "" if text.startswith("<") else text
    return " ".join(found.split())[:CHARS]


def words_of(value: Any) -> str:
    """The message in an error's JSON, whichever of the common forms it has."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "type"):
            if value.get(key):
                return words_of(value[key])
    return words_of(value[0]) if isinstance(value, list) and value else ""


def failed_midway(name: str, event: Any) -> ProviderError:
    """The error that came inside a reply which had begun."""
    said = words_of(event)[:CHARS]
    kind = json.dumps(event)[:2000].lower()
    trouble = Trouble.RATE if "rate_limit" in kind else Trouble.SERVER
    return ProviderError(f"{name}: failed while it replied: {said}", trouble, sent=True)


def no_wire_format(name: str, why: str) -> ProviderError:
    """Something answers at the URL, but not as this kind of provider does."""
    return ProviderError(
        f"{name}: what answers at this URL does not speak this wire format: {why}", Trouble.URL,
        sent=True, hint="the URL of an OpenAI-compatible server mostly ends in /v1",
    )  # fmt: skip
