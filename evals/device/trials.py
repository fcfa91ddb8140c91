"""Tries a foreign full attention in a process of its own, once per machine, package and shape."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from evals.sandbox import die_with_parent, ending
from vortex.errors import printable
from vortex.schedule import Schedule
from vortex.triton.arrays import Shapes
from vortex.triton.attend import Cache
from vortex.triton.choose import Pool, Setting

Attend = Callable[[int, Tensor], Tensor]

TRIAL_SECONDS = 120.0
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
    """

    batch: int
    context: int
    heads: int
    kv_heads: int
    dim: int
    vdim: int
    page_size: int
    latent: bool
    scale: float
    dtype: str
    device: str
    gpu: str

    @staticmethod
    def of(pool: Pool, setting: Setting, *, heads: int) -> Rows:
        """Those of a filled cache."""
        cache, device = pool.caches[0], pool.table.device
        return Rows(
            batch=len(pool.table), context=pool.longest, heads=heads, kv_heads=pool.kv_heads,
            dim=cache.k.shape[3], vdim=setting.shapes.vdim, page_size=cache.page_size,
            latent=cache.latent, scale=setting.scale, dtype=str(cache.k.dtype).partition(".")[2],
            device=str(device),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        )  # fmt: skip


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
    if kept is None:
        kept = printable(_trial(task, seconds), limit=_LONGEST_REASON)
        _keep(path, {"reason": kept, "created": time.time(), "versions": versions, **task})
    return kept


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
    """Whole or not at all; where nothing can be written, the next candidate's worker tries too."""
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        pool, setting, q = _bed(rows)
        _step(make(pool, setting), q)
    except Exception as error:  # the boundary of a process, as a worker's
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
    # What the library wrote without an end of line stays apart.
    print(f"\n{_ANSWER.decode()}{reason}", flush=True)


def _bed(rows: Rows) -> tuple[Pool, Setting, Tensor]:
    """One layer's cache whose rows share pages, a setting, and queries."""
    device, kind = torch.device(rows.device), getattr(torch, rows.dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    width = -(-rows.context // rows.page_size)
    page_bytes = rows.kv_heads * rows.page_size * (rows.dim + rows.vdim) * kind.itemsize
    pages = max(width, min(rows.batch * width, int(_MOST_BYTES / page_bytes)))

    def drawn(dim: int) -> Tensor:
        shape = (pages, rows.kv_heads, rows.page_size, dim)
        return torch.randn(shape, dtype=torch.bfloat16, device=device).to(kind)

    k = drawn(rows.dim)
    v = k[..., : rows.vdim] if rows.latent else drawn(rows.vdim)
    table = torch.arange(rows.batch * width, device=device) % pages
    lengths = torch.full((rows.batch,), rows.context, dtype=torch.int32, device=device)
    pool = Pool((Cache(k, v, rows.page_size),), table.view(rows.batch, width).to(torch.int32),
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
