"""How kernels are cut into tiles, warps and splits: never what they compute."""

from __future__ import annotations

from dataclasses import dataclass


def padded(extent: int) -> int:
    """The next power of two, at least 16: what a tile of a product may have."""
    return max(16, 1 << (extent - 1).bit_length())


@dataclass(frozen=True, slots=True)
class AttendSchedule:
    """Of paged attention.

    Attributes:
        block: tokens of a tile.
        splits: parts of each list, worked on by different programs.
        warps, stages: of a program, and tiles in flight.
        transposed: tokens on the rows of the matrix products, instead of query heads.
    """

    block: int = 64
    splits: int = 1
    warps: int = 4
    stages: int = 3
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class ScoreSchedule:
    """Of scoring and selection.

    Attributes:
        block: pages of a tile.
        warps, stages: of a program that scores.
        choose_warps: of a program that selects, where it is a launch of its own.
        joined: score and select in one launch.
    """

    block: int = 32
    warps: int = 4
    choose_warps: int = 8
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Schedule:
    """Of a decode step."""

    score: ScoreSchedule = ScoreSchedule()
    attend: AttendSchedule = AttendSchedule()
    full: AttendSchedule = AttendSchedule()
