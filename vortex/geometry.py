"""Shapes of served models, by name and from a Hugging Face config.json."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vortex.errors import VortexError
from vortex.known_models import KNOWN
from vortex.workload import KV_BYTES, Workload

__all__ = [
    "GEOMETRIES",
    "Experts",
    "Geometry",
    "Workload",
    "from_config",
    "from_values",
    "geometry",
]

_GQA_KINDS = ("llama", "qwen2", "qwen3", "qwen3_moe", "minimax_m2")
_MLA_KINDS = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of a mixture.

    Attributes:
        layers: layers that have them.
        count, active: experts of a layer, and how many a token uses.
        parameters: weights of one expert.
        bytes_each: bytes of one expert.
    """

    layers: int
    count: int
    active: int
    parameters: int
    bytes_each: int

    def read(self, batch: int) -> float:
        """Expected distinct experts of a layer that a batch reads: E (1 - (1 - a/E)^B).

        Tokens are taken to choose independently and evenly, which is the most that they read.
        """
        return self.count * (1.0 - (1.0 - self.active / self.count) ** batch)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shapes of a served model that decide what decoding costs.

    Attributes:
        kind: ``gqa`` (keys and values per KV head) or ``mla`` (one shared latent).
        heads, kv_heads: query heads, and heads of the KV cache (1 on MLA).
        head_dim: width of a query head (before it is absorbed, on MLA).
        kv_lora_rank: of the MLA latent; 0 on GQA.
        rope_dim: rotary columns of a key, the last on MLA, the first on GQA, where 0 means all.
        dense_parameters, dense_bytes: weights that every decode step reads, experts apart.
        embedding_bytes: input embedding, stored but not read (0 where it is also the output's).
        experts: the mixture, if any.
        weight_dtype: storage of the linear layers.
        source: where the figures come from.
    """

    name: str
    kind: Literal["gqa", "mla"]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    kv_lora_rank: int
    rope_dim: int
    vocab: int
    max_context: int
    dense_parameters: int
    dense_bytes: int
    embedding_bytes: int
    experts: Experts | None
    weight_dtype: str
    source: str

    @property
    def dim(self) -> int:
        """Elements of a key as attention sees it: head dim, or latent rank + rope."""
        return self.head_dim if self.kind == "gqa" else self.kv_lora_rank + self.rope_dim

    @property
    def vdim(self) -> int:
        """Elements of a value: head dim, or the latent's rank."""
        return self.head_dim if self.kind == "gqa" else self.kv_lora_rank

    @property
    def rope(self) -> tuple[int, int]:
        """Rotary columns of a key: the first of them, and how many."""
        if self.kind == "mla":
            return self.kv_lora_rank, self.rope_dim
        return 0, self.rope_dim or self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def intermediate(self) -> int:
        """Width of a layer's MLP, from the counts; grouped queries without experts only."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        mlp = self.dense_parameters - self.vocab * self.hidden - self.layers * attention
        return mlp // (3 * self.hidden * self.layers)

    def sizes(self) -> dict[str, int]:
        """Extents of the geometry's axes, for ``Extent.resolve``; ``page``, ``token`` are not."""
        rotary = self.rope[1]
        return {
            "dim": self.dim, "vdim": self.vdim, "head": self.group, "rope": rotary,
            "nope": self.dim - rotary,
        }  # fmt: skip

    def key_bytes(self, kv_dtype: str) -> int:
        """Bytes of one key: a token, a layer, a KV head."""
        return self.dim * KV_BYTES[kv_dtype]

    def kv_bytes(self, kv_dtype: str) -> int:
        """Bytes that attention reads for a token of a layer and KV head.

        Key and value on GQA; on MLA the value is part of the key.
        """
        both = self.dim + self.vdim if self.kind == "gqa" else self.dim
        return both * KV_BYTES[kv_dtype]

    def weight_bytes(self, batch: int) -> float:
        """Expected bytes of weights that one decode step of a batch reads."""
        experts = self.experts
        if experts is None:
            return float(self.dense_bytes)
        return self.dense_bytes + experts.layers * experts.read(batch) * experts.bytes_each

    def weight_bytes_stored(self) -> int:
        """Bytes of all weights."""
        experts = self.experts
        routed = experts.layers * experts.count * experts.bytes_each if experts else 0
        return self.dense_bytes + self.embedding_bytes + routed

    def active_parameters(self) -> int:
        """Weights that one token is multiplied with."""
        experts = self.experts
        routed = experts.layers * experts.active * experts.parameters if experts else 0
        return self.dense_parameters + routed


class _Config:
    """Typed reading of a config.json."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def bad(self, why: str) -> VortexError:
        return VortexError(
            f"{self.where} describes no model that can be priced: {why}",
            code="E404",
            hint=f"model_type must be one of {', '.join((*_GQA_KINDS, *_MLA_KINDS))}",
        )

    def count(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.bad(f"'{key}' is {str(value)[:40]}, not a count")
        return value

    def rotary(self, head_dim: int) -> int:
        """Columns of a head of grouped queries that are rotated; 0: all."""
        try:
            return rotary_columns(self.values, head_dim)
        except (TypeError, ValueError, OverflowError):
            raise self.bad("rotary_dim or partial_rotary_factor is no number") from None

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.count(key, default)
        if value < 1:
            raise self.bad(f"'{key}' is {value}")
        return value


def _attention(config: _Config, mla: bool) -> tuple[int, int]:
    """Weights of one attention layer, and the width of a query head."""
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    if not mla:
        width = config.positive("head_dim", max(1, hidden // heads))
        kv_heads = config.positive("num_key_value_heads", heads)
        if heads % kv_heads:
            raise config.bad(f"{heads} heads do not share {kv_heads} KV heads evenly")
        return 2 * hidden * width * (heads + kv_heads), width
    rank, rope = config.positive("kv_lora_rank"), config.positive("qk_rope_head_dim")
    nope, value = config.positive("qk_nope_head_dim"), config.positive("v_head_dim")
    low = config.count("q_lora_rank", 0)
    query = low * (hidden + heads * (nope + rope)) if low else hidden * heads * (nope + rope)
    latent = hidden * (rank + rope) + rank * heads * (nope + value)
    return query + latent + heads * value * hidden, nope + rope


def _mixture(config: _Config) -> tuple[int, int, int, int, int]:
    """Layers with experts, experts of a layer, active ones, expert width, shared experts."""
    layers = config.positive("num_hidden_layers")
    match config.values["model_type"]:
        case "qwen3_moe":
            width, count = config.positive("moe_intermediate_size"), config.positive("num_experts")
            plain = config.values.get("mlp_only_layers") or []
            if config.count("decoder_sparse_step", 1) != 1 or not isinstance(plain, list):
                raise config.bad("'decoder_sparse_step' other than 1 is not supported")
            sparse, shared = layers - len(plain), 0
        case "minimax_m2":
            width = config.positive("intermediate_size")
            count, sparse, shared = config.positive("num_local_experts"), layers, 0
        case kind if kind in _MLA_KINDS and config.values.get("n_routed_experts"):
            width = config.positive("moe_intermediate_size")
            count, shared = config.positive("n_routed_experts"), config.count("n_shared_experts", 0)
            sparse = layers - config.count("first_k_dense_replace", 0)
        case _:
            return 0, 0, 0, 0, 0
    active = config.positive("num_experts_per_tok")
    if active > count or sparse < 1:
        raise config.bad(f"{active} of {count} experts in {sparse} layers")
    return sparse, count, active, width, shared


def _linear_dtype(config: _Config) -> tuple[str, float]:
    """Storage of the linear layers, and bytes of one weight."""
    quantization = config.values.get("quantization_config")
    if quantization is None:
        dtype = config.values.get("dtype") or config.values.get("torch_dtype") or "bfloat16"
        return ("float32", 4.0) if dtype == "float32" else ("bf16", 2.0)
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    if isinstance(quantization, dict) and quantization.get("quant_method") == "fp8":
        return "fp8", 1.0
    if bits in (2, 3, 4, 6, 8):
        return f"int{bits}", bits / 8
    raise config.bad("its 'quantization_config' is not understood")


def from_values(values: Mapping[str, Any], *, name: str, source: str, where: str) -> Geometry:
    """A geometry from the values of a config.json.

    Weights are counted from the shapes; norms and biases (below 0.1%) are left out. Router, input
    embedding and output layer are bf16 whatever the linear layers are stored as.

    Raises:
        VortexError: E404, the values describe no supported model.
    """
    config = _Config(values, where)
    kind = values.get("model_type")
    if kind not in (*_GQA_KINDS, *_MLA_KINDS):
        raise config.bad(f"its model_type is {str(kind)[:40]!r}")
    if values.get("use_sliding_window"):
        raise config.bad("sliding-window layers are not supported")
    mla = kind in _MLA_KINDS
    layers, hidden = config.positive("num_hidden_layers"), config.positive("hidden_size")
    heads, vocab = config.positive("num_attention_heads"), config.positive("vocab_size")
    attention, head_dim = _attention(config, mla)
    sparse, count, active, width, shared = _mixture(config)
    dtype, size = _linear_dtype(config)
    mlp = 3 * hidden * config.positive("intermediate_size") if sparse < layers else 0
    linear = layers * attention + (layers - sparse) * mlp + sparse * shared * 3 * hidden * width
    other = vocab * hidden + sparse * hidden * count
    expert = 3 * hidden * width
    return Geometry(
        name=name,
        kind="mla" if mla else "gqa",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=1 if mla else config.positive("num_key_value_heads", heads),
        head_dim=head_dim,
        kv_lora_rank=config.positive("kv_lora_rank") if mla else 0,
        rope_dim=config.positive("qk_rope_head_dim") if mla else config.rotary(head_dim),
        vocab=vocab,
        max_context=config.positive("max_position_embeddings"),
        dense_parameters=linear + other,
        dense_bytes=int(linear * size) + 2 * other,
        embedding_bytes=0 if values.get("tie_word_embeddings") else 2 * vocab * hidden,
        experts=Experts(sparse, count, active, expert, int(expert * size)) if sparse else None,
        weight_dtype=dtype,
        source=source,
    )


def rotary_columns(config: Mapping[str, Any], head_dim: int) -> int:
    """Columns of a head that a model of grouped queries rotates; 0: all.

    Args:
        config: of a checkpoint; ``rotary_dim`` or ``partial_rotary_factor`` says it.

    Raises:
        TypeError, ValueError, OverflowError: what says it is no number.
    """
    newer = config.get("rope_parameters")
    share = config.get("partial_rotary_factor") or (
        newer.get("partial_rotary_factor") if isinstance(newer, dict) else None
    )
    count = int(config.get("rotary_dim") or float(share or 0) * head_dim)
    return count if 0 < count < head_dim else 0


def from_config(path: Path) -> Geometry:
    """The geometry of a checkpoint: its config.json, or the folder that holds it.

    Raises:
        VortexError: E404, it cannot be read or describes no supported model.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise VortexError(
            f"cannot read {file}: {reason}",
            code="E404",
            hint="give the folder of a Hugging Face checkpoint, or its config.json",
        ) from None
    if not isinstance(values, dict):
        raise _Config({}, str(file)).bad("it is not an object")
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return from_values(values, name=name, source=str(file), where=str(file))


GEOMETRIES: Mapping[str, Geometry] = {
    name: from_values(values, name=name, source=source, where=name)
    for name, (source, values) in KNOWN.items()
}


def geometry(name_or_path: str) -> Geometry:
    """The geometry of a known model, or of a checkpoint on this machine.

    Example:
        >>> geometry("glm-4.7-flash").kind
        'mla'

    Raises:
        VortexError: E401, neither a known name nor a path; E404, a path that is no model.
    """
    known = GEOMETRIES.get(name_or_path.lower())
    if known is not None:
        return known
    path = os.path.expanduser(name_or_path)
    if os.path.exists(path):
        return from_config(Path(path))
    near = difflib.get_close_matches(name_or_path.lower(), GEOMETRIES, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise VortexError(
        f"unknown model '{name_or_path[:80]}'",
        code="E401",
        hint=f"{guess}known: {', '.join(GEOMETRIES)}; or the path of a checkpoint",
    )
