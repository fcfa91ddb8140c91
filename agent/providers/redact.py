"""Keeps keys out of everything that is shown, logged or stored."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable

MARK = "[redacted]"
NAMES = ("_API_KEY", "_ACCESS_KEY", "_TOKEN", "_SECRET", "PASSWORD")
SENT = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
SHORTEST = 8  # characters: a shorter value could be part of any word
# What the vendors' packages and their HTTP clients log under.
LOGGERS = ("anthropic", "openai", "httpx", "httpx2", "httpcore", "httpcore2")

_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=*-]{8,}")
_KEY = re.compile(r"\b(?:(?:sk|pk|rk)-|hf_|ghp_|github_pat_|xox[abp]-)[A-Za-z0-9_*-]{8,}")
_LOGIN = re.compile(r"(://)[^/@\s]+@")


def redact(text: str) -> str:
    """The text without keys.

    Taken out are the values of environment variables that hold keys (by their names: ``NAMES``),
    where they have at least ``SHORTEST`` characters, and whatever looks like a key or a login.
    """
    for value in _secrets():
        text = text.replace(value, MARK)
    text = _BEARER.sub(rf"\1\2{MARK}", text)
    return _LOGIN.sub(rf"\1{MARK}@", _KEY.sub(MARK, text))


def without_keys(text: str) -> str:
    """The text without the keys that servers were sent, and nothing else changed."""
    for name in SENT:
        key = os.environ.get(name, "").strip()
        if len(key) >= SHORTEST:
            text = text.replace(key, MARK)
    return text


def _secrets() -> Iterable[str]:
    held = [v for name, v in os.environ.items() if name.upper().endswith(NAMES)]
    forms = {form for value in held for form in (value, *value.split())}
    # The longest first: one key may begin another.
    return sorted((f for f in forms if len(f) >= SHORTEST), key=len, reverse=True)


class _Redacting(logging.Filter):
    """Lets every record pass, without keys."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: not ours to report
            text = str(record.msg)
        record.msg, record.args = redact(text), None
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_info, record.exc_text = None, redact(trace)
        return True


_FILTER = _Redacting()


def redact_logs() -> None:
    """Redact what the vendors' packages log, whoever listens and at whatever level.

    A filter of a logger does not see the records of its children: each gets it. Call it after
    those packages are imported; again is harmless.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.split(".")[0] in LOGGERS:
            logger.addFilter(_FILTER)  # adding it again changes nothing
