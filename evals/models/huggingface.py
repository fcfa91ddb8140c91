"""Reads a local Hugging Face checkpoint folder of the Llama, Qwen2 or Qwen3 kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer as Fast
from torch import Tensor

from evals.models.tokenizers_gguf import ByteLevelBPE
from evals.models.transformer import Layer, ModelSpec, Transformer, Weights
from vortex.errors import VortexError

_KNOWN = ("llama", "qwen2", "qwen3")


def load_folder(folder: Path) -> Transformer:
    """The model of a folder with ``config.json``, ``*.safetensors`` and ``tokenizer.json``.

    Raises:
        VortexError: E404, a file is missing, damaged, or of a kind that we do not run.
    """
    config = read_config(folder)
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise _not_a_model(folder, "it has no *.safetensors")
    if not (folder / "tokenizer.json").is_file():
        raise _not_a_model(folder, "it has no tokenizer.json")
    try:
        tensors = _tensors(shards)
        fast = Fast.from_file(str(folder / "tokenizer.json"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _not_a_model(folder, str(error)) from None
    spec = _spec(config, folder, shards)
    return Transformer(spec, _weights(tensors, spec, folder), ByteLevelBPE(fast))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint of a kind that we run.

    Raises:
        VortexError: E404.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_a_model(folder, f"config.json: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in _KNOWN:
        raise _not_a_model(folder, f"its model_type is {kind!r}, not one of {', '.join(_KNOWN)}")
    return dict(config)


def _not_a_model(folder: Path, why: str) -> VortexError:
    return VortexError(
        f"{folder} is no checkpoint that can be run: {why}",
        code="E404",
        hint="name a folder with config.json, *.safetensors and tokenizer.json, or a .gguf file",
    )


def _tensors(shards: Sequence[Path]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in shards:
        with safe_open(str(shard), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                found[name] = file.get_tensor(name).to(torch.float32)
    return found


def _spec(config: dict[str, Any], folder: Path, shards: Sequence[Path]) -> ModelSpec:
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise _not_a_model(folder, f"its rope scaling '{kind}' is not supported")
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for shard in shards:
        with shard.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return ModelSpec(
        name=folder.name,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        max_context=config["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)),
        rope_scaling=rope if kind == "llama3" else None,
        norm_eps=config["rms_norm_eps"],
        digest=digest.hexdigest(),
        source=f"checkpoint folder {folder.name}",
    )


def _weights(tensors: dict[str, Tensor], spec: ModelSpec, folder: Path) -> Weights:
    def read(name: str) -> Tensor:
        if name not in tensors:
            raise _not_a_model(folder, f"tensor '{name}' is missing")
        return tensors[name]

    def layer(i: int) -> Layer:
        b = f"model.layers.{i}"
        a, m = f"{b}.self_attn", f"{b}.mlp"
        biases = [tensors.get(f"{a}.{x}_proj.bias") for x in "qkv"]
        return Layer(
            attn_norm=read(f"{b}.input_layernorm.weight"),
            qkv=torch.cat([read(f"{a}.{x}_proj.weight") for x in "qkv"]),
            qkv_bias=torch.cat([x for x in biases if x is not None]) if biases[0] is not None
            else None,
            q_norm=tensors.get(f"{a}.q_norm.weight"),
            k_norm=tensors.get(f"{a}.k_norm.weight"),
            out=read(f"{a}.o_proj.weight"),
            mlp_norm=read(f"{b}.post_attention_layernorm.weight"),
            gate_up=torch.cat([read(f"{m}.gate_proj.weight"), read(f"{m}.up_proj.weight")]),
            down=read(f"{m}.down_proj.weight"),
        )  # fmt: skip

    embedding = read("model.embed_tokens.weight")
    return Weights(
        embedding=embedding,
        layers=tuple(layer(i) for i in range(spec.layers)),
        norm=read("model.norm.weight"),
        head=tensors.get("lm_head.weight", embedding),
    )
