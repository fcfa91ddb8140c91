"""Writes a GGUF model as a Hugging Face folder: what inference engines load."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor

from evals.models.fetch import PACKAGED, cached_path
from evals.models.gguf_file import load_gguf
from evals.models.load import load_model
from evals.models.tokenizers_gguf import ByteLevelBPE
from evals.models.transformer import Layer, Transformer
from vortex.errors import VortexError, unwritable

_TYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
_CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip


def gguf_to_folder(name_or_file: str, out: Path, *, dtype: str = "bf16") -> None:
    """Write config.json, tokenizer files and model.safetensors, in one step.

    Args:
        dtype: ``bf16`` or ``float32``; the file's own weights are dequantised either way.

    Raises:
        VortexError: E403 or E410, there is no such model; E809, it is no GGUF model; E607, the
            folder holds something; E604, it cannot be written.
    """
    path = cached_path(name_or_file) if name_or_file in PACKAGED else Path(name_or_file)
    if name_or_file in PACKAGED:
        model = load_model(name_or_file)
    elif path.is_file():
        model = load_gguf(path)
    else:
        raise VortexError(
            f"{name_or_file} is no GGUF model", code="E809",
            hint=f"name a .gguf file, or one of {', '.join(PACKAGED)}",
        )  # fmt: skip
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VortexError(f"{out} is not empty", code="E607", hint="name another folder")
    texts = _texts(model, GGUFReader(str(path)), dtype)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".folder-"))
    except OSError as error:
        raise unwritable(out, error, "name another folder with -o") from None
    try:
        from safetensors.torch import save_file

        for file, content in texts.items():
            (aside / file).write_text(content, encoding="utf-8")
        save_file(_tensors(model, _TYPES[dtype]), aside / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
        (aside / "model.safetensors").chmod(0o644)  # a server may run as another user
        aside.chmod(0o755)
        if out.exists():
            out.rmdir()  # empty
        aside.rename(out)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise unwritable(out, error, "name another folder with -o") from None


def _texts(model: Transformer, reader: GGUFReader, dtype: str) -> dict[str, str]:
    """The JSON files."""
    spec, first = model.spec, model.weights.layers[0]
    kind = "qwen2" if first.qkv_bias is not None else "llama"
    kind = "qwen3" if first.q_norm is not None else kind

    def found(key: str) -> Any:
        field = reader.fields.get(f"tokenizer.{key}")
        return None if field is None else field.contents()

    ids = {end: found(f"ggml.{end}_token_id") for end in ("bos", "eos")}
    tokens = found("ggml.tokens")
    torch_type = "bfloat16" if dtype == "bf16" else "float32"
    config = {
        "architectures": [_CLASSES[kind]], "model_type": kind, "hidden_act": "silu",
        "hidden_size": spec.hidden, "intermediate_size": first.down.shape[1],
        "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "vocab_size": spec.vocab, "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.norm_eps, "rope_theta": spec.rope_theta, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "use_cache": True,
        "tie_word_embeddings": model.weights.head is model.weights.embedding,
        "torch_dtype": torch_type, **{f"{end}_token_id": i for end, i in ids.items()},
    }  # fmt: skip
    named = {f"{end}_token": tokens[i] for end, i in ids.items() if i is not None}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.max_context,
        "clean_up_tokenization_spaces": False, "chat_template": found("chat_template"), **named,
    }  # fmt: skip
    known = model.tokenizer
    assert isinstance(known, ByteLevelBPE)
    generation = {f"{end}_token_id": i for end, i in ids.items() if i is not None}
    return {
        "config.json": json.dumps(config, indent=2) + "\n", "tokenizer.json": known.text(),
        "tokenizer_config.json": json.dumps(
            {k: v for k, v in tokenizer.items() if v is not None}, indent=2
        ) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
    }  # fmt: skip


def _tensors(model: Transformer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by the names that Hugging Face gives them."""
    weights = model.weights
    found = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    if weights.head is not weights.embedding:
        found["lm_head.weight"] = weights.head
    for i, layer in enumerate(weights.layers):
        found |= {f"model.layers.{i}.{n}": t for n, t in _layer(model, layer).items()}
    return {name: tensor.to(dtype).contiguous().clone() for name, tensor in found.items()}


def _layer(model: Transformer, layer: Layer) -> dict[str, Tensor]:
    spec, half = model.spec, layer.gate_up.shape[0] // 2
    heads = [n * spec.head_dim for n in (spec.heads, spec.kv_heads, spec.kv_heads)]
    found = {
        "input_layernorm.weight": layer.attn_norm,
        "post_attention_layernorm.weight": layer.mlp_norm,
        "self_attn.o_proj.weight": layer.out, "mlp.down_proj.weight": layer.down,
        "mlp.gate_proj.weight": layer.gate_up[:half], "mlp.up_proj.weight": layer.gate_up[half:],
    }  # fmt: skip
    for name, part in zip("qkv", torch.split(layer.qkv, heads), strict=True):
        found[f"self_attn.{name}_proj.weight"] = part
    if layer.qkv_bias is not None:
        for name, part in zip("qkv", torch.split(layer.qkv_bias, heads), strict=True):
            found[f"self_attn.{name}_proj.bias"] = part
    for name, norm in (("q_norm", layer.q_norm), ("k_norm", layer.k_norm)):
        if norm is not None:
            found[f"self_attn.{name}.weight"] = norm
    return found
