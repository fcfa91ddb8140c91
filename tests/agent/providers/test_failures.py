"""Every failure is a ProviderError of the right kind, after one request, and without keys."""

from __future__ import annotations

import logging
import socket
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.providers.exchange import wait_of
from agent.providers.records import Message, ProviderError, Trouble
from agent.providers.redact import MARK, redact
from tests.agent.providers.asking import ASK, BOTH, provider
from tests.agent.providers.wire import Scripted, Wire, drip, hang, raw, status, text

pytestmark = pytest.mark.timeout(60)

PLANTED = {"ANTHROPIC_API_KEY": "sk-ant-planted-4f1c77", "OPENAI_API_KEY": "planted0openai0key",
           "HOST_TOKEN": "planted-token-99182", "DB_PASSWORD": "planted pass"}  # fmt: skip


def failure(kind: str, stream: bool, *script: Scripted, requests: int = 1) -> ProviderError:
    with Wire(*script) as wire:
        with pytest.raises(ProviderError) as caught:
            provider(wire, kind, stream).complete(ASK)
        assert len(wire.requests) == requests and wire.connections == 1
    return caught.value


def said(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, **more}}


CASES = [
    (status(401, said("invalid x-api-key")), Trouble.KEY, False),
    (status(403, said("not allowed")), Trouble.KEY, False),
    (status(404, said("model: claude-x", type="not_found_error")), Trouble.MODEL, False),
    (status(404, {"object": "error", "message": "The model `x` does not exist."}), Trouble.MODEL, False),  # noqa: E501
    (status(404, {"detail": "Not Found"}), Trouble.URL, False),
    (status(405, "<html>no</html>"), Trouble.URL, False),
    (status(307, "", {"location": "http://127.0.0.1:9/"}), Trouble.URL, False),
    (status(400, said("Your credit balance is too low")), Trouble.RATE, False),
    (status(400, said("tiny does not support tools")), Trouble.MODEL, False),
    (status(500, said("tools param requires --jinja flag")), Trouble.MODEL, True),
    (status(413, "too long"), Trouble.REQUEST, False),
    (status(418, said("teapot")), Trouble.REQUEST, False),
    (status(429, said("slow down")), Trouble.RATE, False),
    (status(500, "broken"), Trouble.SERVER, True),
    (status(503, ""), Trouble.SERVER, False),
    (status(529, said("Overloaded", type="overloaded_error")), Trouble.SERVER, False),
    (status(504, "<html>gateway</html>"), Trouble.SERVER, True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "stream"), BOTH)
@pytest.mark.parametrize(("reply", "trouble", "begun"), CASES)
def test_a_refusal_is_of_its_kind_and_is_not_sent_again(
    kind: str, stream: bool, reply: Scripted, trouble: Trouble, begun: bool
) -> None:
    error = failure(kind, stream, reply)
    assert (error.trouble, error.sent) == (trouble, begun)
    assert f"HTTP {reply.status}" in str(error) and "<html>" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_the_seconds_to_wait_are_passed_on(kind: str, stream: bool) -> None:
    assert failure(kind, stream, status(429, "", {"retry-after": "7"})).wait == 7.0
    assert failure(kind, stream, status(429)).wait is None


def test_the_time_to_wait_may_be_a_date_and_is_never_nonsense() -> None:
    now = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
    assert wait_of({"retry-after": "Tue, 24 Nov 2026 12:01:30 GMT"}, now) == 90.0
    assert wait_of({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, now) == 0.0
    assert [wait_of({"retry-after": t}, now) for t in ("nan", "inf", "soon", "")] == [None] * 4


@pytest.mark.parametrize(("kind", "stream"), BOTH)
@pytest.mark.parametrize("reply", [hang(30.0), hang(30.0, silent=True), drip()])
def test_a_hang_ends_in_time(kind: str, stream: bool, reply: Scripted) -> None:
    start = time.monotonic()
    with Wire(reply) as wire, pytest.raises(ProviderError, match="within") as caught:
        provider(wire, kind, stream, timeout=0.3).complete(ASK)
    assert time.monotonic() - start < 5.0
    assert (caught.value.trouble, caught.value.sent) == (Trouble.NETWORK, True)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_broken_connection_may_have_been_charged(kind: str) -> None:
    cut = Scripted(text="never whole", hang=0.01)  # the body is shorter than its length says
    error = failure(kind, True, cut)
    assert (error.trouble, error.sent) == (Trouble.NETWORK, True)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_nobody_there_is_the_urls_fault_until_somebody_was(kind: str) -> None:
    with Wire(text("ok")) as wire:
        asked = provider(wire, kind, False)
        fresh = provider(wire, kind, False)
        asked.complete(ASK)
    with pytest.raises(ProviderError, match="nobody answers") as caught:
        fresh.complete(ASK)
    assert (caught.value.trouble, caught.value.sent) == (Trouble.URL, False)
    with pytest.raises(ProviderError) as caught:
        asked.complete(ASK)
    assert (caught.value.trouble, caught.value.sent) == (Trouble.NETWORK, False)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
@pytest.mark.parametrize("page", [b"<html>hello</html>", b"", b'{"hello": 1}', b": only\n\n"])
def test_another_kind_of_server_is_the_urls_fault(kind: str, page: bytes) -> None:
    error = failure(kind, True, raw(page))
    assert error.trouble is Trouble.URL and "wire format" in str(error)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_text_that_cannot_be_sent_is_our_fault(kind: str) -> None:
    with Wire(text("ok")) as wire, pytest.raises(ProviderError) as caught:
        provider(wire, kind, False).complete(replace(ASK, system="\ud800"))
    assert (caught.value.trouble, caught.value.sent) == (Trouble.REQUEST, False)


def test_control_characters_of_a_complaint_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in str(failure("openai", False, status(400, said("\x1b[2Jgone"))))


@pytest.mark.parametrize("sign", ["x" * 50_000, "x"])
def test_an_endless_complaint_is_neither_read_nor_awaited_to_its_end(sign: str) -> None:
    start = time.monotonic()
    with Wire(drip(0.01, code=400, sign=sign)) as wire, pytest.raises(ProviderError) as caught:
        provider(wire, "openai", False, timeout=0.4).complete(ASK)
    assert time.monotonic() - start < 5.0
    assert caught.value.trouble is Trouble.REQUEST and len(str(caught.value)) < 1000


def test_threads_share_a_provider() -> None:
    with Wire(lambda r: text(r.body["messages"][-1]["content"])) as wire:
        asked = provider(wire, "openai", True)

        def echo(n: int) -> str:
            return asked.complete(replace(ASK, messages=(Message("user", str(n)),))).text

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(echo, range(40))) == [str(n) for n in range(40)]
        assert len(wire.requests) == 40


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_planted_keys_are_in_no_error_repr_or_log(
    kind: str, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    everything = " ".join(PLANTED.values())
    echo = {"x-request-id": PLANTED["OPENAI_API_KEY"], "set-cookie": f"k={everything}"}
    steps = (status(401, said(f"wrong key: {everything} Bearer abcdefgh12345"), echo),
             status(500, everything, echo), raw(everything.encode()), text("ok"))  # fmt: skip
    shown = []
    with Wire(*steps) as wire, caplog.at_level(logging.DEBUG):
        asked = provider(wire, kind, stream)
        for name in [n for n in logging.root.manager.loggerDict if n.startswith(kind)]:
            logging.getLogger(name).setLevel(logging.DEBUG)
        for _ in range(3):
            with pytest.raises(ProviderError) as caught:
                asked.complete(ASK)
            shown += [str(caught.value), repr(caught.value), caught.value.render()]
            shown += traceback.format_exception(caught.value)
        asked.complete(ASK)
        key = PLANTED[f"{kind.upper()}_API_KEY"]
        assert any(key in value for value in wire.requests[0].headers.values())
    log = logging.Formatter("%(name)s %(message)s")
    shown += [log.format(record) for record in caplog.records]
    shown += [repr(vars(record)) for record in caplog.records]
    shown += [repr(asked), repr(vars(asked)), str(asked.name)]
    assert len(caplog.records) > 3 and MARK in "".join(shown)
    for value in (*PLANTED.values(), "abcdefgh12345"):
        assert not [line for line in shown if value in line]


def test_what_looks_like_a_key_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "true")
    assert redact("sk-proj-abcdefgh and Authorization: Bearer xyz.abc-1234567") == (
        f"{MARK} and Authorization: Bearer {MARK}"
    )
    assert redact("http://me:pw@host/v1") == f"http://{MARK}@host/v1"
    assert redact("it is true that a task-oriented risk-averse disk-bound loop") == (
        "it is true that a task-oriented risk-averse disk-bound loop"
    )


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.providers.anthropic import Anthropic
    from agent.providers.openai import OpenAI

    for name in PLANTED:
        monkeypatch.delenv(name, raising=False)
    for asked, name in ((Anthropic("m"), "ANTHROPIC_API_KEY"), (OpenAI("m"), "OPENAI_API_KEY")):
        with pytest.raises(ProviderError, match=f"{name} is not set") as caught:
            asked.complete(ASK)
        assert (caught.value.trouble, caught.value.sent) == (Trouble.KEY, False)
    monkeypatch.setenv("OPENAI_API_KEY", "planted key")
    with pytest.raises(ProviderError, match="characters that no key has"):
        OpenAI("m").complete(ASK)


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLANTED:
        monkeypatch.delenv(name, raising=False)
    with Wire(text("ok")) as wire:
        provider(wire, "openai", False).complete(ASK)
        assert wire.requests[0].headers["authorization"] == "Bearer none"


def test_no_key_goes_in_clear_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED["OPENAI_API_KEY"])
    own = socket.gethostname()
    with Wire(status(401)) as wire:
        url = wire.url.replace("127.0.0.1", own) + "/v1"
        monkeypatch.setattr(socket, "getaddrinfo", _to_loopback(socket.getaddrinfo))
        from agent.providers.openai import OpenAI

        with pytest.raises(ProviderError) as caught:
            OpenAI("m", url=url).complete(ASK)
        assert wire.requests[0].headers["authorization"] == "Bearer none"
    assert "https" in (caught.value.hint or "")


def _to_loopback(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """Name resolution that finds every host here."""
    return lambda host, port, *more, **named: resolve("127.0.0.1", port, *more, **named)
