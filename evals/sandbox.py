"""What a worker may do: limits, a cleared environment, files it can only read, no network."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from evals.landlock import LandlockError, abi, restrict

_KEPT_VARIABLES = (
    "PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME",
)  # fmt: skip
_PR_SET_PDEATHSIG = 1
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a worker; time is the caller's to keep.

    Attributes:
        memory: bytes of address space beyond what the process holds when it is confined; None:
            no limit (CUDA reserves address space by the terabyte).
        file: bytes of the largest file that it may write.
    """

    memory: int | None = 8 << 30
    file: int = 1 << 30
    open_files: int = 256


def clean_environment(scratch: Path, threads: int) -> dict[str, str]:
    """The environment of a worker: no keys, no tokens, a home of its own."""
    from evals.models.fetch import cache_dir  # a worker starts without it, and soon dies with us

    kept = {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
    # A worker finds the packages where its parent found them, installed or not.
    kept["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return kept | {
        "HOME": str(scratch),
        # The user's cache depends on the home that a worker does not have.
        "VORTEX_CACHE": str(cache_dir()),
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        # Huge pages for torch's large arrays: fewer misses in gathers, for both sides of a pair.
        "THP_MEM_ALLOC_ENABLE": "1",
    }


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the coordinator dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ending(code: int, log: str) -> str:
    """How a process ended, and the last line that it wrote.

    Args:
        code: what it returned; negative: the signal that ended it.
    """
    last = [line for line in log.splitlines() if line.strip()][-1:]
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"{how}{': ' + last[0][:300] if last else ''}"


def enter(
    limits: Limits, *, readable: tuple[Path, ...], writable: tuple[Path, ...]
) -> dict[str, str]:
    """Confine this process; returns what is in force, for the record.

    Landlock and a network namespace of its own are used where the kernel allows them; what does
    not hold is said, not hidden.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file, limits.file))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits.open_files, limits.open_files))
    if limits.memory is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + limits.memory,) * 2)
    network = _own_network()
    system = [Path(p) for p in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys")]
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))]
    # An editable install is found by a hook, not by a path.
    root = Path(__file__).resolve().parents[1]
    own = [root / name for name in ("vortex", "search_spaces", "evals")]
    packages = [*own, *(Path(p) for p in sys.path if p)]
    paths = {p for p in (*system, *python, *packages, *readable) if p.exists()}
    try:
        version = restrict(sorted(paths), [*writable, Path("/dev")])
        files = f"Landlock ABI {version}"
    except LandlockError as error:
        if abi():
            raise
        files = f"not confined: {error}"
    return {"files": files, "network": network, "memory_bytes": str(limits.memory or "not limited")}


def _own_network() -> str:
    """A network namespace without interfaces; needs user namespaces or root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) == 0 or libc.unshare(_NEW_USER | _NEW_NETWORK) == 0:
        return "own namespace, no interfaces"
    return "TCP denied by Landlock only" if abi() >= 4 else "not confined"
