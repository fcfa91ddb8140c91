"""Whether pages that an engine chose are those that the reference chooses from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vortex.errors import VortexError
from vortex.ir import Candidate
from vortex.reference import Decoder


@dataclass(frozen=True, slots=True)
class Choice:
    """One row's choice in one layer, and what it was made from.

    Attributes:
        q: ``[head, dim]``, unscaled.
        k, v: ``[page, kv_head, token, dim]``, the row's pages in order; on MLA v is columns of k.
        chosen: logical pages of each KV head.
        length: tokens, the step's own included.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    chosen: tuple[frozenset[int], ...]
    length: int
    layer: int
    layers: int
    scale: float
    rope: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How choices compare: lists, pages chosen, pages that differ with scores within rounding of
    the cut, and pages that differ without."""

    lists: int = 0
    pages: int = 0
    near: int = 0
    wrong: int = 0

    def plus(self, other: Agreement) -> Agreement:
        """Both together."""
        return Agreement(
            self.lists + other.lists, self.pages + other.pages, self.near + other.near,
            self.wrong + other.wrong,
        )  # fmt: skip


def compare(
    candidate: Candidate, choice: Choice, *, slack: float = 4e-3, decoder: Decoder | None = None
) -> Agreement:  # fmt: skip
    """Hold a choice against the reference executor.

    Args:
        decoder: that saw the request's steps before, where a program has states.
        slack: rounding, as a share of the largest score: fields are rounded from float32 sums whose
            order differs, and a page of almost the same score may change places with another.
    """
    kv_heads = choice.k.shape[1]
    k, v = (
        x.transpose(0, 1).flatten(1, 2)[:, : choice.length].float() for x in (choice.k, choice.v)
    )
    q = choice.q.float().view(kv_heads, -1, choice.q.shape[-1])
    decoder = decoder or decoder_of(candidate, choice)
    wanted = decoder.pages(choice.layer, q, k, v)
    ranked = decoder.ranked.get(choice.layer, [{} for _ in wanted])
    total = Agreement()
    for got, want, scores in zip(choice.chosen, wanted, ranked, strict=True):
        odd = set(got) ^ want
        near = {p for p in odd if _excused(p, set(got), want, list(scores.values()), slack)}
        total = total.plus(Agreement(1, len(want), len(near), len(odd - near)))
    return total


def decoder_of(candidate: Candidate, choice: Choice) -> Decoder:
    """The reference executor of one layer, which ranks there."""
    decoder = Decoder(
        candidate, scale=choice.scale, context=choice.length, workload_context=choice.length,
        layers=choice.layers, rope=choice.rope,
    )  # fmt: skip
    decoder.anchors = {choice.layer: choice.layer}
    return decoder


def _excused(
    page: int, got: set[int], want: set[int], scores: Sequence[Tensor], slack: float
) -> bool:
    """Whether some page of almost the same score was treated the other way."""
    others = want - got if page in got else got - want
    for score in scores:
        finite = score[torch.isfinite(score)]
        if page >= len(score) or not len(finite):
            continue
        room = slack * max(float(finite.abs().max()), 1e-6)
        if any(p < len(score) and abs(float(score[p] - score[page])) <= room for p in others):
            return True
        cut = [float(score[p]) for p in want if p < len(score)]
        if not others and cut and abs(min(cut) - float(score[page])) <= room:
            return True  # kept by value: top_p, threshold
    return False


def read_choice(path: Path) -> Choice:
    """A file that the engine's tap wrote.

    Raises:
        VortexError: E802, it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            facts, t = (
                stored.metadata() or {},
                {n: stored.get_tensor(n) for n in list(stored.keys())},
            )
        logical = {int(page): i for i, page in enumerate(t["table"])}
        chosen = tuple(
            frozenset(logical[int(p)] for p in row[: int(n)])
            for row, n in zip(t["pages"], t["counts"], strict=True)
        )
        first, count = facts["rope"].split(",")
        return Choice(
            t["q"], t["k"], t["v"], chosen, int(facts["length"]), int(facts["layer"]),
            int(facts["layers"]), float(facts["scale"]), (int(first), int(count)),
        )  # fmt: skip
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise VortexError(
            f"{path} was not written by the tap: {type(error).__name__}: {error}", code="E802",
            hint="see docs/serving.md",
        ) from None  # fmt: skip
