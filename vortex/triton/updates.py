"""Generates the kernel that gives states their next values after a step."""

from __future__ import annotations

from dataclasses import dataclass

from vortex.ir import Candidate, walk
from vortex.triton.arrays import Loader, Shapes, Stored
from vortex.triton.lower import View
from vortex.triton.module import HEADER, arguments, pruned, wrapped
from vortex.triton.scoring import Channels, Parts
from vortex.triton.tiles import Tile, Unfused, Writer


@dataclass(frozen=True, slots=True)
class Updates:
    """A generated update of states.

    Attributes:
        text: of the module.
        states: names of the states, by argument.
        channels: float32 numbers per page of scratch memory.
    """

    text: str
    states: dict[str, str]
    channels: int


def updates(candidate: Candidate, shapes: Shapes) -> Updates:
    """The kernel that gives states their next values.

    Raises:
        Unfused: E613, an update reads fields, or has another part without a kernel.
    """
    roots = list(candidate.updates.values())
    if any(node.op == "field" for node in walk(roots)):
        raise Unfused("an update that reads fields of pages has no kernel")
    names = {name: f"state{i}" for i, name in enumerate(candidate.states)}
    stored = {a: Stored(a, {}, "fp32", "slot") for a in names.values()}
    stored["mass"] = Stored("mass", {}, "fp32", "pages")
    views = {}
    for node in walk(roots):
        if node.op == "state":
            views[node.key] = View(names[str(node.attr("name"))], {})
        elif node.op == "mass":
            views[node.key] = View("mass", {})
    loader = Loader(stored)
    parts = Parts(
        candidate, shapes, None, shapes.sizes(candidate.page_size), views, loader, Channels(), {}
    )
    writer = Writer("page", {"head": shapes.group}, False, frozenset())
    lowering = parts.lowering(writer, roots, {})
    lowering.neighbours = lambda x, at: parts.neighbours(writer, x, at)
    tiles = lowering.lower(roots)
    ends = []
    for name, node in candidate.updates.items():
        tile = tiles[node.key]
        if set(tile.small) | (set(tile.tile) - {"page"}):
            raise Unfused("an update gives more than a number per page")
        ends.append(f"tl.store({names[name]}_at, {_whole(tile)}, mask=inside)")
    text = _module(candidate, shapes, list(stored.values()), [*writer.lines, *ends])
    return Updates(text, {a: n for n, a in names.items()}, parts.channels.count)


def _whole(tile: Tile) -> str:
    (value,) = tile.names.values()
    return value if "page" in tile.tile else f"tl.zeros((PAGES,), tl.float32) + {value}"


def _module(candidate: Candidate, shapes: Shapes, stored: list[Stored], lines: list[str]) -> str:
    body = [
        "head, row = tl.program_id(0), tl.program_id(1)",
        "kv_heads = tl.num_programs(0)",
        "at = row * kv_heads + head",
        "length = tl.load(lengths + row)",
        f"complete = length // {candidate.page_size}",
        "slot = tl.load(slots + row).to(tl.int64)",
        "page = tl.arange(0, PAGES)",
        "inside = page < complete",
        "float_count = tl.maximum(complete, 1).to(tl.float32)",
        f"depth = (layer.to(tl.float64) / {max(1, shapes.layers - 1)}).to(tl.float32)",
        "scratch_at = scratch + at.to(tl.int64) * (CHANNELS * width)",
        *[f"{a.name}_at = {a.name} + (slot * kv_heads + head) * width + page"
          for a in stored if a.per == "slot"],
        "mass_at = mass + at * width + page",
        *lines,
        "tl.debug_barrier()",
        "tl.store(mass_at, tl.zeros((PAGES,), tl.float32), mask=page < width)",
    ]  # fmt: skip
    given = [*arguments(stored), "slots", "lengths", "scratch", "width", "scale", "layer",
             "CHANNELS: tl.constexpr", "PAGES: tl.constexpr"]  # fmt: skip
    text = "\n".join(f"    {line}" for line in pruned(body))
    return f'''{HEADER}

@triton.jit(do_not_specialize=["layer"])
def update(
{wrapped(given, 4)}
):
    """Next values of a row's states, of its complete pages; the mass is zero again after it."""
{text}
'''
