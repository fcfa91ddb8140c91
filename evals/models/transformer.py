"""A decoder of the Llama and Qwen kind in plain PyTorch, its attention left to the caller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Tokenizer(Protocol):
    """What the tasks need of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


class Attend(Protocol):
    """An attention algorithm: dense, sparse, paged.

    Gets ``q [batch, time, heads, key_dim]`` after RoPE and unscaled, and ``k [batch, time,
    kv_heads, key_dim]``, ``v [batch, time, kv_heads, value_dim]`` of the new tokens; returns
    ``[batch, time, heads, value_dim]``. Widths and KV heads are those of :class:`CacheShape`; query
    head h belongs to KV head ``h // (heads // kv_heads)``.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one layer."""
        ...


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A KV cache as attention sees it: ``[layer, parts, kv_head, token, key_dim]``.

    Attributes:
        rope: rotary columns of a key, first and count; None: all (GQA).
        shared: values are the first ``value_dim`` columns of the keys (MLA), and not stored again.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    rope: tuple[int, int] | None = None
    shared: bool = False

    @property
    def parts(self) -> int:
        """Tensors that are stored for a token: keys, and values unless they are shared."""
        return 1 if self.shared else 2

    def split(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a cache, ``[layer, kv_head, token, dim]`` each; views of it."""
        return kv[:, 0], kv[:, -1, ..., : self.value_dim]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shapes and provenance of a loaded model; ``latent`` is the cache of one in MLA form."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    rope_theta: float
    rope_scaling: Mapping[str, float] | None
    norm_eps: float
    digest: str
    source: str
    latent: CacheShape | None = None

    @property
    def cache(self) -> CacheShape:
        """What attention sees of the KV cache."""
        return self.latent or CacheShape(self.kv_heads, self.head_dim, self.head_dim)

    @property
    def scale(self) -> float:
        """Softmax scale."""
        return float(self.head_dim**-0.5)


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one block, float32; ``qkv`` and ``gate_up`` are stacked for one product each."""

    attn_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model; ``head`` is the embedding itself when they are tied."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor


class Transformer:
    """A loaded model.

    Args:
        still: rotary pairs, those of the lowest frequencies, that are left unrotated.

    Attributes:
        spec, tokenizer, weights: what it was loaded with.
    """

    def __init__(
        self, spec: ModelSpec, weights: Weights, tokenizer: Tokenizer, *, still: int = 0
    ) -> None:
        self.spec, self.weights, self.tokenizer = spec, weights, tokenizer
        angles = torch.outer(torch.arange(spec.max_context).float(), rope_frequencies(spec))
        angles[:, angles.shape[1] - still :] = 0.0
        self._cos, self._sin = angles.cos(), angles.sin()

    def to(self, device: torch.device) -> None:
        """Move everything that :meth:`forward` reads."""
        w = self.weights
        self.weights = Weights(
            w.embedding.to(device), tuple(_moved(layer, device) for layer in w.layers),
            w.norm.to(device), w.head.to(device),
        )  # fmt: skip
        self._cos, self._sin = self._cos.to(device), self._sin.to(device)

    @torch.inference_mode()
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        logits_at: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            tokens, positions: int64 ``[batch, time]``.
            logits_at: bool ``[batch, time]``; None: everywhere.

        Returns:
            float32 ``[n, vocab]``, one row per wanted position in row-major order.
        """
        x = self.weights.embedding[tokens]
        cos, sin = (t[positions][:, :, None] for t in (self._cos, self._sin))
        for index, layer in enumerate(self.weights.layers):
            x = x + self._attention(index, layer, x, cos, sin, attend)
            gate, up = functional.linear(self._norm(x, layer.mlp_norm), layer.gate_up).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        rows = x.flatten(0, 1) if logits_at is None else x[logits_at]
        return functional.linear(self._norm(rows, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.spec.norm_eps)

    def _attention(
        self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        spec = self.spec
        batch, time = x.shape[:2]
        mixed = functional.linear(self._norm(x, layer.attn_norm), layer.qkv, layer.qkv_bias)
        heads = mixed.view(batch, time, spec.heads + 2 * spec.kv_heads, spec.head_dim)
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], 2)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = self._attend(index, _rotated(q, cos, sin), _rotated(k, cos, sin), v, attend)
        return functional.linear(out.reshape(batch, time, -1), layer.out)

    def _attend(self, index: int, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        """Where the model's own heads meet the algorithm; other forms of a cache begin here."""
        return attend(index, q, k, v)


def _moved(layer: Layer, device: torch.device) -> Layer:
    present = {f.name: t for f in fields(layer) if (t := getattr(layer, f.name)) is not None}
    return replace(layer, **{name: tensor.to(device) for name, tensor in present.items()})


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split convention."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rope_frequencies(spec: ModelSpec) -> Tensor:
    """Angle per position of each rotary pair, with Llama 3.1's rescaling where configured
    (low frequencies are divided by ``factor``, with a linear blend between the two bands)."""
    exponent = torch.arange(0, spec.head_dim, 2, dtype=torch.float32) / spec.head_dim
    frequency = spec.rope_theta**-exponent
    if spec.rope_scaling is None:
        return frequency
    s = spec.rope_scaling
    wavelength = 2 * math.pi / frequency
    ratio = s["original_max_position_embeddings"] / wavelength
    blend = (ratio - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    blend = blend.clamp(0, 1)
    return frequency * (blend + (1 - blend) / s["factor"])
