"""What is timed on a device is compared with the reference first."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from evals.device.throughput import _Bed, difference
from tests.vortex.test_triton_decode import (
    DEVICE,
    DIM,
    GROUP,
    KV,
    LAYERS,
    ROWS,
    drawn,
    pools,
    seed,
    setting,
)
from vortex.triton.decode import Decode


def test_the_first_sparse_layer_is_compared_on_its_own_cache() -> None:
    candidate = seed("block_centroid")
    _, pool = pools(candidate, 1)
    sparse = Decode(candidate, pool, setting(frozenset([0])))
    sparse.summarise()

    def layers(heads: int, first: int) -> list[torch.Tensor]:
        made = (drawn(ROWS, heads, DIM, seed=first + n) for n in range(LAYERS))
        return [x.to(DEVICE, torch.bfloat16) for x in made]

    out = torch.empty(ROWS, KV * GROUP, DIM, dtype=torch.bfloat16, device=DEVICE)
    bed = _Bed(pool, layers(KV * GROUP, 10), layers(KV, 20), layers(KV, 30), out)
    assert difference(candidate, sparse, bed) is None
