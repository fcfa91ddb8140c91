"""Tries a foreign full attention in a process of its own, once per machine, package and shape."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from evals.sandbox import die_with_parent, ending
from vortex.errors import printable
from vortex.geometry import Geometry
from vortex.schedule import Schedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.choose import Pool, Setting
from vortex.workload import Workload

Attend = Callable[[int, Tensor], Tensor]

TRIAL_SECONDS = 60.0  # a worker that starts waits for it
PAGE_SIZES = (16, 32, 64, 128)
# A failure may be the moment's (no memory left, a busy machine): it is believed for so long.
_FAILURE_SECONDS = 3600.0
_LONGEST_REASON = 200
# Pages of a trial; rows share them, so that a long context costs no memory.
_MOST_BYTES = 256e6
_ANSWER = b"trial: "


@dataclass(frozen=True, slots=True)
class Rows:
    """What a decode step asks of full attention: all that a library chooses its kernel by.

    Attributes:
        batch, context: rows, and tokens of each.
        latent: whether values are the first ``vdim`` columns of the keys.
        dtype: of keys and values, as torch names it.
        device: where it runs; ``gpu``: what that is, '' for a processor.
        page_sizes: tokens of a page, tried in turn.
    """

    batch: int
    context: int
    heads: int
    kv_heads: int
    dim: int
    vdim: int
    latent: bool
    scale: float
    dtype: str
    device: str
    gpu: str
    page_sizes: tuple[int, ...] = PAGE_SIZES

    @staticmethod
    def of(geometry: Geometry, workload: Workload, device: torch.device) -> Rows:
        """Those of a target's decode step."""
        return Rows(
            batch=workload.batch, context=workload.context, heads=geometry.heads,
            kv_heads=geometry.kv_heads, dim=geometry.dim, vdim=geometry.vdim,
            latent=geometry.kind == "mla", scale=geometry.head_dim**-0.5,
            dtype="float8_e4m3fn" if workload.kv_dtype == "fp8" else "bfloat16",
            device=str(device),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        )  # fmt: skip


def shortened(text: str) -> str:
    """A reason in one line."""
    first = (text.strip().splitlines() or [""])[0]
    return printable(first, limit=_LONGEST_REASON)


def tried(
    make: Callable[[Pool, Setting], Attend],
    rows: Rows,
    *,
    package: str,
    folder: Path,
    seconds: float = TRIAL_SECONDS,
) -> str:
    """Why an implementation cannot be used, in a line; '' where it runs.

    Args:
        make: a function of a module, imported again by the process that tries it.
        package: that it comes from; another version is tried anew.
        folder: where outcomes are kept, for other workers and later runs.
        seconds: after which a trial is ended.
    """
    task: dict[str, object] = {
        "make": f"{make.__module__}:{make.__qualname__}",
        "rows": asdict(rows),
    }
    versions = [package, _version(package), str(torch.__version__)]
    key = hashlib.sha256(json.dumps([task, versions], sort_keys=True).encode()).hexdigest()
    path = folder / f"{key[:24]}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    with _alone(folder):  # workers start together: one tries, the others wait for what it finds
        kept = _kept(path)
        if kept is None:
            kept = shortened(_trial(task, seconds))
            _keep(path, {"reason": kept, "created": time.time(), "versions": versions, **task})
    return kept


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process of this machine tries; where nothing can be written, several may."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / "lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _version(package: str) -> str:
    """Of the distribution that brings a package; '' where none is known."""
    names = importlib.metadata.packages_distributions().get(package, ())
    return " ".join(importlib.metadata.version(name) for name in sorted(set(names)))


def _kept(path: Path) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        reason, age = str(found["reason"]), time.time() - float(found["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if reason and age > _FAILURE_SECONDS else reason


def _keep(path: Path, outcome: dict[str, object]) -> None:
    """Whole or not at all; where nothing can be written, the next worker tries too."""
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        beside.write_text(json.dumps(outcome, indent=2), encoding="utf-8")
        beside.replace(path)
    except OSError:
        return


def _trial(task: dict[str, object], seconds: float) -> str:
    """Run it; what the process says of itself, or how it ended."""
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    command = [sys.executable, "-m", "evals.device.trials", str(os.getpid())]
    try:
        done = subprocess.run(
            command, input=json.dumps(task).encode(), capture_output=True, timeout=seconds,
            env=os.environ | {"PYTHONPATH": path}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"a trial did not end within {seconds:.0f} s"
    except OSError as error:
        return f"it could not be tried: {error.strerror or error}"
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_ANSWER):  # a library may write after it, as it is unloaded
            return line.removeprefix(_ANSWER).decode(errors="replace").strip()
    log = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
    return f"it ended its process {ending(done.returncode, log)}"


def main() -> None:
    """The trial's side: a step over a small cache of the shape, captured where it can be."""
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        return
    task = json.loads(sys.stdin.buffer.read())
    rows = Rows(**task["rows"])
    module, _, name = task["make"].partition(":")
    reason = ""
    try:
        make = getattr(importlib.import_module(module), name)
        for size in rows.page_sizes:
            pool, setting, q = _bed(rows, size)
            _step(make(pool, setting), q)
    except Exception as error:  # the boundary of a process, as a worker's
        reason = shortened(f"{type(error).__name__}: {error}")
    # What the library wrote without an end of line stays apart.
    print(f"\n{_ANSWER.decode()}{reason}", flush=True)


def _bed(rows: Rows, page_size: int) -> tuple[Pool, Setting, Tensor]:
    """One layer's cache whose rows share pages, a setting, and queries."""
    device, kind = torch.device(rows.device), getattr(torch, rows.dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    width = -(-rows.context // page_size)
    page_bytes = rows.kv_heads * page_size * (rows.dim + rows.vdim) * kind.itemsize
    pages = max(width, min(rows.batch * width, int(_MOST_BYTES / page_bytes)))

    def drawn(dim: int) -> Tensor:
        shape = (pages, rows.kv_heads, page_size, dim)
        return torch.randn(shape, dtype=torch.bfloat16, device=device).to(kind)

    k = drawn(rows.dim)
    v = k[..., : rows.vdim] if rows.latent else drawn(rows.vdim)
    table = torch.arange(rows.batch * width, device=device) % pages
    lengths = torch.full((rows.batch,), rows.context, dtype=torch.int32, device=device)
    pool = Pool((Cache(k, v, page_size),), table.view(rows.batch, width).to(torch.int32),
                lengths, rows.context)  # fmt: skip
    shapes = Shapes(rows.heads // rows.kv_heads, rows.dim, rows.vdim, (0, rows.dim), 1,
                    (rows.dim, rows.dim if rows.latent else rows.vdim))  # fmt: skip
    setting = Setting(shapes, rows.scale, rows.context, frozenset(), Schedule())
    q = torch.randn(rows.batch, rows.heads, rows.dim, device=device).to(torch.bfloat16)
    return pool, setting, q


def _step(run: Attend, q: Tensor) -> None:
    out = run(0, q)
    if out.is_cuda:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run(0, q)
        except RuntimeError:
            return  # timed uncaptured then
        graph.replay()
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
