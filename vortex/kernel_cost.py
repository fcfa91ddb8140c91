"""Seconds of one layer's kernels, predicted from their shapes and a device's figures.

Pure arithmetic on a :class:`vortex.devices.Device`; ``vortex.cost`` says what is added to what.
The figures are fitted by ``benchmarks/gpu_cost.py``, but FlashMLA's, which was measured. With R
rows (sequences times KV heads)::

    score  = floor + max(bytes / gather_bandwidth, operations / vector_rate)
             + programs * query numbers / query_rate
    select = pass_latency * log2(pages + 1) + held * page_seconds + R * held / select_rate,
             held = pages + spill * max(0, pages - 2048)
    attend = floor + attend_latency + max(stream, operations / flops) [+ merge]

``select`` is what selection adds to the score's launch: the last row's passes (bisection, each
over its pages) find nothing to hide behind, and rows share the device; past 2,048 pages a row no
longer fits the registers of its program. ``stream``: splits make R * splits programs, of which
``slots`` run at once, each no faster than its rate (``program_rate``, or MLA's own), and over a
tile of 64 tokens at least: each wave takes its bytes at the bandwidth or at its programs' pace,
whichever is longer. The kernels of GQA merge their splits at once, those of MLA one after the
other (``merge_latency`` each); FlashMLA, the fastest full attention over latents, has a rate of its
own and merges within it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vortex.devices import Device
from vortex.schedule import padded

TILE = 64  # tokens
_REGISTERS = 2048  # pages of a row that its program holds
_SHARED = 100_000  # bytes of a tile that two stages and a spare leave room for


@dataclass(frozen=True, slots=True)
class Attend:
    """Attention over lists of one layer.

    Attributes:
        rows: sequences times KV heads.
        tokens: of each list.
        bytes_each: of a token's key and value.
        latent: MLA: one vector a token is both, and tiles do not overlap.
        whole: over every page, not a list.
        flops: operations, of all rows.
        fastest: by the fastest kernel that is known, not by ours: on MLA, FlashMLA.
    """

    rows: int
    tokens: int
    bytes_each: float
    latent: bool
    whole: bool
    flops: float = 0.0
    fastest: bool = False

    @property
    def bytes(self) -> float:
        """Keys and values read, of all rows."""
        return self.rows * self.tokens * self.bytes_each


@dataclass(frozen=True, slots=True)
class Score:
    """Scoring and selection of one layer.

    Attributes:
        rows, pages: sequences times KV heads, and pages of each.
        bytes: fields read, all rows.
        operations: on the vector units, all rows.
        block: pages that a program scores, where there is work enough for every unit.
        queries: numbers of a row's queries that a program takes in, padding included.
    """

    rows: int
    pages: int
    bytes: float
    operations: float
    block: int
    queries: int


def split_count(multiprocessors: int, shape: Attend) -> int:
    """Parts of each list: the rule that the kernels' schedules follow, a power of two.

    Enough to fill the device once on MLA lists, twice otherwise; full attention in 4 at least.
    """
    fill = multiprocessors if shape.latent and not shape.whole else 2 * multiprocessors
    wanted = 1 << int(math.log2(max(1.0, fill / shape.rows)))
    if shape.whole:
        wanted = max(4, wanted)
    tiles = -(-shape.tokens // TILE)
    return min(32, wanted, 1 << (tiles - 1).bit_length())


def queries_of(group: int, dim: int) -> int:
    """Numbers of the queries of a KV head as tiles hold them."""
    return (padded(group) if group > 3 else group) * dim


def score_seconds(device: Device, shape: Score) -> float:
    """Scores of every page, as a launch of its own."""
    reading = shape.bytes / device.gather_bandwidth
    programs = max(device.multiprocessors, shape.rows * -(-shape.pages // shape.block))
    return (
        device.launch_floor
        + max(reading, shape.operations / device.vector_rate)
        + programs * shape.queries / device.query_rate
    )


def select_seconds(device: Device, rows: int, pages: int) -> float:
    """What selection adds to the launch that scores."""
    held = pages + device.spill * max(0, pages - _REGISTERS)
    return (
        device.pass_latency * math.log2(pages + 1)
        + held * device.page_seconds
        + rows * held / device.select_rate
    )


def attend_seconds(device: Device, shape: Attend) -> float:
    """Attention over the lists of every row, the merge of splits included."""
    splits = split_count(device.multiprocessors, shape)
    programs = shape.rows * splits
    tokens = shape.tokens / splits
    slots = device.multiprocessors * _resident(shape, splits)
    waves, rest = divmod(programs, slots)
    rate = tokens * shape.bytes_each / device.bandwidth
    pace = max(TILE, tokens) * shape.bytes_each / _program_rate(device, shape)
    stream = waves * max(slots * rate, pace)
    if rest:
        stream += max(rest * rate, pace)
    return (
        device.launch_floor
        + device.attend_latency
        + max(stream, shape.flops / device.flops)
        + _merge_seconds(device, shape, splits)
    )


def _program_rate(device: Device, shape: Attend) -> float:
    """Bytes per second of one program at most."""
    if not shape.latent:
        return device.program_rate
    if _is_flash_mla(device, shape):
        return device.flash_mla_rate
    return device.latent_whole_rate if shape.whole else device.program_rate


def _merge_seconds(device: Device, shape: Attend, splits: int) -> float:
    """What merging splits takes beside the programs that attend."""
    if not shape.latent or splits == 1 or _is_flash_mla(device, shape):
        return 0.0
    return splits * device.merge_latency


def _is_flash_mla(device: Device, shape: Attend) -> bool:
    return shape.latent and shape.whole and shape.fastest and device.flash_mla_rate > 0


def _resident(shape: Attend, splits: int) -> int:
    """Programs that a multiprocessor holds: MLA's tile fills it; unsplit lists have half tiles."""
    if shape.latent:
        return 1
    tile = TILE * shape.bytes_each * (0.5 if splits == 1 else 1.0)
    return max(1, min(8, int(_SHARED / tile)))
