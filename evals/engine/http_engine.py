"""A server with OpenAI's wire format as an engine, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from evals.engine.engine import Completion, Mode, Request, failed, gathered
from vortex.errors import ExitCode, VortexError, printable

KEY = "VORTEX_ENGINE_KEY"  # of a server that wants one
_MOST_BYTES = 8 << 20


class HTTPEngine:
    """One server, which decodes in one mode: it is taken at its word.

    Args:
        url: its base, mostly with ``/v1`` at its end.
        mode: what it serves.
        model: its name there; None for the first that it lists.
        chat: send texts as a user's turn; token numbers always go to plain completions.
        timeout: seconds without a byte.

    Raises:
        VortexError: E903, the package ``openai`` is not installed; E904, the server does not
            answer; E906, the URL is none, or would carry a key in the open.
    """

    def __init__(
        self, url: str, mode: Mode, *, model: str | None = None, chat: bool = False,
        timeout: float = 600.0,
    ) -> None:  # fmt: skip
        try:
            import openai
        except ImportError as error:
            raise VortexError(
                f"the package openai cannot be imported: {error}", code="E903",
                hint="pip install 'vortex-search[llm]'", exit_code=ExitCode.ENVIRONMENT,
            ) from None  # fmt: skip
        key, local = _checked(url)
        self.modes: tuple[Mode, ...] = (mode,)
        self._url, self._chat = url, chat
        self._loop = asyncio.new_event_loop()
        # A retry would hide a failure and spoil a time. No proxy between us and ourselves; a
        # redirect could carry the key elsewhere.
        self._client: Any = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", max_retries=0, timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, trust_env=not local, timeout=timeout,
            ),
        )  # fmt: skip
        try:
            self._model = model or self._first_model()
        except BaseException:
            self.close()
            raise
        host = urlsplit(url).netloc.rpartition("@")[2]
        self.facts: Mapping[str, str] = {
            "engine": f"server at {host}", "client": f"openai {openai.__version__}",
            "model": self._model, "weights": "the server's", "device": "the server's",
            "format": "chat" if chat else "completions",
        }  # fmt: skip

    def _first_model(self) -> str:
        try:
            listed = self._loop.run_until_complete(self._client.models.list())
            return printable(str(listed.data[0].id), limit=100)
        except Exception as error:  # whatever the package raises
            raise self._failure(error) from None

    def use(self, mode: Mode) -> None:
        """See Engine.

        Raises:
            ValueError: the server has another mode.
        """
        if mode not in self.modes:
            raise ValueError(f"this server does not decode in mode {mode}")

    def generate(
        self, requests: Sequence[Request], *, stream: bool = True, at_once: int | None = None
    ) -> list[Completion]:
        """See Engine.

        Raises:
            VortexError: E904.
        """
        try:
            found: list[Completion] = self._loop.run_until_complete(
                gathered(lambda r, began: self._one(r, began, stream), requests, at_once)
            )
        except VortexError:
            raise
        except Exception as error:  # whatever the package raises
            raise self._failure(error) from None
        return found

    async def _one(self, request: Request, began: float, stream: bool) -> Completion:
        s, prompt = request.sampling, request.prompt
        common: dict[str, Any] = {
            "model": self._model, "max_tokens": s.tokens, "temperature": s.temperature,
            "top_p": s.top_p, "seed": s.seed, "stream": stream,
        }  # fmt: skip
        if s.ignore_end:
            common["extra_body"] = {"ignore_eos": True}
        if stream:
            common["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        sent = time.perf_counter()
        if self._chat and isinstance(prompt, str):
            turn = [{"role": "user", "content": prompt}]
            made = await self._client.chat.completions.create(messages=turn, **common)
        else:
            given = prompt if isinstance(prompt, str) else list(prompt)
            made = await self._client.completions.create(prompt=given, **common)
        reader = _Reader(sent)
        if stream:
            async with made:
                async for chunk in made:
                    reader.take(chunk)
        else:
            reader.take(made)
        return reader.completion(began)

    def close(self) -> None:
        """See Engine."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._client.close())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _failure(self, error: Exception) -> VortexError:
        status = getattr(error, "status_code", None)
        what = f"HTTP {status}" if status else type(error).__name__
        said = printable(str(error), limit=300)
        return failed(
            f"the server at {urlsplit(self._url).netloc.rpartition('@')[2]} failed: {what}: {said}",
            "see its log; is the URL its base, with /v1?",
        )


class _Reader:
    """Puts the chunks of one reply together."""

    def __init__(self, sent: float) -> None:
        self._sent, self._text, self._size = sent, [], 0  # type: tuple[float, list[str], int]
        self._arrivals: list[tuple[float, int | None]] = []
        self._finish, self._usage = "", None  # type: tuple[str, Any]

    def take(self, chunk: Any) -> None:
        """One chunk of a stream, or the whole reply."""
        usage = getattr(chunk, "usage", None)
        self._usage = usage or self._usage
        for choice in chunk.choices[:1]:
            part = getattr(choice, "delta", None) or getattr(choice, "message", None)
            said = getattr(choice, "text", None) if part is None else part.content
            thought = getattr(part, "reasoning_content", None) if part is not None else None
            self._finish = choice.finish_reason or self._finish
            self._size += len(said or "")
            if self._size > _MOST_BYTES:
                raise failed("the server's reply is too long")
            if said:
                self._text.append(said)
            count = int(usage.completion_tokens) if usage else None
            before = self._arrivals[-1][1] if self._arrivals else 0
            # A token may have no text yet; without counts, text is all that shows one.
            if said or thought or (count is not None and count > (before or 0)):
                self._arrivals.append((time.perf_counter() - self._sent, count))

    def completion(self, began: float) -> Completion:
        """The reply.

        Raises:
            VortexError: E904, it has no token or no end.
        """
        if not self._arrivals or not self._finish:
            raise failed("the server ended a reply without " + (
                "saying why" if self._arrivals else "a token"))  # fmt: skip
        total = int(self._usage.completion_tokens) if self._usage else len(self._arrivals)
        total = max(total, 1)
        details = getattr(self._usage, "prompt_tokens_details", None)
        return Completion(
            "".join(self._text), None, total, self._finish, self._sent - began,
            tuple(self._counted(total)),
            self._usage.prompt_tokens if self._usage else None,
            getattr(details, "cached_tokens", None),
        )  # fmt: skip

    def _counted(self, total: int) -> list[tuple[float, int]]:
        """Arrivals with token counts; where the server gives none, chunks are taken as equal."""
        many = len(self._arrivals)
        told = [n for _, n in self._arrivals]
        if all(n is not None for n in told) and told == sorted(told, key=lambda n: n or 0):
            return [(t, n) for t, n in self._arrivals if n is not None]
        return [(t, round((i + 1) * total / many)) for i, (t, _) in enumerate(self._arrivals)]


def _checked(url: str) -> tuple[str, bool]:
    """The key for a server, and whether it is of this machine.

    Raises:
        VortexError: E906.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or "" if parts.port != 0 else ""  # a port out of range raises
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise VortexError(
            f"'{printable(url, limit=80)}' is no URL of a server", code="E906",
            hint="--url http://127.0.0.1:30000/v1",
        )  # fmt: skip
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    key = os.environ.get(KEY, "")
    if key and parts.scheme == "http" and not local:
        raise VortexError(
            f"{KEY} would go over the network in the open", code="E906",
            hint="use https, or unset it",
        )  # fmt: skip
    return key, local
