"""Geometries: known models by name, checkpoints by config.json, and what bad ones answer."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vortex.devices import DEVICES, Device, device
from vortex.errors import VortexError
from vortex.geometry import GEOMETRIES, Workload, from_config, geometry, rotary_columns
from vortex.known_models import KNOWN

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}

# Published parameter counts in billions, and bytes of KV per token in bf16 over all layers.
PUBLISHED = {
    "smollm2-135m": (0.135, 2 * 30 * 3 * 64 * 2),
    "qwen3-1.7b": (1.72, 2 * 28 * 8 * 128 * 2),
    "qwen3-4b": (4.02, 2 * 36 * 8 * 128 * 2),
    "llama-3.1-8b": (8.03, 2 * 32 * 8 * 128 * 2),
    "glm-4.7-flash": (30.0, 47 * (512 + 64) * 2),
    "minimax-m2.7": (229.0, 2 * 62 * 8 * 128 * 2),
}


def write(folder: Path, values: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_known_model_has_its_published_size(name: str) -> None:
    model = geometry(name)
    billions, kv = PUBLISHED[name]
    per_weight = 1 if model.weight_dtype == "fp8" else 2
    assert model.weight_bytes_stored() / per_weight == pytest.approx(billions * 1e9, rel=0.02)
    assert model.layers * model.kv_heads * model.kv_bytes("bf16") == kv
    assert model.source


def test_names_ignore_case() -> None:
    assert geometry("GLM-4.7-Flash") is GEOMETRIES["glm-4.7-flash"]


def test_mla_routes_on_the_latent_for_all_heads() -> None:
    assert geometry("glm-4.7-flash").sizes() == {
        "dim": 576, "vdim": 512, "head": 20, "rope": 64, "nope": 512,
    }  # fmt: skip
    assert geometry("glm-4.7-flash").kv_heads == 1


def test_gqa_routes_per_kv_head() -> None:
    assert geometry("qwen3-4b").sizes() == {
        "dim": 128, "vdim": 128, "head": 4, "rope": 128, "nope": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [{"rotary_dim": "half"}, {"rotary_dim": [64]}, {"partial_rotary_factor": "x"},
     {"partial_rotary_factor": float("inf")}, {"rope_parameters": {"partial_rotary_factor": [1]}}],
)  # fmt: skip
def test_rotary_columns_that_are_no_number_are_a_message(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(KNOWN["qwen3-1.7b"][1] | {"model_type": "qwen3"} | bad))
    with pytest.raises(VortexError) as caught:
        from_config(path)
    assert caught.value.code == "E404"


@pytest.mark.parametrize(
    ("config", "columns"),
    [({"rotary_dim": 64}, 64), ({"partial_rotary_factor": 0.25}, 32), ({}, 0),
     ({"rope_parameters": {"partial_rotary_factor": 0.5}}, 64), ({"rotary_dim": 128}, 0)],
)  # fmt: skip
def test_models_that_rotate_a_part_of_a_head_have_a_rest(
    config: dict[str, Any], columns: int
) -> None:
    assert rotary_columns(config, 128) == columns
    sizes = geometry("minimax-m2.7").sizes()
    assert (sizes["rope"], sizes["nope"]) == (64, 64)
    assert geometry("minimax-m2.7").rope == (0, 64)
    assert geometry("glm-4.7-flash").rope == (512, 64)


def test_a_batch_reads_more_experts_up_to_all() -> None:
    experts = geometry("minimax-m2.7").experts
    assert experts is not None
    assert experts.read(1) == pytest.approx(8)
    assert experts.read(2) == pytest.approx(256 * (1 - (248 / 256) ** 2))
    assert experts.read(10_000) == pytest.approx(256)


def test_dense_weights_do_not_depend_on_the_batch() -> None:
    model = geometry("llama-3.1-8b")
    assert model.weight_bytes(1) == model.weight_bytes(64)


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(VortexError) as caught:
        geometry("qwen3-1.7")
    assert caught.value.code == "E401"
    assert "did you mean 'qwen3-1.7b'" in (caught.value.hint or "")
    assert all(name in (caught.value.hint or "") for name in GEOMETRIES)


@pytest.mark.parametrize("name", ["", "\0", "~nobody/x", "a" * 5000, "no/such/folder"])
def test_odd_names_are_unknown_models(name: str) -> None:
    with pytest.raises(VortexError) as caught:
        geometry(name)
    assert caught.value.code == "E401"


def test_a_checkpoint_folder_is_read(tmp_path: Path) -> None:
    model = geometry(str(write(tmp_path / "tiny", LLAMA)))
    assert (model.name, model.kind, model.head_dim, model.group) == ("tiny", "gqa", 8, 4)
    attention = 2 * 64 * 8 * (8 + 2)
    mlp = 3 * 64 * 128
    assert model.dense_parameters == 4 * (attention + mlp) + 1000 * 64
    assert model.weight_bytes_stored() == 2 * model.dense_parameters + 2 * 1000 * 64


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    model = from_config(write(tmp_path / "m", {**LLAMA, "tie_word_embeddings": True}))
    assert model.weight_bytes_stored() == model.weight_bytes(1)


def test_a_mixture_counts_its_experts(tmp_path: Path) -> None:
    moe = {
        **LLAMA,
        "model_type": "qwen3_moe",
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_only_layers": [0],
    }
    experts = from_config(write(tmp_path / "m", moe)).experts
    assert experts is not None
    assert (experts.layers, experts.count, experts.active) == (3, 16, 2)
    assert experts.bytes_each == 2 * 3 * 64 * 32


def test_an_mla_config_gives_its_latent(tmp_path: Path) -> None:
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "vocab_size": 100,
        "max_position_embeddings": 128,
    }
    model = from_config(write(tmp_path / "m", config))
    assert (model.kind, model.kv_heads, model.dim, model.vdim) == ("mla", 1, 20, 16)
    query, latent, out = 32 * 4 * 12, 32 * 20 + 16 * 4 * 16, 4 * 8 * 32
    assert model.dense_parameters == 2 * (query + latent + out + 3 * 32 * 64) + 100 * 32


@pytest.mark.parametrize(
    ("size", "quantization"),
    [(1, {"quant_method": "fp8"}), (0.5, {"quant_method": "gptq", "bits": 4})],
)
def test_quantised_linear_layers_are_smaller(
    tmp_path: Path, size: float, quantization: dict[str, Any]
) -> None:
    plain = from_config(write(tmp_path / "a", LLAMA))
    small = from_config(write(tmp_path / "b", {**LLAMA, "quantization_config": quantization}))
    linear = plain.dense_parameters - 1000 * 64
    assert plain.dense_bytes - small.dense_bytes == linear * (2 - size)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"num_hidden_layers": "four"},
        {"num_hidden_layers": 0},
        {"hidden_size": None},
        {"hidden_size": True},
        {"num_key_value_heads": 3},
        {"use_sliding_window": True},
        {"quantization_config": {"quant_method": "magic"}},
        {"quantization_config": "fp8"},
        {"model_type": "qwen3_moe", "moe_intermediate_size": 8, "num_experts": 2,
         "num_experts_per_tok": 3},
    ],
)  # fmt: skip
def test_a_config_of_no_supported_model_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(VortexError) as caught:
        from_config(write(tmp_path / "m", {**LLAMA, **change}))
    assert caught.value.code == "E404"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00\xff"])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(VortexError) as caught:
        geometry(str(tmp_path))
    assert caught.value.code == "E404"


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(VortexError) as caught:
        geometry(str(tmp_path))
    assert caught.value.code == "E404"


def test_an_unknown_device_lists_the_known() -> None:
    with pytest.raises(VortexError) as caught:
        device("h20")
    assert caught.value.code == "E402"
    assert all(name in (caught.value.hint or "") for name in DEVICES)


def test_several_devices_add_up() -> None:
    assert device("4xH200").memory == 4 * device("h200").memory
    assert device("4xh200").launch_floor == device("h200").launch_floor
    assert device("4xh200").select_rate == 4 * device("h200").select_rate


@pytest.mark.parametrize("name", DEVICES)
def test_every_figure_of_a_device_has_a_source(name: str) -> None:
    figures = {f.name for f in fields(Device)} - {"name", "sources", "count"}
    assert set(device(name).sources) == figures


@pytest.mark.parametrize("name", sorted(set(DEVICES) - {"h200"}))
def test_kernel_figures_of_a_device_that_was_not_measured_are_called_assumed(name: str) -> None:
    sources, measured = device(name).sources, device("h200").sources
    ours = {f for f, source in measured.items() if source.startswith("fitted")} - {"bandwidth"}
    assert len(ours) == 12
    assert measured["flash_mla_rate"].startswith("measured")
    assert all(sources[f].startswith("assumed") for f in ours | {"flash_mla_rate"})


@pytest.mark.parametrize(
    "bad", [{"batch": 0}, {"context": 0}, {"generated": -1}, {"kv_dtype": "int3"}]
)
def test_a_workload_must_make_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(VortexError) as caught:
        Workload(**{"batch": 1, "context": 1, **bad})
    assert caught.value.code == "E302"
