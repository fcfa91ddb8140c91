"""Exact selection on a device: device functions that generated kernels call, one row at a time.

A row is the pages of one sequence and KV head as a tile ``[PAGES]``. Ranks are those of
``vortex.selection``: larger score first, ties by a fixed hash of the page, what is not finite last.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tie_hash(page):
    """A fixed bijection on page numbers below 2^20; see ``vortex.selection.tie_hash``."""
    x = page.to(tl.int64) & 0xFFFFF
    x = (x * 0x9E375) & 0xFFFFF
    x = x ^ (x >> 10)
    x = (x * 0x6C8E5) & 0xFFFFF
    return (x ^ (x >> 9)).to(tl.int32)


@triton.jit
def rank_key(score):
    """Unsigned keys whose order is that of the scores; 0 for what is not finite."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # -0.0 becomes 0.0
    ordered = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF) ^ -2147483648
    finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(finite, ordered, 0).to(tl.uint32, bitcast=True)


@triton.jit
def _largest(key, alive, sure, need, SHIFT: tl.constexpr):
    """One digit of a radix selection: who is surely among the ``need`` largest of ``alive``, who
    still may be, and how many of them are needed."""
    digit = ((key >> SHIFT) & 0xFF).to(tl.int32)
    counts = tl.histogram(digit, 256, mask=alive)
    at_least = tl.cumsum(counts, 0, reverse=True)
    cut = tl.sum((at_least >= need).to(tl.int32), 0) - 1
    above = tl.sum(tl.where(tl.arange(0, 256) > cut, counts, 0), 0)
    return alive & (digit == cut), sure | (alive & (digit > cut)), need - above


@triton.jit
def top_k(key, page, among, wanted):
    """The best ``wanted`` pages of ``among``: bool ``[PAGES]``; all of them if there are fewer.

    Four digits of the key find the last score that is kept; pages that tie on it are told apart
    by three digits of their hash, which no two share.
    """
    none = page < 0
    alive = tl.where(wanted > 0, among, none)
    sure = none
    need = tl.minimum(wanted, tl.sum(among.to(tl.int32), 0))
    alive, sure, need = _largest(key, alive, sure, need, 24)
    alive, sure, need = _largest(key, alive, sure, need, 16)
    alive, sure, need = _largest(key, alive, sure, need, 8)
    alive, sure, need = _largest(key, alive, sure, need, 0)
    if tl.sum(alive.to(tl.int32), 0) > need:
        ties = tie_hash(page).to(tl.uint32, bitcast=True)
        alive, sure, need = _largest(ties, alive, sure, need, 16)
        alive, sure, need = _largest(ties, alive, sure, need, 8)
        alive, sure, need = _largest(ties, alive, sure, need, 0)
    return sure | alive


@triton.jit
def top_p(score, key, page, among, wanted, share):
    """The fewest best pages that hold ``share`` of the sum of ``among``, at most ``wanted``.

    Bisection on the key for the smallest score that is needed; sums are float64.
    """
    finite = key > 0
    some = tl.where(among & finite & (score > 0.0), score, 0.0).to(tl.float64)
    goal = tl.sum(some, 0) * share
    cut = tl.zeros((), tl.uint32)
    for bit in tl.static_range(31, -1, -1):
        higher = cut | (1 << bit)
        held = tl.sum(tl.where(key >= higher, some, 0.0), 0)
        cut = tl.where(held >= goal, higher, cut)
    above = among & (key > cut)
    held = tl.sum(tl.where(above, some, 0.0), 0)
    each = tl.max(tl.where(among & (key == cut), some, 0.0), 0)
    ties = tl.where(each > 0.0, tl.ceil((goal - held) / each), 1.0).to(tl.int32)
    enough = tl.sum(above.to(tl.int32), 0) + tl.maximum(ties, 1)
    return top_k(key, page, among, tl.minimum(enough, wanted))


@triton.jit
def reserved_pages(page, length, SIZE: tl.constexpr, SINKS: tl.constexpr, RECENT: tl.constexpr):
    """The first pages and the newest, the partial one among them: bool ``[PAGES]``."""
    total = (length + SIZE - 1) // SIZE
    newest = tl.maximum(RECENT, (length % SIZE != 0).to(tl.int32))
    return ((page < SINKS) | (page >= total - newest)) & (page < total)


@triton.jit
def free_count(length, SIZE: tl.constexpr, SINKS: tl.constexpr, RECENT: tl.constexpr):
    """Pages of a sequence that are reserved, and complete pages that are not."""
    total = (length + SIZE - 1) // SIZE
    newest = tl.minimum(tl.maximum(RECENT, (length % SIZE != 0).to(tl.int32)), total)
    kept = tl.minimum(SINKS, total - newest) + newest
    return kept, tl.maximum(total - kept, 0)


@triton.jit
def write_list(keep, page, table_at, pages_at, count_at):
    """The kept pages of a row in logical order, as physical pages, and how many they are."""
    number = keep.to(tl.int32)
    place = tl.cumsum(number, 0) - number
    physical = tl.load(table_at + page, mask=keep, other=0)
    tl.store(pages_at + place, physical, mask=keep)
    tl.store(count_at, tl.sum(number, 0))
