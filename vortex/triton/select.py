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
    """Whole numbers whose order is that of the scores; the least but one for what is not finite
    (the least is kept for pages that are not ranked)."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # -0.0 becomes 0.0
    ordered = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(finite, ordered, -2147483647)


@triton.jit
def _value(key):
    """The score of a key."""
    return tl.where(key >= 0, key, key ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def _cut(key, least, total, need, BY_VALUE: tl.constexpr):
    """The largest number that at least ``need`` keys reach, or one above it that as many reach;
    and how many do. ``total`` keys reach ``least``, no fewer than ``need``.

    Bisection that ends as soon as a number parts exactly: of scores at first, which are spread
    more evenly than their keys, of keys in the end, which is sure to arrive.
    """
    low, high = least.to(tl.int64), tl.max(key, 0).to(tl.int64)
    step = 0
    while low < high:
        middle = low + (high - low + 1) // 2
        if BY_VALUE:
            between = _value(low.to(tl.int32)) * 0.5 + _value(high.to(tl.int32)) * 0.5
            guess = tl.minimum(tl.maximum(rank_key(between).to(tl.int64), low + 1), high)
            middle = tl.where(step < 12, guess, middle)
        count = tl.sum((key >= middle.to(tl.int32)).to(tl.int32), 0)
        total = tl.where(count >= need, count, total)
        low = tl.where(count >= need, middle, low)
        high = tl.where(count > need, high, tl.where(count == need, middle, middle - 1))
        step += 1
    return low.to(tl.int32), total


@triton.jit
def top_k(key, page, among, need):
    """The best ``need`` pages of ``among``, which has no fewer: bool ``[PAGES]``.

    Pages that tie on the last score kept are told apart by their hashes, which no two share.
    """
    ranked = tl.where(among, key, -2147483648)
    finite = ranked > -2147483647
    least = tl.min(tl.where(finite, ranked, 2147483647), 0)
    total = tl.sum(finite.to(tl.int32), 0)
    # Too few finite scores: all of them, and the rest by hash.
    enough = total >= need
    cut, reached = _cut(ranked, tl.where(enough, least, 2147483647), total, need, True)
    cut = tl.where(enough, cut, -2147483647)
    found = among & (ranked >= cut)
    if (reached != need) | (total < need):
        above = among & (ranked > cut)
        ties = tl.where(among & (ranked == cut), tie_hash(page), -1)
        left = need - tl.sum(above.to(tl.int32), 0)
        last, _ = _cut(ties, left * 0 - 1, left * 0 + 2147483647, left, False)
        found = above | (ties >= tl.maximum(last, 0))
    return tl.where(need > 0, found, page < 0)


@triton.jit
def limited(wanted, among):
    """``wanted``, or how many there are."""
    return tl.minimum(wanted, tl.sum(among.to(tl.int32), 0))


@triton.jit
def top_p(score, key, page, among, wanted, share):
    """The fewest best pages that hold ``share`` of the sum of ``among``, at most ``wanted``.

    Bisection on the key for the smallest score that is needed; sums are float64.
    """
    ranked = tl.where(among, key, -2147483648)
    some = tl.where(among & (key > -2147483647) & (score > 0.0), score, 0.0).to(tl.float64)
    goal = tl.sum(some, 0) * share
    low, high = tl.min(ranked, 0).to(tl.int64), tl.max(ranked, 0).to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        held = tl.sum(tl.where(ranked >= middle.to(tl.int32), some, 0.0), 0)
        low = tl.where(held >= goal, middle, low)
        high = tl.where(held >= goal, high, middle - 1)
    cut = low.to(tl.int32)
    above = among & (ranked > cut)
    held = tl.sum(tl.where(above, some, 0.0), 0)
    each = tl.max(tl.where(among & (ranked == cut), some, 0.0), 0)
    ties = tl.where(each > 0.0, tl.ceil((goal - held) / each), 1.0).to(tl.int32)
    enough = tl.sum(above.to(tl.int32), 0) + tl.maximum(ties, 1)
    return top_k(key, page, among, limited(tl.minimum(enough, wanted), among))


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
def relist(
    picks, slots, table, lengths, pages, places, counts, table_row, pages_row, pages_head, width,
    SIZE: tl.constexpr, SINKS: tl.constexpr, RECENT: tl.constexpr, PLACED: tl.constexpr,
    PAGES: tl.constexpr,
):  # fmt: skip
    """The lists of a step in which no row ranks; see ``list_again``."""
    head, row = tl.program_id(0), tl.program_id(1)
    heads = tl.num_programs(0)
    list_again(
        picks_of(picks, tl.load(slots + row), heads, head, width), table + row * table_row,
        tl.load(lengths + row), pages + row * pages_row + head * pages_head,
        places + row * pages_row + head * pages_head, counts + row * heads + head,
        SIZE, SINKS, RECENT, PLACED, PAGES,
    )  # fmt: skip


@triton.jit
def list_again(
    picks_at, table_at, length, pages_at, places_at, count_at, SIZE: tl.constexpr,
    SINKS: tl.constexpr, RECENT: tl.constexpr, PLACED: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    """The list of a step that does not rank: what the last ranking picked, and the pages that
    this step reserves."""
    page = tl.arange(0, PAGES)
    total = (length + SIZE - 1) // SIZE
    byte = tl.load(picks_at + page // 8, mask=page < total, other=0).to(tl.int32)
    keep = ((byte >> (page % 8)) & 1) != 0
    keep = keep | reserved_pages(page, length, SIZE, SINKS, RECENT)
    write_list(keep, page, table_at, pages_at, count_at)
    if PLACED:
        write_places(keep, page, places_at)


@triton.jit
def picks_of(picks, slot, heads, head, width):
    """Where the picks of a row and KV head lie: a bit for each page."""
    return picks + (slot.to(tl.int64) * heads + head) * ((width + 7) // 8)


@triton.jit
def write_picks(picked, picks_at, width, PAGES: tl.constexpr):
    """What rankings picked, bool ``[PAGES]``, for steps that do not rank."""
    bits = tl.reshape(picked.to(tl.int32), (PAGES // 8, 8)) << tl.arange(0, 8)[None, :]
    byte = tl.arange(0, PAGES // 8)
    tl.store(picks_at + byte, tl.sum(bits, 1).to(tl.uint8), mask=byte * 8 < width)


@triton.jit
def write_places(keep, page, places_at):
    """The kept pages of a row as logical pages, in the order of ``write_list``."""
    number = keep.to(tl.int32)
    tl.store(places_at + tl.cumsum(number, 0) - number, page, mask=keep)


@triton.jit
def write_list(keep, page, table_at, pages_at, count_at):
    """The kept pages of a row in logical order, as physical pages, and how many they are."""
    number = keep.to(tl.int32)
    place = tl.cumsum(number, 0) - number
    physical = tl.load(table_at + page, mask=keep, other=0)
    tl.store(pages_at + place, physical, mask=keep)
    tl.store(count_at, tl.sum(number, 0))
