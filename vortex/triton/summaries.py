"""Generates the kernel that summarises pages: fields from the keys and values of one page."""

from __future__ import annotations

from dataclasses import dataclass

from vortex.ir import Candidate, Node, walk
from vortex.storage import FP8_MAX, INT_MAX
from vortex.triton.arrays import Loader, Shapes, Stored, check_power, field_layouts
from vortex.triton.lower import Lowering, View, columns, contiguous
from vortex.triton.module import HEADER, arguments, function, pruned
from vortex.triton.tiles import Segment, Tile, Unfused, Writer

_HARD = ("top_indices", "project")


@dataclass(frozen=True, slots=True)
class Summaries:
    """A generated summary kernel.

    Attributes:
        text: the module.
        arrays: fields that it writes, in the order of its arguments.
    """

    text: str
    arrays: tuple[Stored, ...]


def summaries(candidate: Candidate, shapes: Shapes) -> Summaries:
    """The summary kernel of a candidate.

    Raises:
        Unfused: E613, it has none; the message says why.
    """
    check_power(candidate.page_size)
    for node in walk(candidate.fields.values()):
        if node.op in _HARD or (node.op == "take" and "indices" in dict(node.attrs)):
            raise Unfused(f"'{node.op}' of keys and values has no kernel")
    writer = Writer("token", {"token": candidate.page_size}, heads_tiled=False)
    views = {}
    for node in walk(candidate.fields.values()):
        if node.op in ("k", "v"):
            stride = shapes.token_stride[node.op == "v"]
            views[node.key] = View(node.op, {"token": stride, "dim": 1})
    sizes = shapes.sizes(candidate.page_size)
    lowering = Lowering(writer, sizes, shapes.rope, views, {}, Loader({}))
    tiles = lowering.lower(candidate.fields.values())
    layouts = field_layouts(candidate, shapes)
    for name, node in candidate.fields.items():
        _store(writer, tiles[node.key], node, layouts[name])
    return Summaries(
        _module(candidate, list(layouts.values()), writer.lines), tuple(layouts.values())
    )


def _store(w: Writer, tile: Tile, node: Node, array: Stored) -> None:
    """Round a field to its type, and write it."""
    w.extents.update(array.axes)
    rounded = tile
    if array.scaled:
        peaks = [
            {0: n, 1: f"tl.max({n}, 0)", 2: f"tl.max(tl.max({n}, 1), 0)"}[len(tile.tile)]
            for n in w.map("tl.abs({})".format, tile).names.values()
        ]
        peak = w.fresh(peaks[0])
        for other in peaks[1:]:
            peak = w.fresh(f"tl.maximum({peak}, {other})")
        limit = FP8_MAX if array.dtype == "fp8" else INT_MAX[array.dtype]
        scale = w.fresh(f"tl.where({peak} > 0.0, {peak} / {limit}, 1.0)")
        w.lines.append(f"tl.store({array.name}_scale + place, {scale})")
        bound = f"tl.minimum(tl.maximum({{}}, -{limit}), {limit})"
        shape = "nearest({})" if array.dtype != "fp8" else "{}"
        rounded = w.map(
            lambda x: bound.format(shape.format(f"tl.div_rn({x}, {_like(x, scale)})")), tile
        )
    strides = contiguous(array.axes, next(reversed(list(array.axes)), None))
    for position in w.positions(rounded.small, rounded.tile):
        name, segment = rounded.names[position], w.segment(rounded.tile, position)
        offset = sum(
            p * strides[a]
            for p, a in zip(position[: len(rounded.small)], rounded.small, strict=True)
        )
        lead = ""
        if w.lead in rounded.tile:
            lead = f"(tl.arange(0, {w.extents[w.lead]}) * {strides[w.lead]})"
        _write(w, array, name, offset, segment, lead)


def _like(x: str, scale: str) -> str:
    """A scale broadcast like a tile (exact division takes equal shapes)."""
    return f"{scale} + 0.0 * {x}"


def _write(
    w: Writer, array: Stored, name: str, offset: int, segment: Segment | None, lead: str
) -> None:
    """Store one variable: numbers, or halves of bytes for int4."""
    kind = {"bf16": "tl.bfloat16", "fp8": "tl.float8e4nv", "int8": "tl.int8"}.get(array.dtype)
    base = f"{array.name} + place * {array.run}"
    padded = segment is not None and segment.used < segment.width
    if kind:
        parts = [str(offset)] if offset else []
        mask = ""
        if lead:
            parts.append(f"{lead}[:, None]" if segment else lead)
        if segment:
            parts.append(f"({columns(segment, 1)})" + ("[None, :]" if lead else ""))
            if padded:
                mask = f"(tl.arange(0, {segment.width}) < {segment.used})"
                mask = f", mask={mask}" + ("[None, :]" if lead else "")
        at = " + ".join([base, *parts])
        w.lines.append(f"tl.store({at}, {name}.to({kind}){mask})")
        return
    if segment is None or lead or offset % 2 or segment.used % 2:
        raise Unfused("int4 fields need an even run of columns")
    half = segment.width // 2
    pairs = w.fresh(f"tl.reshape({name}, ({half}, 2))")
    w.lines.append(f"{pairs}_low, {pairs}_high = tl.split({pairs})")
    low, high = (f"({pairs}_{part}.to(tl.int32) & 15)" for part in ("low", "high"))
    at = f"{(offset + segment.start) // 2} + tl.arange(0, {half})"
    mask = f", mask=tl.arange(0, {half}) < {segment.used // 2}" if padded else ""
    w.lines.append(f"tl.store({base} + {at}, ({low} | ({high} << 4)).to(tl.uint8){mask})")


def _module(candidate: Candidate, arrays: list[Stored], lines: list[str]) -> str:
    size, fields = candidate.page_size, arguments(arrays)
    given = ["k", "v", *fields]
    body = function(
        "summarise_page", [*given, "k_at", "v_at", "place"], pruned(lines),
        "Fields of one page of one KV head.",
    )  # fmt: skip
    names = ", ".join(given)
    return (
        HEADER
        + f'''

{body}

@triton.jit
def summarise(
    {names}, table, lengths,
    table_row, k_page, k_head, v_page, v_head,
):
    """Every complete page of every sequence."""
    page, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if page >= tl.load(lengths + row) // {size}:
        return
    physical = tl.load(table + row * table_row + page).to(tl.int64)
    place = physical * tl.num_programs(1) + head
    k_at = k + physical * k_page + head * k_head
    v_at = v + physical * v_page + head * v_head
    summarise_page({names}, k_at, v_at, place)


@triton.jit
def append(
    {names}, table, lengths, new_k, new_v,
    table_row, k_page, k_head, k_token, v_page, v_head, v_token, new_row, new_v_row,
    DIM: tl.constexpr, VDIM: tl.constexpr, WIDE: tl.constexpr, LATENT: tl.constexpr,
):
    """Keep the step's keys and values, and summarise the page that they complete, if they do."""
    head, row = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    page, slot = (length - 1) // {size}, (length - 1) % {size}
    physical = tl.load(table + row * table_row + page).to(tl.int64)
    place = physical * tl.num_programs(0) + head
    k_at = k + physical * k_page + head * k_head
    v_at = v + physical * v_page + head * v_head
    column = tl.arange(0, WIDE)
    key = tl.load(new_k + row * new_row + head * DIM + column, mask=column < DIM, other=0.0)
    tl.store(k_at + slot * k_token + column, key.to(k.dtype.element_ty), mask=column < DIM)
    if not LATENT:
        value = tl.load(new_v + row * new_v_row + head * VDIM + column, mask=column < VDIM)
        tl.store(v_at + slot * v_token + column, value.to(v.dtype.element_ty), mask=column < VDIM)
    if length % {size} == 0:
        tl.debug_barrier()
        summarise_page({names}, k_at, v_at, place)
'''
    )
