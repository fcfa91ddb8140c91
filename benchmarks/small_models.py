"""Folders of small models with random weights, whose attention is neither flat nor one token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_COMMON: Mapping[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "torch_dtype": "bfloat16", "max_position_embeddings": 40960, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_GQA = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
_MLA = {
    "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite",
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 128, "first_k_dense_replace": 4,  # no layer has experts
    "topk_method": "noaux_tc", "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.8, "partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0,
    "rope_scaling": None,
}  # fmt: skip
_SMALL = {
    "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 32768,
}  # fmt: skip
_TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "vocab_size": 512}
_LATENT = {"qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "gqa": {
        **_GQA, **_SMALL, "head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 8,
    },
    "gqa-tiny": {
        **_GQA, **_TINY, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "mla": {
        **_MLA, **_SMALL, **_LATENT, "num_attention_heads": 16, "num_key_value_heads": 16,
        "q_lora_rank": 768, "kv_lora_rank": 512,
    },
}  # fmt: skip


def model_folder(folder: Path, shape: str, *, device: str) -> Path:
    """Write a Hugging Face folder of a shape, bf16.

    Args:
        shape: of ``SHAPES``.
        device: where weights are drawn.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {**_COMMON, **SHAPES[shape]}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(_weights(config, device)), folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    return folder


def _weights(config: Mapping[str, Any], device: str) -> Iterator[tuple[str, Tensor]]:
    import torch

    g = torch.Generator(device=device).manual_seed(0)

    def drawn(rows: int, columns: int, spread: float = 1.0) -> Tensor:
        x = torch.randn(rows, columns, generator=g, device=device)
        return (x * spread * columns**-0.5).to(torch.bfloat16).cpu()

    def even(wide: int, value: float = 1.0) -> Tensor:
        return torch.full((wide,), value, dtype=torch.bfloat16)

    wide, inner = config["hidden_size"], config["intermediate_size"]
    yield "model.embed_tokens.weight", drawn(config["vocab_size"], wide, wide**0.5)
    yield "lm_head.weight", drawn(config["vocab_size"], wide, 3.0)
    yield "model.norm.weight", even(wide)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        attention = _latent if "kv_lora_rank" in config else _grouped
        for name, tensor in attention(config, drawn, even):
            yield f"{at}.self_attn.{name}.weight", tensor
        yield f"{at}.mlp.gate_proj.weight", drawn(inner, wide)
        yield f"{at}.mlp.up_proj.weight", drawn(inner, wide)
        yield f"{at}.mlp.down_proj.weight", drawn(wide, inner)
        yield f"{at}.input_layernorm.weight", even(wide)
        yield f"{at}.post_attention_layernorm.weight", even(wide)


def _grouped(config: Mapping[str, Any], drawn: Any, even: Any) -> Iterator[tuple[str, Tensor]]:
    wide, dim = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    yield "q_proj", drawn(q, wide)
    yield "k_proj", drawn(kv, wide)
    yield "v_proj", drawn(kv, wide)
    yield "o_proj", drawn(wide, q, 2.0)
    yield "q_norm", even(dim, 1.5)  # logits of spread 2.25
    yield "k_norm", even(dim, 1.5)


def _latent(config: Mapping[str, Any], drawn: Any, even: Any) -> Iterator[tuple[str, Tensor]]:
    wide, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, value = (config[n] for n in _LATENT)
    rank, latent = config["q_lora_rank"], config["kv_lora_rank"]
    yield "q_a_proj", drawn(rank, wide)
    yield "q_a_layernorm", even(rank)
    yield "q_b_proj", drawn(heads * (nope + rope), rank, 2.25)
    yield "kv_a_proj_with_mqa", drawn(latent + rope, wide)
    yield "kv_a_layernorm", even(latent)
    yield "kv_b_proj", drawn(heads * (nope + value), latent)
    yield "o_proj", drawn(wide, heads * value, 2.0)
