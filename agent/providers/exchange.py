"""One HTTP exchange through a vendor's package: limits, keys, and every failure a ProviderError."""

from __future__ import annotations

import email.utils
import importlib
import ipaddress
import json
import math
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from agent.providers.records import ProviderError, Trouble
from agent.providers.redact import redact_logs
from agent.providers.wording import no_wire_format, refusal_of
from vortex.errors import ExitCode, VortexError, printable

MAX_BYTES = 8 << 20  # of a reply: far above any that a model writes
COMPLAINT_BYTES = 64 << 10  # read of an error's body
CONNECT_SECONDS = 15.0
MAX_DEPTH = 64  # of lists and objects within each other
NO_KEY = "none"  # what a server that wants no key is told
UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError")


class Refused(Exception):
    """An answer whose status is not 2xx."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.headers, self.data = status, headers, data


@dataclass(frozen=True, slots=True)
class Body:
    """A reply's bytes.

    Attributes:
        seconds: from sending to the last byte.
        request_id: the provider's name of the exchange.
    """

    data: bytes
    seconds: float
    request_id: str


def is_local(url: str | None) -> bool:
    """Whether a URL is of this machine."""
    host = (urllib.parse.urlsplit(url).hostname or "") if url else ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def sdk(name: str) -> ModuleType:
    """A vendor's package.

    Raises:
        VortexError: E703, it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise VortexError(
            f"the package {name!r} is needed to ask this model, and cannot be imported: {error}",
            code="E703",
            hint="pip install 'vortex-search[llm]'",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    redact_logs()
    return module


class Line:
    """The line to one provider: its client, key and limits. Threads may share it.

    Args:
        package: the vendor's package; ``maker``: the name of its client's class.
        name: of the agent, for messages; ``variable``: where the key is.
        url: where the model is served, None for the vendor; ``home``: the vendor's own URL.
        timeout: seconds without a byte, and of the whole reply (which is checked at each byte, so
            that a reply ends after twice that at the latest).
        max_bytes: of a reply.
    """

    def __init__(
        self, package: str, maker: str, *, name: str, variable: str, url: str | None, home: str,
        timeout: float, max_bytes: int, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._sdk, self._maker = sdk(package), maker
        self.name, self._variable, self._url, self._home = name, variable, url, home
        self._timeout, self._max_bytes, self._clock = timeout, max_bytes, clock
        self._client: Any = None
        self._lock = threading.Lock()
        self._answered = False  # whether it ever answered as it should

    def __repr__(self) -> str:
        return f"Line({self.name!r})"

    def fetch(self, call: Callable[[Any], AbstractContextManager[Any]]) -> Body:
        """Send one request and read the whole reply.

        Args:
            call: from the vendor's client to a response whose bytes are still to be read.

        Raises:
            ProviderError: whatever went wrong.
        """
        client, start = self._connected(), self._clock()
        try:
            with call(client) as response:
                parts = b"".join(self._pieces(response.iter_bytes(), start))
                named = response.headers
                request_id = named.get("request-id") or named.get("x-request-id") or ""
        except Exception as error:  # whatever the package raises, in any of its versions
            raise self._failure(error) from None
        return Body(parts, self._clock() - start, printable(request_id, limit=100))

    def accept(self) -> None:
        """Note that a reply was what it should be: what fails later is not the URL's fault."""
        self._answered = True

    def unreadable(self, why: str) -> ProviderError:
        """The error of a reply that cannot be read; the URL's fault if none ever could."""
        if self._answered or self._url is None:
            return ProviderError(f"{self.name}: {why}", Trouble.REPLY, sent=True)
        return no_wire_format(self.name, why)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                local = is_local(self._url)
                # The body of a refusal is read here, not by the package, which sets no limit;
                # a redirect could carry the key elsewhere. No proxy is between us and ourselves.
                http = self._sdk.DefaultHttpxClient(
                    follow_redirects=False,
                    trust_env=not local,
                    event_hooks={"response": [self._check]},
                )
                self._client = getattr(self._sdk, self._maker)(
                    api_key=self._key(), base_url=self._url or self._home, http_client=http,
                    max_retries=0, default_headers={"Accept-Encoding": "identity"},
                    timeout=self._sdk.Timeout(
                        self._timeout, connect=min(self._timeout, CONNECT_SECONDS)
                    ),
                )  # fmt: skip
                # Older versions of a package send this beside the key, to whatever URL.
                if getattr(self._client, "auth_token", None):
                    self._client.auth_token = None
                redact_logs()
            return self._client

    def _key(self) -> str:
        """The key; none goes in clear text over a network."""
        key = os.environ.get(self._variable, "").strip()
        if self._url is not None:
            clear = self._url.startswith("http://") and not is_local(self._url)
            return NO_KEY if clear or not key else _usable(key, self._variable, self.name)
        if not key:
            raise ProviderError(
                f"{self.name}: no key, {self._variable} is not set", Trouble.KEY,
                hint=f"export {self._variable}=..., or name a server: {self.name}@http://HOST/v1",
            )  # fmt: skip
        return _usable(key, self._variable, self.name)

    def _pieces(self, chunks: Iterator[bytes], start: float) -> Iterator[bytes]:
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if total > self._max_bytes:
                raise ProviderError(
                    f"{self.name}: the reply is longer than {self._max_bytes} bytes and was cut",
                    Trouble.REPLY, sent=True,
                )  # fmt: skip
            if self._clock() - start > self._timeout:
                raise self._late()
            yield chunk

    def _check(self, response: Any) -> None:
        """Raise what is not 2xx, with as much of its body as is worth reading and waiting for."""
        if 200 <= response.status_code < 300:
            return
        data, start = b"", self._clock()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) >= COMPLAINT_BYTES or self._clock() - start > self._timeout:
                break
        headers = {k.lower(): v for k, v in response.headers.items()}
        raise Refused(response.status_code, headers, data[:COMPLAINT_BYTES])

    def _late(self) -> ProviderError:
        return ProviderError(
            f"{self.name}: no complete reply within {self._timeout:g} s", Trouble.NETWORK, sent=True
        )

    def _failure(self, error: Exception) -> ProviderError:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ProviderError):
                return cause
            if isinstance(cause, Refused):
                return refusal_of(
                    cause.status, cause.data, name=self.name, variable=self._variable,
                    url=self._url, wait=wait_of(cause.headers, datetime.now(UTC)),
                )  # fmt: skip
        names = [type(cause).__name__ for cause in causes]
        why = str(causes[-1]) or names[-1]
        if any(name in UNSENT for name in names):
            # A server that answered before is restarting; else the URL is suspect.
            down = self._url is not None and not self._answered
            return ProviderError(
                f"{self.name}: nobody answers at {self._url or self._home} ({why})",
                Trouble.URL if down else Trouble.NETWORK,
                hint="is the server running, and the URL right?" if down else "",
            )
        if any("Timeout" in name for name in names):
            return self._late()
        if any(_is_of_transport(cause) for cause in causes):
            return ProviderError(f"{self.name}: broken off ({why})", Trouble.NETWORK, sent=True)
        return ProviderError(
            f"{self.name}: the request cannot be sent ({names[-1]}: {why})", Trouble.REQUEST
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, the outermost first."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__


def _is_of_transport(error: BaseException) -> bool:
    """Whether an exception is the HTTP client's, in any version of it, or the system's."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"TransportError", "StreamError", "DecodingError", "OSError"})


def _usable(key: str, variable: str, name: str) -> str:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ProviderError(
            f"{name}: {variable} holds characters that no key has", Trouble.KEY,
            hint="copy the key again, without quotes or line breaks",
        )  # fmt: skip
    return key


def wait_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a server asks to wait (``Retry-After``: seconds or a date), None if it does not.

    Args:
        headers: by their lower-case names.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(text)
        except (TypeError, ValueError, OverflowError):
            return None
        seconds = (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def load(data: bytes | str) -> Any:
    """JSON from outside: no NaN, no half characters, which no database or file takes, and no
    deeper than whatever copies or stores it later can go.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return _clean(json.loads(data, parse_constant=_no_constant))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _clean(value: Any, room: int = MAX_DEPTH) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, list | dict) and not room:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_clean(item, room - 1) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item, room - 1) for key, item in value.items()}
    return value


def documents(body: Body, line: Line) -> list[Any]:
    """The JSON documents of a reply: one, or those of its server-sent events, in order.

    Servers stream unasked or do not where asked, so the bytes decide. A stream's end marker
    (``[DONE]``) is the string itself.

    Raises:
        ProviderError: it is neither, or is broken off.
    """
    data = body.data.lstrip()
    if not data:
        raise line.unreadable("the reply is empty, not even JSON")
    try:
        if data.startswith(b"{"):
            return [load(data)]
        if data.startswith((b"data:", b"event:", b":", b"id:", b"retry:")):
            found = [text if text == "[DONE]" else load(text) for text in _events(data)]
            if found:
                return found
    except ValueError:
        raise ProviderError(
            f"{line.name}: the reply is broken off or damaged", Trouble.REPLY, sent=True
        ) from None
    raise line.unreadable("the reply is no JSON")


def _events(data: bytes) -> Iterator[str]:
    """The data of each server-sent event."""
    held: list[str] = []
    for row in data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n"):
        if row.startswith("data:"):
            held.append(row[5:].removeprefix(" "))
        elif not row and held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def count(value: Any) -> int:
    """A number of tokens from outside; 0 where it is none."""
    return value if type(value) is int and 0 <= value < 1 << 40 else 0


def arguments_of(raw: str) -> Mapping[str, Any] | None:
    """The arguments of a call; None where the text is no JSON object. Nothing is no arguments."""
    if not raw.strip():
        return {}
    try:
        value = load(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
