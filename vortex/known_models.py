"""Figures of known models, under the names that they have in a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _gqa(**values: int | str | bool) -> dict[str, Any]:
    return {"model_type": "llama", "tie_word_embeddings": False, **values}


_HUB = "config.json of {} on the Hugging Face hub"

# name: (where the figures were read, the figures under their names in config.json)
KNOWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "smollm2-135m": (
        _HUB.format("HuggingFaceTB/SmolLM2-135M-Instruct"),
        _gqa(
            num_hidden_layers=30, hidden_size=576, intermediate_size=1536, num_attention_heads=9,
            num_key_value_heads=3, head_dim=64, vocab_size=49152, max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3-1.7b": (
        _HUB.format("Qwen/Qwen3-1.7B"),
        _gqa(
            num_hidden_layers=28, hidden_size=2048, intermediate_size=6144, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, max_position_embeddings=40960,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3-4b": (
        _HUB.format("Qwen/Qwen3-4B"),
        _gqa(
            num_hidden_layers=36, hidden_size=2560, intermediate_size=9728, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, max_position_embeddings=40960,
            tie_word_embeddings=True,
        ),
    ),
    "llama-3.1-8b": (
        _HUB.format("meta-llama/Llama-3.1-8B (read from NbAiLab/nb-llama-3.1-8B, tuned from it)"),
        _gqa(
            num_hidden_layers=32, hidden_size=4096, intermediate_size=14336,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
            max_position_embeddings=131072,
        ),
    ),
    "glm-4.7-flash": (
        _HUB.format("zai-org/GLM-4.7-Flash (read from copies of it)"),
        {
            "model_type": "glm4_moe_lite", "num_hidden_layers": 47, "hidden_size": 2048,
            "intermediate_size": 10240, "moe_intermediate_size": 1536, "num_attention_heads": 20,
            "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64,
            "n_shared_experts": 1, "num_experts_per_tok": 4, "first_k_dense_replace": 1,
            "vocab_size": 154880, "max_position_embeddings": 202752, "tie_word_embeddings": False,
        },
    ),
    "minimax-m2.7": (
        _HUB.format("MiniMaxAI/MiniMax-M2.7 (read from a copy; equal to M2 but for the context)"),
        _gqa(
            model_type="minimax_m2", num_hidden_layers=62, hidden_size=3072,
            intermediate_size=1536, num_attention_heads=48, num_key_value_heads=8, head_dim=128,
            num_local_experts=256, num_experts_per_tok=8, vocab_size=200064,
            max_position_embeddings=204800, rotary_dim=64,
        )
        | {"quantization_config": {"quant_method": "fp8"}},
    ),
}  # fmt: skip
