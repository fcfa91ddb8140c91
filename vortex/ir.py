"""The intermediate representation: immutable nodes with named axes, programs, canonical text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vortex.errors import Span, VortexError
from vortex.knobs import Knob, KnobValue

if TYPE_CHECKING:
    from torch import Tensor

HASH_VERSION = 2
AXIS_ORDER = ("page", "head", "token", "dim")


class KnobRef(NamedTuple):
    """An attribute whose value is a knob's."""

    knob: str


class MatrixRef(NamedTuple):
    """An attribute that names numbers: drawn from a seed, or stored in a safetensors file.

    Attributes:
        file, tensor: where they are stored; empty for a drawn one.
        seed: of a drawn one.
        layer: whether the stored tensor has a leading axis of layers.
        digest: of the stored numbers, known once they are loaded.
    """

    file: str = ""
    tensor: str = ""
    seed: int = 0
    layer: bool = False
    digest: str = ""


Attr = int | float | str | bool | KnobRef | MatrixRef


class Extent(NamedTuple):
    """The symbolic size of an axis: ``base`` divided by every one of ``parts``.

    Bases are geometry and page quantities (``page``, ``token``, ``head``, ``dim``, ``vdim``, and
    ``nope`` and ``rope``, the two parts of ``dim``) or ``one`` multiplied by ``parts`` for axes
    that a program makes.
    """

    base: str
    parts: tuple[int | KnobRef, ...] = ()

    def resolve(self, sizes: Mapping[str, int], knobs: Mapping[str, KnobValue]) -> int:
        """The number, given sizes of the bases and values of the knobs.

        Raises:
            VortexError: E203, if a split does not divide its axis; E207, if the axis is an empty
                part of this geometry's keys.
        """
        values = [int(knobs[p.knob]) if isinstance(p, KnobRef) else p for p in self.parts]
        if self.base == "one":
            total = 1
            for value in values:
                total *= value
            return total
        size = sizes[self.base]
        if not size:
            raise VortexError(
                f"this model's keys have no '{self.base}' part",
                code="E207",
                hint="use the whole key, or search for an MLA model",
            )
        for value in values:
            if value < 1 or size % value:
                raise VortexError(
                    f"cannot split an axis of extent {size} into {value} equal parts",
                    code="E203",
                    hint=f"'{self.base}' has extent {sizes[self.base]} here; use a divisor of it",
                )
            size //= value
        return size


class Axis(NamedTuple):
    """A named axis."""

    name: str
    extent: Extent


def canonical_axes(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The axes in canonical order: page, head, token, dim, then the program's own by name."""

    def rank(axis: Axis) -> tuple[int, str]:
        known = axis.name in AXIS_ORDER
        return (AXIS_ORDER.index(axis.name) if known else len(AXIS_ORDER), axis.name)

    return tuple(sorted(axes, key=rank))


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation; two nodes with the same ``key`` compute the same value.

    Build nodes with ``vortex.ops.make``, which applies the op's axis rule.
    """

    op: str
    inputs: tuple[Node, ...]
    attrs: tuple[tuple[str, Attr], ...]
    axes: tuple[Axis, ...]
    span: Span | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.op, [n.key for n in self.inputs], _plain(self.attrs)])
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def attr(self, name: str) -> Attr:
        """The named attribute."""
        return dict(self.attrs)[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The axis names in canonical order."""
        return tuple(a.name for a in self.axes)

    def axis(self, name: str) -> Axis | None:
        """The axis of that name, if any."""
        return next((a for a in self.axes if a.name == name), None)


def extents(node: Node, sizes: Mapping[str, int]) -> list[int]:
    """The extents of a bound node's axes, in their order.

    Raises:
        VortexError: E203 or E207, see :meth:`Extent.resolve`; it has the node's place.
    """
    try:
        return [axis.extent.resolve(sizes, {}) for axis in node.axes]
    except VortexError as error:
        raise error.at(node.span) from None


def walk(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node reachable from the roots once, inputs before users (an explicit stack: programs
    may be deep)."""
    seen: set[str] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node.key not in seen:
            seen.add(node.key)
            stack.append((node, True))
            stack.extend((n, False) for n in reversed(node.inputs))


@dataclass(frozen=True, slots=True)
class Policies:
    """What a program declares beside its methods.

    Attributes:
        dense_first, dense_last: how many first and last layers run full attention.
        reuse_layers, reuse_steps: how many sparse layers and steps one ranking serves.
        shared: how scores are joined over KV heads (``mean``, ``max``, ``sum``); "" keeps them
            apart.
    """

    dense_first: Attr = 0
    dense_last: Attr = 0
    reuse_layers: Attr = 1
    reuse_steps: Attr = 1
    shared: str = ""


@dataclass(frozen=True, slots=True)
class BoundPolicies:
    """Policies whose knobs are bound; see :class:`Policies`."""

    dense_first: int = 0
    dense_last: int = 0
    reuse_layers: int = 1
    reuse_steps: int = 1
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A sparse-attention algorithm, as parsed: knobs are symbolic.

    Attributes:
        fields: what ``summarize`` keeps per page, by name; axes without ``page``.
        dtype: storage type of the fields.
        scores: named outputs of ``score`` over ``page``; a lone one is called ``score``.
        select: tree of selector nodes.
        states: what a page's state is before its first update, by name.
        updates: a state's next value over ``page``, by name.
        source, filename: the text and what messages call it.
        places: where each knob is declared in it.
    """

    name: str
    doc: str
    knobs: Mapping[str, Knob]
    fields: Mapping[str, Node]
    dtype: Attr
    scores: Mapping[str, Node]
    select: Node
    policies: Policies = field(default_factory=Policies)
    states: Mapping[str, Attr] = field(default_factory=dict)
    updates: Mapping[str, Node] = field(default_factory=dict)
    source: str = field(default="", compare=False)
    filename: str = field(default="program", compare=False)
    places: Mapping[str, Span] = field(default_factory=dict, compare=False)

    def roots(self) -> tuple[Node, ...]:
        """Outputs of every graph."""
        return (
            *self.fields.values(), *self.scores.values(), *self.updates.values(), self.select,
        )  # fmt: skip

    def knobs_read(self) -> frozenset[str]:
        """Knobs on which something depends: a graph, an axis, a policy; ``page_size`` always."""
        p = self.policies
        used = [v for n in walk(self.roots()) for _, v in n.attrs]
        used += [part for n in walk(self.roots()) for a in n.axes for part in a.extent.parts]
        used += [self.dtype, p.dense_first, p.dense_last, p.reuse_layers, p.reuse_steps]
        used += self.states.values()
        return frozenset({v.knob for v in used if isinstance(v, KnobRef)} | {"page_size"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program with its knobs bound: every attribute is a plain value.

    Attributes:
        matrices: the stored numbers that it names.
    """

    program: Program
    knobs: Mapping[str, KnobValue]
    page_size: int
    fields: Mapping[str, Node]
    dtype: str
    scores: Mapping[str, Node]
    select: Node
    policies: BoundPolicies
    states: Mapping[str, float]
    updates: Mapping[str, Node]
    matrices: Mapping[MatrixRef, Tensor]
    structure_hash: str
    candidate_hash: str

    @property
    def stateful(self) -> bool:
        """Whether a step's choice depends on the steps before it."""
        return bool(self.states) or self.policies.reuse_steps > 1


def _plain(value: object) -> object:
    """Attributes as JSON-ready data; a knob reference keeps its name."""
    if isinstance(value, KnobRef):
        return {"knob": value.knob}
    if isinstance(value, MatrixRef):
        if value.digest:  # the numbers count, not where they lie
            return {"matrix": value.digest, "layer": value.layer}
        return {"matrix": [value.file, value.tensor, value.seed, value.layer]}
    if isinstance(value, Extent):
        return [value.base, [_plain(p) for p in value.parts]]
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return {"float": value.hex()}
    return value


def graph_text(outputs: Mapping[str, Node]) -> list[object]:
    """A graph as canonical JSON data: nodes in evaluation order, then the outputs by name."""
    order = {node.key: i for i, node in enumerate(walk(outputs.values()))}
    nodes = [
        [n.op, [order[i.key] for i in n.inputs], _plain(n.attrs)] for n in walk(outputs.values())
    ]
    return [nodes, {name: order[node.key] for name, node in sorted(outputs.items())}]


def digest(data: object) -> str:
    """Hash of JSON-ready data, prefixed by the version of the canonical form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return f"v{HASH_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
