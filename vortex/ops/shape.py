"""Operations of the op table that cut, pick, join or project axes, or look along the pages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from vortex.errors import VortexError
from vortex.ir import Attr, Axis, Extent, KnobRef, MatrixRef, Node, canonical_axes
from vortex.named import Named, Run, aligned, contracted, named
from vortex.ops.base import (
    AXIS,
    AxisError,
    Op,
    Param,
    free_name,
    need,
    show_axes,
    union_axes,
)

Attrs = Mapping[str, Attr]
_MAX_RADIUS = 16


def _count(value: Attr) -> int | KnobRef:
    assert isinstance(value, int | KnobRef)
    return value


def _int(attrs: Attrs, name: str) -> int:
    value = attrs[name]
    assert isinstance(value, int)
    return value


def _one(name: str, *parts: Attr) -> Axis:
    return Axis(name, Extent("one", tuple(_count(p) for p in parts)))


def _split_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    old, name, into = str(attrs["axis"]), str(attrs["name"]), _count(attrs["into"])
    need(inputs, old)
    free_name(inputs[0].axes, name)
    if old in ("page", "head"):
        raise AxisError("E103", f"'{old}' cannot be split", "split 'token' or 'dim'")
    kept = [
        Axis(a.name, Extent(a.extent.base, (*a.extent.parts, into))) if a.name == old else a
        for a in inputs[0].axes
    ]
    if any(a.name == old and a.extent.base == "one" for a in kept):
        raise AxisError("E103", f"'{old}' was cut before", "split once, into more parts")
    return canonical_axes([*kept, _one(name, into)])


def _split(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x, axis, into = xs[0], str(attrs["axis"]), _int(attrs, "into")
    at = x.dim(axis)
    shape = x.data.shape
    data = x.data.reshape(*shape[:at], into, shape[at] // into, *shape[at + 1 :])
    return named(data, *x.names[:at], str(attrs["name"]), *x.names[at:])


def _take_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axis = str(attrs["axis"])
    need(inputs, axis)
    if axis in ("page", "head"):
        raise AxisError("E103", f"'{axis}' cannot be cut", "take from 'token' or 'dim'")
    size = _one(axis, attrs["count"])
    return canonical_axes(size if a.name == axis else a for a in inputs[0].axes)


def _take(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x, axis, count = xs[0], str(attrs["axis"]), _int(attrs, "count")
    at = x.dim(axis)
    chosen = attrs.get("indices")
    if isinstance(chosen, MatrixRef):
        positions = run.matrix(chosen, (count,), axis)
        return _gathered(x, positions, axis)
    first, step = _int(attrs, "first"), max(1, _int(attrs, "step"))
    stop = first + (count - 1) * step + 1
    _within(axis, stop, x.data.shape[at])
    return Named(x.data.narrow(at, first, stop - first)[_every(at, step)], x.names)


def _within(axis: str, wanted: int, extent: int) -> None:
    if not 0 < wanted <= extent:
        raise VortexError(
            f"entry {wanted} of '{axis}' is wanted, which has {extent} on this model",
            code="E203",
            hint="take fewer, or begin earlier",
        )


def _every(at: int, step: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(at)), slice(None, None, step))


def _top_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    return _take_axes(inputs, attrs)


def _top_indices(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x, count = xs[0], _int(attrs, "count")
    at = x.dim(str(attrs["axis"]))
    _within(str(attrs["axis"]), count, x.data.shape[at])
    clean = torch.where(torch.isnan(x.data), float("-inf"), x.data)
    order = torch.sort(clean, dim=at, descending=True, stable=True).indices
    return Named(order.narrow(at, 0, count).to(x.data.dtype), x.names)


def _gather_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axis = str(attrs["axis"])
    need(inputs[:1], axis)
    need(inputs[1:], axis)
    source, indices = inputs
    rest = [a for a in source.axes if a.name != axis]
    for a in indices.axes:
        other = next((o for o in rest if o.name == a.name), None)
        if other is not None and other.extent != a.extent:
            raise AxisError(
                "E104", f"'{a.name}' has two different extents here: {show_axes(source.axes)} "
                f"against {show_axes(indices.axes)}", "reduce it before top_indices()",
            )  # fmt: skip
    return canonical_axes({a.name: a for a in (*rest, *indices.axes)}.values())


def _gather(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    return _gathered(xs[0], xs[1], str(attrs["axis"]))


def _gathered(x: Named, indices: Named, axis: str) -> Named:
    """Entries of ``x`` at positions along an axis; the other axes align by name."""
    (data, at), names = aligned(x, indices)
    where = names.index(axis)
    shape = [max(a, b) for a, b in zip(data.shape, at.shape, strict=True)]
    full = [data.shape[where] if i == where else n for i, n in enumerate(shape)]
    wanted = [at.shape[where] if i == where else n for i, n in enumerate(shape)]
    limit = data.shape[where] - 1
    positions = at.nan_to_num(0.0).to(torch.int64).clamp(0, limit).expand(wanted)
    return Named(torch.gather(data.expand(full), where, positions), names)


def _stack_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axes = union_axes(inputs, attrs)
    free_name(axes, str(attrs["name"]))
    return canonical_axes([*axes, _one(str(attrs["name"]), len(inputs))])


def _stack(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    views, names = aligned(*xs)
    joined = torch.stack(torch.broadcast_tensors(*views), -1)  # type: ignore[no-untyped-call]
    return named(joined, *names, str(attrs["name"]))


def _rename_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axes = need(inputs, str(attrs["old"]))
    if attrs["old"] in ("page", "head"):
        raise AxisError("E103", f"'{attrs['old']}' keeps its name", "rename an axis of your own")
    free_name(axes, str(attrs["new"]))
    renamed = {str(attrs["old"]): str(attrs["new"])}
    return canonical_axes(Axis(renamed.get(a.name, a.name), a.extent) for a in axes)


def _rename(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    renamed = {str(attrs["old"]): str(attrs["new"])}
    return named(xs[0].data, *(renamed.get(n, n) for n in xs[0].names))


def _position_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axis = str(attrs["axis"])
    if axis == "page":
        raise AxisError("E103", "pages have vx.page_index", "write vx.page_index")
    return tuple(a for a in need(inputs, axis) if a.name == axis)


def _positions(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    axis = str(attrs["axis"])
    size = xs[0].data.shape[xs[0].dim(axis)]
    return Named(torch.arange(size, dtype=torch.float32), (axis,))


def _project_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axis, name = str(attrs["axis"]), str(attrs["name"])
    axes = need(inputs, axis)
    if axis == "page":
        raise AxisError("E103", "'page' cannot be projected", "project 'dim'")
    free_name(tuple(a for a in axes if a.name != axis), name)
    kept = [a for a in axes if a.name != axis]
    return canonical_axes([*kept, _one(name, attrs["into"])])


def _project(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x, axis, name = xs[0], str(attrs["axis"]), str(attrs["name"])
    matrix = attrs["matrix"]
    assert isinstance(matrix, MatrixRef)
    rows = x.data.shape[x.dim(axis)]
    found = run.matrix(matrix, (rows, _int(attrs, "into")), axis, name)
    return contracted(x, found, axis)


def _part_axes(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    axes = need(inputs, "dim")
    if any(a.name == "dim" and a.extent != Extent("dim") for a in axes):
        raise AxisError(
            "E104", "only a whole key or query has a rotary part",
            "take .nope or .rope first, then cut 'dim'",
        )  # fmt: skip
    part = Axis("dim", Extent(str(attrs["part"])))
    return canonical_axes(part if a.name == "dim" else a for a in axes)


def _part(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    """The rotary columns, or the others (before and after them, in order)."""
    x = xs[0]
    at = x.dim("dim")
    first, count = run.rope or (0, x.data.shape[at])
    if attrs["part"] == "rope":
        return Named(x.data.narrow(at, first, count), x.names)
    after = first + count
    sides = (x.data.narrow(at, 0, first), x.data.narrow(at, after, x.data.shape[at] - after))
    return Named(torch.cat([s for s in sides if s.shape[at]] or [sides[0]], at), x.names)


def _along_page(inputs: tuple[Node, ...], attrs: Attrs) -> tuple[Axis, ...]:
    need(inputs, "page")
    radius = attrs.get("radius", 0)
    if isinstance(radius, int) and radius > _MAX_RADIUS:
        raise AxisError("E104", f"a radius is at most {_MAX_RADIUS}", "look less far")
    return inputs[0].axes


def _windows(x: Named, radius: int, fill: float) -> torch.Tensor:
    """Neighbours of every page within the radius, ``[..., page, 2 radius + 1]``, page last."""
    data = x.data.movedim(x.dim("page"), -1)
    return functional.pad(data, (radius, radius), value=fill).unfold(-1, 2 * radius + 1, 1)


def _smooth(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    radius = _int(attrs, "radius")
    x = run.filled(xs[0], "page", 0.0)
    ones = run.filled(Named(torch.ones(x.data.shape[x.dim("page")]), ("page",)), "page", 0.0)
    total, _ = _windows(x, radius, 0.0).sum(-1), None
    count = Named(_windows(ones, radius, 0.0).sum(-1), ones.names)
    moved = tuple(n for n in x.names if n != "page")
    sums = named(total, *moved, "page")
    counted = named(count.data, *(n for n in ones.names if n != "page"), "page")
    (a, b), names = aligned(sums, counted)
    return Named(a / b.clamp(min=1.0), names)


def _dilate(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x = run.filled(xs[0], "page", float("-inf"))
    best = _windows(x, _int(attrs, "radius"), float("-inf")).amax(-1)
    return named(best, *(n for n in x.names if n != "page"), "page")


def _shift(run: Run, xs: tuple[Named, ...], attrs: Attrs) -> Named:
    x, by = xs[0], _int(attrs, "by")
    size = x.data.shape[x.dim("page")]
    index = Named(torch.arange(size, dtype=torch.float32) - by, ("page",))
    last = run.count(x, "page")
    (where, limit), names = aligned(index, last)
    at = Named(torch.minimum(where, limit - 1).clamp(min=0), names)
    return _gathered(x, at, "page")


def _op(name: str, *rest: object, **more: object) -> Op:
    return Op(name, "shape", *rest, **more)  # type: ignore[arg-type]


_RADIUS = (Param("radius", "count", 1),)

SHAPE_OPS = (
    _op("split", 1, _split_axes, _split,
        "Cut an axis into equal runs: the new axis counts the runs, the old keeps the inner "
        "extent.", "x[i * n + j] -> x[i, j]",
        'k.split("token", into=4, name="sub").mean("token")',
        (Param("axis", "axis"), Param("into", "count"), Param("name", "new_axis")),
        method=True, function=False, flops=0.0),
    _op("take", 1, _take_axes, _take,
        "A strided run of an axis, or the entries that a loaded list names; the axis keeps its "
        "name.", "x[first + i * step]", 'k.take("dim", first=2, count=4)',
        (Param("axis", "axis"), Param("first", "count", 0), Param("count", "count"),
         Param("step", "count", 1), Param("indices", "matrix", optional=True)),
        method=True, function=False, flops=0.0),
    _op("top_indices", 1, _top_axes, _top_indices,
        "Positions of the largest entries along an axis, largest first; ties fall to the lower "
        "position.", "argsort(-x)[:count]", 'q.abs().sum("head").top_indices("dim", count=8)',
        (Param("axis", "axis"), Param("count", "count")), method=True, function=False, flops=8.0),
    _op("gather", 2, _gather_axes, _gather,
        "Entries at positions that top_indices() found; other axes align by name.", "x[i]",
        'page.mean.gather(q.abs().sum("head").top_indices("dim", count=8), "dim")',
        AXIS, method=True, function=False),
    _op("stack", 0, _stack_axes, _stack, "Join tensors along a new axis.", "[a, b, ...]",
        'vx.stack(page.mean, page.mean.abs(), name="part")', (Param("name", "new_axis"),),
        variadic=True, flops=0.0),
    _op("rename", 1, _rename_axes, _rename, "Give an axis another name.", "x",
        'page.mean.rename("dim", "chan")', (Param("old", "axis"), Param("new", "new_axis")),
        method=True, function=False, flops=0.0),
    _op("positions", 1, _position_axes, _positions, "0, 1, 2, ... along an axis.", "i",
        'k.positions("dim")', AXIS, method=True, function=False, flops=0.0),
    _op("project", 1, _project_axes, _project,
        "Multiply by a matrix along an axis, which becomes a new one.", "x M",
        'k.project("dim", into=16, name="chan", matrix=vx.random_matrix(seed=1))',
        (Param("axis", "axis"), Param("into", "count"), Param("name", "new_axis"),
         Param("matrix", "matrix")), method=True, function=False, flops=2.0),
    _op("part", 1, _part_axes, _part,
        "The rotary part of a key or query (.rope), or the rest (.nope).", "x[rope]", "q.rope",
        (Param("part", "new_axis"),), function=False, flops=0.0),
    _op("smooth", 1, _along_page, _smooth, "Mean over the pages within a radius.",
        "mean(x[i - r .. i + r])", 'vx.dot(q, page.mean, "dim").smooth(radius=1)', _RADIUS,
        method=True, function=False, flops=3.0, along_page=True),
    _op("dilate", 1, _along_page, _dilate, "Largest over the pages within a radius.",
        "max(x[i - r .. i + r])", 'vx.dot(q, page.mean, "dim").dilate(radius=1)', _RADIUS,
        method=True, function=False, flops=3.0, along_page=True),
    _op("shift", 1, _along_page, _shift,
        "The value of an earlier page (a later one where by < 0); the ends repeat.", "x[i - by]",
        'vx.dot(q, page.mean, "dim").shift(by=1)', (Param("by", "offset", 1),),
        method=True, function=False, along_page=True),
)  # fmt: skip
