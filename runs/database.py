"""A run's SQLite file: who may write it, how it is opened, and what its complaints mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from vortex.errors import ExitCode, VortexError, unwritable

_AGAIN = "then: vortex-search resume"
# What SQLite says, and what helps.
_REPAIRS = {
    "full": f"free some space, {_AGAIN}",
    "disk I/O": f"free some space or mend the disk, {_AGAIN}",
    "readonly": "change the permissions of {folder}, or copy it to where you may write",
    "unable to open": "change the permissions of {folder} and its run.db, or copy it",
}


def require(folder: Path) -> None:
    if not os.path.isfile(folder / "run.db"):
        raise VortexError(
            f"{folder} is no run", code="E605", hint="vortex-search runs lists the runs"
        )


def locked(folder: Path) -> int:
    """Take the run's lock; the kernel gives it back when the process ends, however it ends."""
    descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise VortexError(
            f"run {folder.name} is in use by process {holder}",
            code="E603",
            hint="wait for it, or stop it with Ctrl-C; nothing is lost",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def engine_of(folder: Path, *, write: bool) -> Engine:
    mode = "rwc" if write else "ro"
    # Quoted twice: SQLAlchemy and SQLite each decode once.
    path = quote(quote(str((folder / "run.db").resolve())))
    # SQLite would write beside the file even to read it: where that cannot be and nobody writes, it
    # is told so.
    still = not write and not os.access(folder, os.W_OK) and not (folder / "run.db-wal").exists()
    fixed = "&immutable=1" if still else ""
    engine = create_engine(f"sqlite:///file:{path}?mode={mode}{fixed}&uri=true")

    @event.listens_for(engine, "connect")
    def _setup(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=10000")
        if write:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


def damaged(folder: Path, why: str) -> VortexError:
    return VortexError(
        f"run {folder.name} is damaged: {why}",
        code="E601",
        hint="restore run.db from a copy; what sqlite3's .recover finds can be read back",
    )


@contextlib.contextmanager
def disk_errors(folder: Path, other: str = "choose another --runs-dir") -> Iterator[None]:
    """Turn what the disk and SQLite complain about into messages.

    Args:
        other: what helps where the folder cannot be written.
    """
    try:
        yield
    except DatabaseError as error:
        text = str(error.orig)
        if "locked" in text:
            raise VortexError(
                f"run {folder.name} is being written by another process",
                code="E603",
                hint="try again in a moment",
                exit_code=ExitCode.ENVIRONMENT,
            ) from None
        for word, hint in _REPAIRS.items():
            if word in text:
                raise VortexError(
                    f"cannot use run {folder.name}: {text}", code="E604",
                    hint=hint.format(folder=folder), exit_code=ExitCode.ENVIRONMENT,
                ) from None  # fmt: skip
        raise damaged(folder, text) from None
    except ValueError as error:
        raise damaged(folder, f"a row cannot be read: {type(error).__name__}") from None
    except OSError as error:
        raise unwritable(folder, error, other) from None
