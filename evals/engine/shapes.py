"""A model folder of a known shape without weights: enough for an engine that draws random ones."""

from __future__ import annotations

import json
from pathlib import Path

from vortex.errors import VortexError
from vortex.geometry import Geometry

_MARGIN = 256  # tokens beyond what is asked for


def shape_folder(shape: Geometry, folder: Path, longest: int) -> Path:
    """Write a config.json of the shape; timing only, since norms and the like are guessed.

    Args:
        longest: tokens of the longest sequence.

    Raises:
        VortexError: E906, the shape has experts or a latent cache: its own config.json is needed.
    """
    if shape.kind != "gqa" or shape.experts is not None:
        raise VortexError(
            f"the shape of {shape.name} alone does not say enough to run it", code="E906",
            hint="--model FOLDER with the model's own config.json",
        )  # fmt: skip
    qwen = shape.name.startswith("qwen3")
    config = {
        "architectures": ["Qwen3ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen3" if qwen else "llama", "hidden_act": "silu", "attention_bias": False,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "torch_dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": shape.embedding_bytes == 0,
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": max(shape.max_context, longest + _MARGIN),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
