"""Confines this process by Linux Landlock: what it may read, where it may write, no TCP."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

# Numbers of the system calls: the same on every architecture (they were added in 2021).
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_RULE_PATH, _VERSION_QUERY, _NO_NEW_PRIVS = 1, 1, 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_RIGHTS = (1 << 16) - 1  # ABI 5 adds ioctl on devices
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_NET_ABI, _SCOPE_ABI = 4, 6

_libc = ctypes.CDLL(None, use_errno=True)


class LandlockError(OSError):
    """The kernel refused a rule; nothing was confined."""


def abi() -> int:
    """Landlock version of the kernel; 0 where it has none."""
    return max(0, int(_libc.syscall(_CREATE, None, 0, _VERSION_QUERY)))


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> int:
    """Confine this process and its children for good; returns the version that enforces it.

    Every path must exist: a rule that cannot be made is an error, never left out.

    Raises:
        LandlockError: the kernel has no Landlock, or refused.
    """
    version = abi()
    if version == 0:
        raise LandlockError("this kernel has no Landlock")
    handled = _RIGHTS_BY_ABI.get(version, _ALL_RIGHTS)
    attributes = struct.pack(
        "QQQ",
        handled,
        0b11 if version >= _NET_ABI else 0,  # bind and connect
        0b11 if version >= _SCOPE_ABI else 0,  # abstract sockets and signals to outsiders
    )
    size = 24 if version >= _SCOPE_ABI else 16 if version >= _NET_ABI else 8
    ruleset = _call(_CREATE, attributes, size, 0)
    try:
        read = _EXECUTE | _READ_FILE | _READ_DIR
        for path in readable:
            _allow(ruleset, path, read & handled)
        for path in writable:
            _allow(ruleset, path, handled)
        if _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise LandlockError(ctypes.get_errno(), "prctl failed")
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if path.is_dir() else rights & _FILE_RIGHTS
        _call(_ADD, ruleset, _RULE_PATH, struct.pack("=Qi", allowed, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *args: object) -> int:
    result = int(_libc.syscall(number, *args))
    if result < 0:
        code = ctypes.get_errno()
        raise LandlockError(code, f"Landlock call {number} failed: {os.strerror(code)}")
    return result
