"""Which pages a request has, and which are complete: tensors only, on any device.

A pool of the engine is one run of token slots. A *program page* is ``size`` of them; its physical
number is ``slot // size``. The engine's pages are multiples of that, so the slots of a program page
always lie together, and its first slot tells the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.errors import ExitCode, VortexError
from vortex.ir import Candidate, Node
from vortex.plan import Scaling, floor_pages, plan_of


def paged(buffer: Tensor, size: int) -> Tensor:
    """A pool's slots ``[slot, kv_head, dim]`` seen as ``[page, kv_head, token, dim]``; no copy."""
    whole = buffer.shape[0] // size * size
    return buffer[:whole].view(-1, size, *buffer.shape[1:]).transpose(1, 2)


def fill_table(
    req_to_token: Tensor, requests: Tensor, seq_lens: Tensor, size: int, table: Tensor,
    lengths: Tensor,
) -> None:  # fmt: skip
    """Snapshot of physical pages and lengths of a batch, into static memory.

    What lies beyond a request's length is stale, but a page of the pool.

    Args:
        req_to_token: int32 ``[request, position]``, token slots.
        requests: ``[row]``, rows of that.
        seq_lens: ``[row]``, the step's own token included.
        table: int32 ``[row, page]``, written; lengths: int32 ``[row]``, written.
    """
    firsts = req_to_token[:, : table.shape[1] * size : size]
    torch.index_select(firsts, 0, requests, out=table)
    table.bitwise_right_shift_(size.bit_length() - 1)
    lengths.copy_(seq_lens)


def newest_pages(table: Tensor, lengths: Tensor, size: int, page: Tensor, whole: Tensor) -> None:
    """The page that each row's newest token lies in, and ``size`` where that token completes it.

    Args:
        page: int32 ``[row, 1]``, written; whole: int32 ``[row]``, written, 0 where it does not.
    """
    last = torch.div(lengths - 1, size, rounding_mode="floor").to(torch.int64)
    torch.gather(table, 1, last[:, None], out=page)
    whole.copy_((lengths % size == 0) * size)


def newest_token(
    req_to_token: Tensor, requests: Tensor, seq_lens: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The same without a table: page ``[row, 1]`` and whole ``[row]``, int32."""
    slots = req_to_token[requests.long(), seq_lens.long() - 1]
    whole = ((seq_lens % size == 0) * size).to(torch.int32)
    return (slots >> (size.bit_length() - 1))[:, None], whole


@dataclass(frozen=True, slots=True)
class Turns:
    """When requests rank, where one ranking serves several steps.

    Steps are counted from a request's last prefill, or from the last step that attended to
    everything: after either, there is no ranking to go on with. What a ranking picked is kept under
    the request's row of ``req_to_token``, as logical pages, so that the engine may move its pages.

    Attributes:
        every: steps that a ranking serves.
        first: int32 ``[request]``, the length of the sequence in the step that ranked first.
    """

    every: int
    first: Tensor

    @staticmethod
    def of(every: int, requests: int, device: torch.device) -> Turns:
        """Of so many requests."""
        return Turns(every, torch.zeros(requests, dtype=torch.int32, device=device))

    def restart(self, requests: Tensor, seq_lens: Tensor) -> None:
        """The next step of these requests, which have so many tokens now, ranks."""
        self.first[requests.long()] = (seq_lens + 1).to(torch.int32)

    def step(self, requests: Tensor, seq_lens: Tensor, slots: Tensor, ranks: Tensor) -> None:
        """Say of each row where its picks are kept, and whether it ranks; into static memory.

        Args:
            slots: int32 ``[row]``, written; ranks: int32 ``[row]``, written.
        """
        slots.copy_(requests)
        ranks.copy_((seq_lens - self.first[requests.long()]) % self.every == 0)


def completed_offsets(prefixes: Sequence[int], extends: Sequence[int], size: int) -> list[int]:
    """Places, in the flat list of a prefill's tokens, of those that complete a page.

    Args:
        prefixes: tokens of each request that are in the cache already.
        extends: tokens of each request that this prefill adds.
    """
    found: list[int] = []
    start = 0
    for prefix, extend in zip(prefixes, extends, strict=True):
        first = size - 1 - prefix % size
        found += range(start + first, start + extend, size)
        start += extend
    return found


def completed_pages(slots: Tensor, offsets: Sequence[int], size: int) -> Tensor:
    """Physical pages, int32 ``[page, 1]``, whose last tokens were put at those places of
    ``slots``; read on the device, without waiting for it."""
    places = torch.tensor(offsets, dtype=torch.int64)
    if slots.is_cuda:
        places = places.pin_memory().to(slots.device, non_blocking=True)
    return torch.div(slots[places], size, rounding_mode="floor").to(torch.int32)[:, None]


def covered_tokens(candidate: Candidate) -> int:
    """The longest sequence of which the program surely selects every page; 0: none is sure.

    Where a ranking serves several steps none is: a page that was reserved when it was made, and is
    no longer, was not picked.
    """
    return 0 if candidate.policies.reuse_steps > 1 else budget_tokens(candidate)


def budget_tokens(candidate: Candidate) -> int:
    """The longest sequence of which a ranking surely picks every page; 0: none is sure.

    Only ``top_k`` with a plain number as its budget is sure: it keeps as many as it may.
    """
    plan, size = plan_of(candidate.select), candidate.page_size
    least = floor_pages(plan, Scaling(size, 1.0))

    def pages(node: Node) -> int:
        if node.op == "union":
            return max(pages(n) for n in node.inputs)
        if node.op == "top_k" and node.inputs[-1].op == "const":
            value = node.inputs[-1].attr("value")
            assert isinstance(value, int | float)
            return max(int(value) // size, least)
        return 0

    return pages(plan.tree) * size


def rank_heads(
    heads: int, kv_heads: int, ranks: int, *, latent: bool, shared: bool
) -> tuple[int, int]:
    """Query heads of a KV head, and KV heads of one rank, under tensor parallelism.

    A program's ``head`` axis is all query heads of a KV head: they must be on one rank.

    Args:
        shared: one page list serves all KV heads of a layer.

    Raises:
        VortexError: E806, ranks would each see a part of what the program reads.
    """
    why = ""
    if latent and ranks > 1:
        why = "MLA has one KV head, and its query heads would be split"
    elif ranks > 1 and shared:
        why = "the program joins scores of all KV heads of a layer (per_head)"
    elif kv_heads % ranks or heads % kv_heads:
        why = f"{kv_heads} KV heads are not divided by {ranks} ranks"
    if why:
        raise VortexError(
            f"tensor parallelism over {ranks} ranks is not supported here: {why}", code="E806",
            hint="use fewer ranks, or replicas of the server", exit_code=ExitCode.ENVIRONMENT,
        )  # fmt: skip
    return heads // kv_heads, kv_heads // ranks
