"""Reads a GGUF file of the Llama or Qwen kind: weights dequantised to float32, its tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from evals.models.tokenizers_gguf import build
from evals.models.transformer import Layer, ModelSpec, Transformer, Weights
from vortex.errors import VortexError

_KNOWN = ("llama", "qwen2", "qwen3")


def load_gguf(path: Path, *, name: str | None = None) -> Transformer:
    """The model of a GGUF file.

    Raises:
        VortexError: E403, the file is not GGUF or not of a kind that we run.
    """
    try:
        reader = GGUFReader(str(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise VortexError(
            f"{path} is not a readable GGUF file: {error}", code="E403",
            hint="name a .gguf file, a Hugging Face folder, or a model that 'models' lists",
        ) from None  # fmt: skip
    spec = _spec(reader, path, name)
    weights = _weights(reader, spec)
    meta = {k: reader.fields[f"tokenizer.ggml.{k}"].contents() for k in
            ("tokens", "token_type", "merges", "pre")}  # fmt: skip
    tokenizer = build(meta["tokens"], meta["token_type"], meta["merges"], meta["pre"])
    return Transformer(spec, weights, tokenizer)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _spec(reader: GGUFReader, path: Path, name: str | None) -> ModelSpec:
    kind = _field(reader, "general.architecture")
    if kind not in _KNOWN:
        raise VortexError(
            f"{path} holds a '{kind}' model", code="E403", hint=f"supported: {', '.join(_KNOWN)}"
        )
    heads = int(_field(reader, f"{kind}.attention.head_count"))
    hidden = int(_field(reader, f"{kind}.embedding_length"))
    key = f"{kind}.attention.key_length"
    return ModelSpec(
        name=name or str(_field(reader, "general.name", path.stem)),
        layers=int(_field(reader, f"{kind}.block_count")),
        hidden=hidden,
        heads=heads,
        kv_heads=int(_field(reader, f"{kind}.attention.head_count_kv", heads)),
        head_dim=int(_field(reader, key, hidden // heads)),
        vocab=len(reader.fields["tokenizer.ggml.tokens"].data),
        max_context=int(_field(reader, f"{kind}.context_length")),
        rope_theta=float(_field(reader, f"{kind}.rope.freq_base", 10000.0)),
        rope_scaling=None,
        norm_eps=float(_field(reader, f"{kind}.attention.layer_norm_rms_epsilon")),
        digest=file_digest(path),
        source=f"GGUF file {path.name}",
    )


def _field(reader: GGUFReader, name: str, default: Any = None) -> Any:
    field = reader.fields.get(name)
    if field is None:
        if default is None:
            raise VortexError(
                f"the GGUF file lacks '{name}'", code="E403", hint="is the file complete?"
            )
        return default
    return field.contents()


def _weights(reader: GGUFReader, spec: ModelSpec) -> Weights:
    raw = {t.name: t for t in reader.tensors}
    permuted = _field(reader, "general.architecture") == "llama"

    def read(name: str) -> Tensor:
        if name not in raw:
            raise VortexError(
                f"the GGUF file lacks tensor '{name}'", code="E403", hint="is the file complete?"
            )
        tensor = raw[name]
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))

    def optional(name: str) -> Tensor | None:
        return read(name) if name in raw else None

    def layer(i: int) -> Layer:
        b = f"blk.{i}"
        q, k = read(f"{b}.attn_q.weight"), read(f"{b}.attn_k.weight")
        if permuted:
            q, k = _unpermuted(q, spec.heads), _unpermuted(k, spec.kv_heads)
        biases = [optional(f"{b}.attn_{x}.bias") for x in "qkv"]
        return Layer(
            attn_norm=read(f"{b}.attn_norm.weight"),
            qkv=torch.cat([q, k, read(f"{b}.attn_v.weight")]),
            qkv_bias=torch.cat([x for x in biases if x is not None]) if biases[0] is not None
            else None,
            q_norm=optional(f"{b}.attn_q_norm.weight"),
            k_norm=optional(f"{b}.attn_k_norm.weight"),
            out=read(f"{b}.attn_output.weight"),
            mlp_norm=read(f"{b}.ffn_norm.weight"),
            gate_up=torch.cat([read(f"{b}.ffn_gate.weight"), read(f"{b}.ffn_up.weight")]),
            down=read(f"{b}.ffn_down.weight"),
        )  # fmt: skip

    embedding = read("token_embd.weight")
    return Weights(
        embedding=embedding,
        layers=tuple(layer(i) for i in range(spec.layers)),
        norm=read("output_norm.weight"),
        head=read("output.weight") if "output.weight" in raw else embedding,
    )


def _unpermuted(weight: Tensor, heads: int) -> Tensor:
    """Undo the interleaving of rotary pairs that Llama files carry: pairs to halves."""
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
