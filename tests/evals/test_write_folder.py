"""A GGUF model written as a Hugging Face folder is the same model to whoever loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter

from evals.models.gguf_file import load_gguf
from evals.models.load import load_model
from evals.models.transformer import Transformer
from evals.models.write_folder import gguf_to_folder
from vortex.errors import VortexError

LETTERS = [chr(c) for c in range(33, 127)] + ["Ġ", "he", "<|end|>"]


def small_gguf(path: Path, kind: str) -> Path:
    """A model of two layers with random weights."""
    g = torch.Generator().manual_seed(0)
    hidden, heads, kv, dim, inner, vocab = 32, 4, 2, 8, 48, len(LETTERS)
    w = GGUFWriter(str(path), kind)
    w.add_block_count(2)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(inner)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_context_length(64)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_key_length(dim)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(LETTERS)
    w.add_token_types([1] * (vocab - 1) + [3])
    w.add_token_merges(["h e"])
    w.add_eos_token_id(vocab - 1)
    w.add_chat_template("{{ messages[0].content }}")

    def put(name: str, *shape: int) -> None:
        tensor = torch.randn(*shape, generator=g) * 0.2 + (1.0 if len(shape) == 1 else 0.0)
        w.add_tensor(name, tensor.numpy())

    put("token_embd.weight", vocab, hidden)
    put("output_norm.weight", hidden)
    for i in range(2):
        b = f"blk.{i}"
        put(f"{b}.attn_norm.weight", hidden)
        put(f"{b}.ffn_norm.weight", hidden)
        put(f"{b}.attn_q.weight", heads * dim, hidden)
        put(f"{b}.attn_k.weight", kv * dim, hidden)
        put(f"{b}.attn_v.weight", kv * dim, hidden)
        put(f"{b}.attn_output.weight", hidden, heads * dim)
        put(f"{b}.ffn_gate.weight", inner, hidden)
        put(f"{b}.ffn_up.weight", inner, hidden)
        put(f"{b}.ffn_down.weight", hidden, inner)
        if kind == "qwen3":
            put(f"{b}.attn_q_norm.weight", dim)
            put(f"{b}.attn_k_norm.weight", dim)
        if kind == "qwen2":
            for x, n in (("q", heads), ("k", kv), ("v", kv)):
                put(f"{b}.attn_{x}.bias", n * dim)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    """By our own model, full attention."""

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True
        )
        return found.transpose(1, 2)

    return model.forward(torch.tensor([ids]), torch.arange(len(ids))[None], attend)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_folder_gives_the_logits_of_the_file(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    file = small_gguf(tmp_path / "model.gguf", kind)
    gguf_to_folder(str(file), tmp_path / "out", dtype="float32")
    ours, theirs = load_gguf(file), load_model(str(tmp_path / "out"))
    assert ours.tokenizer.encode("hello he") == theirs.tokenizer.encode("hello he")
    for a, b in zip(ours.weights.layers, theirs.weights.layers, strict=True):
        assert torch.equal(a.qkv, b.qkv) and torch.equal(a.gate_up, b.gate_up)
    ids = ours.tokenizer.encode("the hen hoped")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the hen hoped", add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.eos_token == "<|end|>" and "content" in tokenizer.chat_template
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0]
    assert torch.allclose(logits(ours, ids), wanted, atol=1e-4)


def test_weights_are_halved_by_default_and_nothing_is_overwritten(tmp_path: Path) -> None:
    file = small_gguf(tmp_path / "model.gguf", "llama")
    gguf_to_folder(str(file), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    with pytest.raises(VortexError) as caught:
        gguf_to_folder(str(file), tmp_path / "out")
    assert caught.value.code == "E607"
    with pytest.raises(VortexError) as caught:
        gguf_to_folder(str(tmp_path / "none.gguf"), tmp_path / "other")
    assert caught.value.code == "E809"


@pytest.mark.slow
def test_the_packaged_model_agrees_with_transformers(tmp_path: Path, model: Transformer) -> None:
    transformers = pytest.importorskip("transformers")
    gguf_to_folder("smollm2-135m", tmp_path / "out", dtype="float32")
    ids = model.tokenizer.encode("The capital of France is")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    found = logits(model, ids)
    assert torch.allclose(found, wanted, atol=1e-3)
    assert found[-1].argmax() == wanted[-1].argmax()
