"""A model folder of a known shape without weights: enough for an engine that draws random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vortex.known_models import KNOWN

SPARE = 64  # tokens of context beyond prompt and reply, as a tokenizer's own first one
_MARGIN = 256  # tokens beyond what is asked for
_COMMON: Mapping[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "rope_scaling": None, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# What engines read besides the shape, by model_type: the kind of routing decides what runs.
_MORE: Mapping[str, Mapping[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "glm4_moe_lite": {
        "architectures": ["Glm4MoeLiteForCausalLM"], "topk_method": "noaux_tc",
        "norm_topk_prob": True, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.8,
        "partial_rotary_factor": 1.0, "num_nextn_predict_layers": 1, "num_key_value_heads": 20,
    },
    "minimax_m2": {
        "architectures": ["MiniMaxM2ForCausalLM"], "scoring_func": "sigmoid",
        "use_routing_bias": True, "use_qk_norm": True, "qk_norm_type": "per_layer",
        "partial_rotary_factor": 0.5, "shared_intermediate_size": 0,
    },
}  # fmt: skip


def shape_folder(name: str, folder: Path, longest: int, *, layers: int | None = None) -> Path:
    """Write a config.json of a known model's shape, bf16; timing only, since norms and the like are
    guessed.

    Args:
        name: of the model, see ``vortex.geometry.GEOMETRIES``.
        longest: tokens of the longest sequence.
        layers: the first so many of them, where the whole model does not fit.
    """
    figures = dict(KNOWN[name][1])
    figures.pop("quantization_config", None)
    if name.startswith("qwen3"):
        figures["model_type"] = "qwen3"
    config = {**_COMMON, **_MORE[figures["model_type"]], **figures}
    config["max_position_embeddings"] = max(figures["max_position_embeddings"], longest + _MARGIN)
    config["num_hidden_layers"] = layers or figures["num_hidden_layers"]
    if config["model_type"] == "minimax_m2":
        config["attn_type_list"] = [1] * config["num_hidden_layers"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def context_for(needed: int, longest: int) -> int | None:
    """The engine's context length for sequences of ``needed`` tokens; None for the model's own.

    A kernel's tile covers the longest sequence allowed: no more of it than is asked for.

    Args:
        longest: what the model's configuration says; an engine may stretch it.
    """
    return needed + SPARE if needed + SPARE < longest else None
