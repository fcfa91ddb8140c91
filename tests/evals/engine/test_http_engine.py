"""A server as an engine: real times, counts, limits, and every failure in one line."""

from __future__ import annotations

import pytest

from evals.engine.engine import Request, Sampling, seconds
from evals.engine.http_engine import KEY, HTTPEngine
from tests.openai_server import MODEL, TinyServer
from vortex.errors import VortexError


def request(prompt: str | tuple[int, ...] = "hello", tokens: int = 8) -> Request:
    return Request(prompt, Sampling(tokens, temperature=0.5, seed=7, ignore_end=True))


def failure(server: TinyServer, **more: object) -> VortexError:
    with pytest.raises(VortexError) as caught:
        HTTPEngine(server.url, "sparse").generate([request()], **more)  # type: ignore[arg-type]
    assert caught.value.code == "E904" and caught.value.exit_code == 3
    return caught.value


def test_times_are_those_of_the_tokens_as_they_come() -> None:
    with TinyServer(first=0.15, each=0.04) as server:
        engine = HTTPEngine(server.url, "sparse")
        c = engine.generate([request()])[0]
        engine.close()
        engine.close()
    assert c.text.split() == ["It", "is", "42", ".", "It", "is", "42", "."]
    assert (c.tokens, c.finish, c.ids) == (8, "length", None)
    assert 0.14 < c.first < 3
    assert len(c.gaps) == 7 and 0.02 < sorted(c.gaps)[3] < 1
    assert [n for _, n in c.arrivals] == list(range(1, 9))


def test_the_request_has_what_was_asked_for() -> None:
    with TinyServer() as server:
        engine = HTTPEngine(server.url, "sparse")
        found = engine.generate([request((5, 6, 7))], stream=False)[0]
        engine.close()
    body = server.requests[0]
    assert body["prompt"] == [5, 6, 7] and body["model"] == MODEL == engine.facts["model"]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (8, 0.5, 7)
    assert body["ignore_eos"] is True and not body["stream"]
    assert (found.prompt_tokens, found.cached_tokens) == (3, 0)
    assert len(found.arrivals) == 1 and found.arrivals[0][1] == 8
    assert engine.modes == ("sparse",)
    with pytest.raises(ValueError, match="full"):
        engine.use("full")


def test_texts_go_to_chat_where_asked_and_token_numbers_never_do() -> None:
    with TinyServer() as server:
        engine = HTTPEngine(server.url, "full", chat=True)
        found = engine.generate([request("why?"), request((1, 2))])
        engine.close()
    assert sorted(server.paths) == ["/v1/chat/completions", "/v1/completions"]
    assert [c.tokens for c in found] == [8, 8]


@pytest.mark.parametrize("usage", [True, False])
def test_without_counts_in_chunks_each_chunk_is_a_share(usage: bool) -> None:
    with TinyServer(counts=False, usage=usage) as server:
        engine = HTTPEngine(server.url, "sparse")
        c = engine.generate([request()])[0]
        engine.close()
    assert c.tokens == 8 and c.arrivals[-1][1] == 8


def test_requests_are_there_at_once_but_no_more_than_asked_and_in_their_order() -> None:
    def say(prompt: str) -> str:
        return f"number {prompt}"

    with TinyServer(reply=say, first=0.3) as server:
        engine = HTTPEngine(server.url, "sparse")
        many = [request(str(i), 2) for i in range(12)]
        found = engine.generate(many)
        assert [c.text for c in found] == [f"number {i}" for i in range(12)]
        assert server.most_at_once > 6
        assert seconds(found) < 12 * 0.3
        server.most_at_once = 0
        engine.generate(many[:6], at_once=2)
        assert server.most_at_once == 2
        late = Request("x", Sampling(2), after=0.3)
        assert 0.29 < engine.generate([late])[0].sent < 3
        engine.close()


def test_a_refusal_is_one_short_line() -> None:
    with TinyServer(status=500) as server:
        error = failure(server)
    assert "HTTP 500" in error.message and len(error.message) < 500
    with TinyServer(status=302) as server:
        assert "HTTP 302" in failure(server).message


def test_a_reply_that_breaks_off_is_a_failure_not_an_answer() -> None:
    for after in (0, 3):
        with TinyServer(break_after=after) as server:
            assert "without saying why" in failure(server).message
    with TinyServer(reply=lambda prompt: "") as server:
        assert "without a token" in failure(server).message


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with TinyServer() as server:
        url = server.url
    with pytest.raises(VortexError) as caught:
        HTTPEngine(url, "sparse")
    assert caught.value.code == "E904"


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/v1", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(VortexError) as caught:
        HTTPEngine(url, "sparse")
    assert caught.value.code == "E906"


def test_a_key_goes_to_this_machine_and_never_over_the_network_in_the_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY, "secret-1234")
    with TinyServer() as server:
        engine = HTTPEngine(server.url, "sparse")
        engine.generate([request()])
        engine.close()
        assert server.headers[0]["authorization"] == "Bearer secret-1234"
    assert "secret" not in str(engine.facts)
    with pytest.raises(VortexError) as caught:
        HTTPEngine("http://example.invalid/v1", "sparse")
    assert caught.value.code == "E906"


def test_without_a_key_of_its_own_no_other_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with TinyServer() as server:
        engine = HTTPEngine(server.url, "sparse")
        engine.generate([request()])
        engine.close()
        assert "sk-other" not in str(server.headers)
