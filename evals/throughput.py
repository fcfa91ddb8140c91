"""Decode throughput on this CPU: the candidate against full attention, interleaved and checked."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.models.transformer import Transformer
from vortex.ir import Candidate
from vortex.paged import ContiguousDecode, PagedDecode, PagedPool
from vortex.suffix import SuffixAttend

_CHECKED = 4
# Scores within rounding of the cut may fall either way in two executors, and what follows then
# drifts a little; a wrong kernel moves the distribution by whole nats.
_KL_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """Outcome of a measurement.

    Attributes:
        tokens_per_second, full_tokens_per_second: medians over the timed pairs.
        speedup: geometric mean of the pairs' ratios, full over sparse.
        speedup_error: standard error of the speed-up over the pairs.
        pairs: how many steps of each were timed, turn by turn.
        mismatch: what the checked outputs differ in, or None.
    """

    tokens_per_second: float
    full_tokens_per_second: float
    speedup: float
    speedup_error: float
    pairs: int
    mismatch: str | None


@dataclass(frozen=True, slots=True)
class Bench:
    """What to decode.

    Attributes:
        kv: bf16 ``[layer, parts, kv_head, token, key_dim]`` of real contexts, one behind the other;
            repeated to ``context`` tokens for every sequence (time does not depend on the values).
    """

    kv: Tensor
    batch: int
    context: int
    pairs: int
    workload_context: int
    dense: frozenset[int]


def measure(model: Transformer, candidate: Candidate, bench: Bench) -> Timing:
    """Decode ``1 + checked + pairs`` tokens, turn by turn with full attention over a contiguous
    cache; the first steps' logits are compared with the batched executor's."""
    spec, cache = model.spec, model.spec.cache
    latent = cache.value_dim if cache.shared else None
    steps = _CHECKED + bench.pairs + 1
    repeats = -(-bench.context // bench.kv.shape[3])
    kv = bench.kv.repeat(1, 1, 1, repeats, 1)[:, :, :, : bench.context]
    pool = PagedPool(
        layers=spec.layers, kv_heads=cache.kv_heads, dim=cache.key_dim, latent=latent,
        page_size=candidate.page_size, sequences=bench.batch, max_tokens=bench.context + steps,
        shuffle=0,
    )  # fmt: skip
    for sequence in range(bench.batch):
        pool.fill(sequence, kv)
    sparse = PagedDecode(
        candidate, pool, scale=spec.scale, context=bench.context,
        workload_context=bench.workload_context, dense=bench.dense, rope=cache.rope,
    )  # fmt: skip
    sparse.summarise()
    room = torch.zeros(
        spec.layers, cache.parts, bench.batch, cache.kv_heads, bench.context + steps, cache.key_dim
    )
    room[..., : bench.context, :] = kv[:, :, None].to(torch.float32)
    full = ContiguousDecode(room, bench.context, scale=spec.scale, latent=latent)
    tokens = torch.arange(1000, 1000 + steps * bench.batch).view(bench.batch, steps)

    def step(attend: PagedDecode | ContiguousDecode, at: int) -> Tensor:
        position = torch.full((bench.batch, 1), bench.context + at)
        logits = model.forward(tokens[:, at : at + 1], position, attend)
        attend.advance()
        return logits

    checked = torch.stack([step(sparse, at) for at in range(_CHECKED)], 1)
    mismatch = _difference(model, candidate, kv, bench, tokens[:, :_CHECKED], checked)
    for at in range(_CHECKED):
        step(full, at)
    if mismatch:
        return Timing(math.nan, math.nan, math.nan, math.nan, 0, mismatch)
    times = _interleaved(lambda at: step(sparse, at), lambda at: step(full, at), steps)
    return _timing(times, bench.batch)


def _difference(
    model: Transformer,
    candidate: Candidate,
    kv: Tensor,
    bench: Bench,
    tokens: Tensor,
    logits: Tensor,
) -> str | None:
    """Compare with the batched executor, which parity holds against the reference."""
    attend = SuffixAttend(
        candidate, model.spec.cache.split(kv), scale=model.spec.scale,
        workload_context=bench.workload_context, dense=bench.dense, rope=model.spec.cache.rope,
    )  # fmt: skip
    positions = bench.context + torch.arange(tokens.shape[1]).expand(tokens.shape)
    wanted = model.forward(tokens, positions, attend).view(logits.shape).log_softmax(-1)
    gap = float((wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean())
    if gap <= _KL_TOLERANCE:
        return None
    return f"decoded distributions differ from the batched executor's by {gap:.3f} nats"


def _interleaved(
    sparse: Callable[[int], Tensor], full: Callable[[int], Tensor], steps: int
) -> list[tuple[float, float]]:
    """Seconds of (sparse, full) for each step after one warm-up, the order alternating."""
    times = []
    for at in range(_CHECKED, steps):
        order = (sparse, full) if at % 2 else (full, sparse)
        taken = {}
        for run in order:
            started = time.perf_counter()
            run(at)
            taken[run] = time.perf_counter() - started
        if at > _CHECKED:
            times.append((taken[sparse], taken[full]))
    return times


def _timing(times: list[tuple[float, float]], batch: int) -> Timing:
    logs = [math.log(full / sparse) for sparse, full in times]
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    speedup = math.exp(statistics.fmean(logs))
    return Timing(
        tokens_per_second=batch / statistics.median(t[0] for t in times),
        full_tokens_per_second=batch / statistics.median(t[1] for t in times),
        speedup=speedup,
        speedup_error=speedup * error,
        pairs=len(times),
        mismatch=None,
    )
