"""A model with grouped queries as multi-head latent attention, its unrotated keys in the latent.

The rotary pairs of the lowest frequencies are left unrotated; what they hold of the keys and all of
the values come from one latent per token (DeepSeek-V2, arXiv:2405.04434, section 2.1), by a
low-rank factorisation. The other pairs are the shared rotary part. The loss that this costs is
measured when the factors are fitted (:mod:`evals.models.fit`) and kept with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evals.models.gguf_file import file_digest
from evals.models.transformer import Attend, CacheShape, ModelSpec, Transformer
from vortex.errors import VortexError

# Chosen by measurement (docs/decisions.md); factors fitted with other choices are fitted anew.
STILL, RANK, KEY_WEIGHT = 6, 208, 3.0
FORMAT = f"1: {STILL} pairs still, rank {RANK}, keys weigh {KEY_WEIGHT}"


@dataclass(frozen=True, slots=True)
class Factors:
    """A low-rank map through which unrotated keys and values pass.

    Attributes:
        still: unrotated rotary pairs of each head, those of the lowest frequencies.
        down: float32 ``[layer, rank, parts]``: a token's parts (see :func:`parts_of`) to latent.
        up: float32 ``[layer, parts, rank]``: back to the parts.
    """

    still: int
    down: Tensor
    up: Tensor


def split_columns(spec: ModelSpec, still: int) -> tuple[Tensor, Tensor]:
    """Columns of a head's key that are left unrotated, and those that are rotated."""
    pairs = spec.head_dim // 2
    pair = torch.arange(pairs)
    quiet, loud = pair[pairs - still :], pair[: pairs - still]
    return torch.cat([quiet, quiet + pairs]), torch.cat([loud, loud + pairs])


def parts_of(k: Tensor, v: Tensor, columns: Tensor) -> Tensor:
    """The unrotated key columns of all KV heads, then their values: ``[row, step, parts]``."""
    return torch.cat([k[..., columns].flatten(2), v.flatten(2)], -1)


class FactoredMla(Transformer):
    """A model whose attention algorithms see one KV head: keys are latent, then rotary part.

    The absorbed query is zero in the rotary parts of KV heads that are not its own; a head's output
    is its KV head's share of the attended latent.

    Args:
        base: a model with grouped queries.
        digest: identifies base and factors.
    """

    def __init__(self, base: Transformer, factors: Factors, *, name: str, digest: str) -> None:
        spec, still = base.spec, factors.still
        rank = factors.down.shape[1]
        rotary = 2 * (spec.head_dim // 2 - still) * spec.kv_heads
        cache = CacheShape(1, rank + rotary, rank, rope=(rank, rotary), shared=True)
        spec = replace(
            spec, name=name, digest=digest, latent=cache,
            source=f"{spec.source}; keys and values factored, rank {rank}",
        )  # fmt: skip
        super().__init__(spec, base.weights, base.tokenizer, still=still)
        self._quiet, self._loud = split_columns(spec, still)
        self._down, self._rotary = factors.down, rotary
        keys, values = torch.split(
            factors.up, [2 * still * spec.kv_heads, spec.head_dim * spec.kv_heads], 1
        )
        own = torch.arange(spec.heads) // (spec.heads // spec.kv_heads)
        layers = spec.layers
        # One matrix for each query head: that of its KV head.
        self._up_k = keys.reshape(layers, spec.kv_heads, -1, rank)[:, own]
        self._up_v = values.reshape(layers, spec.kv_heads, -1, rank)[:, own]
        self._own = own

    def to(self, device: torch.device) -> None:
        """Move the factors too."""
        super().to(device)
        for name in ("_quiet", "_loud", "_down", "_up_k", "_up_v", "_own"):
            setattr(self, name, getattr(self, name).to(device))

    def _attend(self, index: int, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        spec, (rows, steps) = self.spec, q.shape[:2]
        latent = parts_of(k, v, self._quiet) @ self._down[index].T
        key = torch.cat([latent, k[..., self._loud].flatten(2)], -1)[:, :, None]
        absorbed = torch.einsum("bthd,hdr->bthr", q[..., self._quiet], self._up_k[index])
        turned = q.new_zeros(rows, steps, spec.heads, spec.kv_heads, len(self._loud))
        turned[:, :, torch.arange(spec.heads, device=q.device), self._own] = q[..., self._loud]
        query = torch.cat([absorbed, turned.flatten(3)], -1)
        out = attend(index, query, key, latent[:, :, None])
        return torch.einsum("bthr,hdr->bthd", out, self._up_v[index])


def read_factors(path: Path, base: ModelSpec) -> tuple[Factors, str]:
    """Factors from disk, and the digest of the model that they make of the base.

    Raises:
        VortexError: E412, there are none that fit.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
            down, up = file.get_tensor("down"), file.get_tensor("up")
    except (OSError, SafetensorError) as error:
        raise _unfit(path, str(error)) from None
    if facts.get("format") != FORMAT or facts.get("base") != base.digest:
        raise _unfit(path, "they are for another model or of another format")
    return Factors(int(facts["still"]), down, up), f"{file_digest(path)[:32]}{base.digest[:32]}"


def _unfit(path: Path, why: str) -> VortexError:
    return VortexError(
        f"{path} does not hold the factors of the MLA form: {why}",
        code="E412",
        hint=f"fit them again: vortex-search models fetch {path.stem}",
    )


def loss_note(path: Path) -> str:
    """What the factors cost, as measured when they were fitted; '' where they are not."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts: Mapping[str, str] = file.metadata() or {}
    except (OSError, SafetensorError):
        return ""
    if not {"loss", "loss_error", "measured_on"} <= set(facts):
        return ""
    return (
        f"loss against the original {float(facts['loss']):+.2f} ± "
        f"{float(facts['loss_error']):.2f} nats a token on {facts['measured_on']}"
    )
