"""Generates the kernel that summarises pages: fields from the keys and values of one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vortex.ir import Candidate, Node, walk
from vortex.storage import FP8_MAX, INT_MAX
from vortex.triton.arrays import Loader, Shapes, Stored, check_power, field_layouts
from vortex.triton.lower import Lowering, View, columns, contiguous
from vortex.triton.module import HEADER, arguments, function, pruned
from vortex.triton.project import Matrix, matrices
from vortex.triton.tiles import Segment, Tile, Unfused, Writer


@dataclass(frozen=True, slots=True)
class Summaries:
    """A generated summary kernel.

    Attributes:
        text: the module.
        arrays: fields that it writes, in the order of its arguments.
        matrices: what it multiplies by, arguments after those.
    """

    text: str
    arrays: tuple[Stored, ...]
    matrices: tuple[Matrix, ...] = ()


def summaries(candidate: Candidate, shapes: Shapes) -> Summaries:
    """The summary kernel of a candidate.

    Raises:
        Unfused: E613, it has none; the message says why.
    """
    check_power(candidate.page_size)
    for node in walk(candidate.fields.values()):
        if node.op == "take" and "indices" in dict(node.attrs):
            raise Unfused("'take' of keys and values by a stored list has no kernel")
    writer = Writer("token", {"token": candidate.page_size}, heads_tiled=False)
    views = {}
    for node in walk(candidate.fields.values()):
        if node.op in ("k", "v"):
            stride = shapes.token_stride[node.op == "v"]
            views[node.key] = View(node.op, {"token": stride, "dim": 1})
    sizes = shapes.sizes(candidate.page_size)
    by_node, numbers = matrices(candidate.fields.values(), sizes, "matrix")
    lowering = Lowering(writer, sizes, shapes.rope, views, {}, Loader({}), matrices=by_node)
    tiles = lowering.lower(candidate.fields.values())
    layouts = field_layouts(candidate, shapes)
    for name, node in candidate.fields.items():
        _store(writer, tiles[node.key], node, layouts[name])
    lines = [f"{m.name}_at = {m.name}" for m in numbers] + writer.lines
    text = _module(candidate, list(layouts.values()), [m.name for m in numbers], lines)
    return Summaries(text, tuple(layouts.values()), tuple(numbers))


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
    if array.dtype == "int4":
        _write_halves(w, array, rounded, strides)
        return
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
    """Store one variable of whole numbers or floats."""
    kind = {"bf16": "tl.bfloat16", "fp8": "tl.float8e4nv", "int8": "tl.int8"}[array.dtype]
    base = f"{array.name} + place * {array.run}"
    parts = [str(offset)] if offset else []
    mask = ""
    if lead:
        parts.append(f"{lead}[:, None]" if segment else lead)
    if segment:
        parts.append(f"({columns(segment, 1)})" + ("[None, :]" if lead else ""))
        if segment.used < segment.width:
            mask = f"(tl.arange(0, {segment.width}) < {segment.used})"
            mask = f", mask={mask}" + ("[None, :]" if lead else "")
    at = " + ".join([base, *parts])
    w.lines.append(f"tl.store({at}, {name}.to({kind}){mask})")


def _write_halves(w: Writer, array: Stored, x: Tile, strides: Mapping[str, int]) -> None:
    """Store numbers of four bits, two a byte: neighbours in memory are neighbours on a tile, or
    two variables."""
    base = f"{array.name} + place * {array.run}"
    step = strides[w.lead] if w.lead in x.tile else 0
    wide = w.wide(x.tile)
    run = w.extents[w.lead] if step == 1 and not wide else 0
    single: dict[int, str] = {}
    for position in w.positions(x.small, x.tile):
        name, segment = x.names[position], w.segment(x.tile, position)
        offset = sum(p * strides[a] for p, a in zip(position[: len(x.small)], x.small, strict=True))
        if segment is None and not run:
            single[offset] = name
            continue
        part = segment or Segment(0, run, run)
        ends = offset + part.start + part.used == array.elements and step in (0, 1)
        odd = offset % 2 or (part.used % 2 and not ends) or (wide and step % 2)
        if odd or (wide and strides[wide] != 1):
            raise Unfused("int4 fields need an even run of columns")
        _write_run(w, base, name, offset, part, step if wide else 0)
    if single and step % 2:
        raise Unfused("int4 fields need an even run of columns")
    lead = f" + tl.arange(0, {w.extents[w.lead]}) * {step // 2}" if step else ""
    for offset in sorted(o for o in single if o % 2 == 0):
        byte = f"({single[offset]}.to(tl.int32) & 15)"
        if offset + 1 in single:
            byte = f"({byte} | (({single[offset + 1]}.to(tl.int32) & 15) << 4))"
        w.lines.append(f"tl.store({base} + {offset // 2}{lead}, {byte}.to(tl.uint8))")


def _write_run(w: Writer, base: str, name: str, offset: int, part: Segment, step: int) -> None:
    """Store a run of columns, of every token where ``step`` numbers lie between tokens."""
    half = part.width // 2
    rows = w.extents[w.lead] if step else 0
    pairs = w.fresh(f"tl.reshape({name}, ({f'{rows}, ' if rows else ''}{half}, 2))")
    w.lines.append(f"{pairs}_low, {pairs}_high = tl.split({pairs})")
    low, high = (f"({pairs}_{half_of}.to(tl.int32) & 15)" for half_of in ("low", "high"))
    across = "[None, :]" if rows else ""
    at = f"{(offset + part.start) // 2} + tl.arange(0, {half}){across}"
    if rows:
        at += f" + (tl.arange(0, {rows}) * {step // 2})[:, None]"
    mask = ""
    if part.used < part.width:
        mask = f", mask=(tl.arange(0, {half}) < {(part.used + 1) // 2}){across}"
    w.lines.append(f"tl.store({base} + {at}, ({low} | ({high} << 4)).to(tl.uint8){mask})")


def _module(
    candidate: Candidate, arrays: list[Stored], numbers: list[str], lines: list[str]
) -> str:
    size = candidate.page_size
    given = ["k", "v", *arguments(arrays), *numbers]
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
