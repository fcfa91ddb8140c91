"""A worker's handler that does what a hostile candidate would like to do."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Misbehaving:
    """Does what ``what`` says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        del config

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Handler."""
        what = str(request["what"])
        answer = getattr(self, f"_{what}")(request)
        return answer if isinstance(answer, dict) else {"ok": True}

    def _echo(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": request["text"]}

    def _hang(self, request: Mapping[str, Any]) -> None:
        while True:
            time.sleep(1)

    def _spawn(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"pid": subprocess.Popen(["/bin/sleep", "60"]).pid}

    def _eat(self, request: Mapping[str, Any]) -> None:
        held = []
        while True:
            held.append(bytearray(64 << 20))

    def _raise(self, request: Mapping[str, Any]) -> None:
        raise ValueError("on purpose")

    def _who(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid()}

    def _exit(self, request: Mapping[str, Any]) -> None:
        os._exit(7)

    def _print(self, request: Mapping[str, Any]) -> None:
        print("noise " * 1000, flush=True)
        os.write(2, b"more noise")

    def _environment(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"all": dict(os.environ)}

    def _shout(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": "x" * (70 << 20)}

    def _read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"text": Path(request["path"]).read_text()}
        except OSError as error:
            return {"error": type(error).__name__}

    def _write(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            Path(request["path"]).write_text("x")
            return {"error": ""}
        except OSError as error:
            return {"error": type(error).__name__}

    def _connect(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            socket.create_connection(("127.0.0.1", int(request["port"])), 2).close()
            return {"error": ""}
        except OSError as error:
            return {"error": type(error).__name__}
