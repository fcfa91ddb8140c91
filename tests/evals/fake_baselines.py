"""Full attention by made-up libraries: one that works, and ways in which others do not."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.device.trials import Attend, Rows, tried
from vortex.triton.choose import Pool, Setting

ROWS = Rows(
    batch=2, context=40, heads=4, kv_heads=2, dim=64, vdim=64, latent=False, scale=0.125,
    dtype="bfloat16", device="cpu", gpu="", page_sizes=(16, 32),
)  # fmt: skip
KILLS = "CUDA error (launch.h:203): device kernel image is invalid"


def counted(pool: Pool) -> None:
    """A line for each process that gets so far, with the pages that it sees."""
    with Path(os.environ["TMPDIR"], "trials").open("a") as file:
        file.write(f"{os.getpid()} {pool.caches[0].page_size}\n")


def works(pool: Pool, setting: Setting) -> Attend:
    """Full attention."""
    counted(pool)

    def run(layer: int, q: Tensor) -> Tensor:
        print("noise", end="")
        cache, rows = pool.cache(layer), []
        for at, length in enumerate(pool.lengths.tolist()):
            pages = pool.table[at].long()
            k, v = (x[pages].transpose(0, 1).flatten(1, 2)[:, :length] for x in (cache.k, cache.v))
            heads = q[at].view(k.shape[0], -1, q.shape[2]).float()
            weight = torch.softmax(setting.scale * heads @ k.float().transpose(1, 2), -1)
            rows.append((weight @ v.float()).flatten(0, 1))
        return torch.stack(rows).to(q.dtype)

    return run


def differs(pool: Pool, setting: Setting) -> Attend:
    """Something else than full attention."""
    run = works(pool, setting)
    return lambda layer, q: run(layer, q) + 1


def ends_the_process(pool: Pool, setting: Setting) -> Attend:
    """As a library does whose kernels are not for this device."""
    counted(pool)

    def run(layer: int, q: Tensor) -> Tensor:
        os.write(2, f"{KILLS}\n".encode())
        os._exit(1)

    return run


def raises(pool: Pool, setting: Setting) -> Attend:
    """As a library does that says what it cannot."""
    raise RuntimeError("head dim 64 is not built\nsecond line")


def hangs(pool: Pool, setting: Setting) -> Attend:
    """As a library does that waits for what does not come."""
    time.sleep(60)
    return works(pool, setting)


class Trying:
    """A worker's handler that tries two of them while it is built, as a GPU's does."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.reasons = [
            tried(make, ROWS, package="torch", folder=Path(config["folder"]))
            for make in (ends_the_process, works)
        ]

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See Handler."""
        return {"reasons": self.reasons}
