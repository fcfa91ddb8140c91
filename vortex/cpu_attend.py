"""Compiled attention over chosen pages on the CPU: pages are read where they lie, never copied."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit, prange

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

# Sums may be reassociated (that is what vectorises them); infinities keep their meaning.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(fastmath=_FAST, error_model="numpy")
def _logits(q: Floats, k: Floats, used: int, out: Floats) -> None:
    """q ``[head, dim]``, k ``[token, dim]``: ``out[head, token]`` of the first ``used`` tokens."""
    for token in range(used):
        for head in range(q.shape[0]):
            total = np.float32(0)
            for d in range(q.shape[1]):
                total += q[head, d] * k[token, d]
            out[head, token] = total


@njit(fastmath=_FAST, error_model="numpy")
def _absorb(logits: Floats, v: Floats, used: int, top: Floats, mass: Floats, total: Floats) -> None:
    """One page into the running softmax (online softmax, arXiv:1805.02867)."""
    for head in range(logits.shape[0]):
        best = top[head]
        for token in range(used):
            best = max(best, logits[head, token])
        if best > top[head]:
            shrink = np.float32(math.exp(top[head] - best))
            mass[head] *= shrink
            for d in range(total.shape[1]):
                total[head, d] *= shrink
            top[head] = best
        for token in range(used):
            weight = np.float32(math.exp(logits[head, token] - best))
            logits[head, token] = weight
            mass[head] += weight
    for token in range(used):
        for head in range(logits.shape[0]):
            weight = logits[head, token]
            for d in range(total.shape[1]):
                total[head, d] += weight * v[token, d]


@njit(fastmath=_FAST, error_model="numpy", parallel=True, nogil=True)
def attend_pages(
    q: Floats, k: Floats, v: Floats, table: Indices, keep: Bools, tokens: int, out: Floats
) -> None:
    """Softmax attention of one step over the kept pages of every row and KV head.

    Args:
        q: ``[row, kv_head, head, dim]``, scaled.
        k, v: ``[physical page, kv_head, token, dim]`` and ``[..., at least vdim]``: on MLA the keys
            themselves, whose first columns are the values.
        table: physical pages in order, ``[row, page]``.
        keep: ``[row, kv_head, page]``; at least one page of every row and head.
        tokens: in the cache of each row, this step's own included.
        out: ``[row, kv_head, head, vdim]``, written.
    """
    rows, kv_heads, heads, _ = q.shape
    size, pages = k.shape[2], keep.shape[2]
    for at in prange(rows * kv_heads):
        row, kv_head = at // kv_heads, at % kv_heads
        top = np.full(heads, -np.inf, np.float32)
        mass = np.zeros(heads, np.float32)
        total = np.zeros((heads, out.shape[3]), np.float32)
        logits = np.empty((heads, size), np.float32)
        for page in range(pages):
            if keep[row, kv_head, page]:
                used = min(size, tokens - page * size)
                where = table[row, page]
                _logits(q[row, kv_head], k[where, kv_head], used, logits)
                _absorb(logits, v[where, kv_head], used, top, mass, total)
        for head in range(heads):
            for d in range(out.shape[3]):
                out[row, kv_head, head, d] = total[head, d] / mass[head]
