"""The factored MLA form computes what it says, and a program runs on it through every stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evals import evaluator
from evals.contexts import ContextSpec, build_context
from evals.evaluator import Evaluator
from evals.models.factored import FORMAT, FactoredMla, Factors, loss_note, read_factors
from evals.models.fit import fit_factors, obtain
from evals.models.load import load_model
from evals.models.transformer import Attend, Transformer
from evals.parity import Shape, disagreement
from evals.prefill import prefill
from evals.scoring import score
from search_spaces.block_topk import controls, library
from tests.evals.small import SPEC, Bytes, small_model
from vortex import compile_text
from vortex.errors import VortexError
from vortex.suffix import SuffixAttend, SuffixKV

STILL, PARTS = 2, 3 * (2 * 2 + 8)
QUEST = next(p.text for p in library() if p.name == "quest")
HALF = {
    part: QUEST.replace("k.m", f"k.{part}.m").replace("q *", f"q.{part} *")
    for part in ("nope", "rope")
}
MLA = Shape(1, 6, 40, latent=24, rope=(24, 16))


def dense(scale: float) -> Attend:
    """Causal attention without rounding, in one line of algebra."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(group, 2) for x in (k, v))
        logits = torch.einsum("bthd,bshd->bhts", q, k) * scale
        after = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
        weights = torch.softmax(logits.masked_fill(after, float("-inf")), -1)
        return torch.einsum("bhts,bshd->bthd", weights, v)

    return attend


def logits(model: Transformer, attend: Attend, tokens: int = 200) -> Tensor:
    g = torch.Generator().manual_seed(2)
    ids = torch.randint(0, model.spec.vocab, (1, tokens), generator=g)
    return model.forward(ids, torch.arange(tokens)[None], attend)


def unrotated(base: Transformer) -> Transformer:
    return Transformer(base.spec, base.weights, base.tokenizer, still=STILL)


def random_factors(rank: int, layers: int = 2) -> Factors:
    g = torch.Generator().manual_seed(4)
    turns = [torch.linalg.qr(torch.randn(PARTS, PARTS, generator=g))[0] for _ in range(layers)]
    down = torch.stack([t[:rank] for t in turns])
    return Factors(STILL, down, down.transpose(1, 2))


def test_at_full_rank_it_is_the_unrotated_model() -> None:
    base = small_model()
    form = FactoredMla(base, random_factors(PARTS), name="form", digest="1")
    found, wanted = (logits(m, dense(SPEC.scale)) for m in (form, unrotated(base)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert float((wanted - logits(base, dense(SPEC.scale))).abs().max()) > 1e-2


def test_absorbed_attention_is_attention_over_projected_keys_and_values() -> None:
    base, factors = small_model(), random_factors(20)
    quiet, plain = unrotated(base), dense(SPEC.scale)
    columns = torch.tensor([2, 3, 6, 7])  # pairs (2, 6) and (3, 7) of a head of 8

    def projected(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = torch.cat([k[..., columns].flatten(2), v.flatten(2)], -1)
        back = parts @ factors.down[layer].T @ factors.up[layer].T
        k = k.clone()
        k[..., columns] = back[..., :12].unflatten(-1, (3, 4))
        return plain(layer, q, k, back[..., 12:].unflatten(-1, (3, 8)))

    form = FactoredMla(base, factors, name="form", digest="1")
    found, wanted = logits(form, plain), logits(quiet, projected)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_fitted_factors_lose_less_with_rank_and_nothing_at_full_rank() -> None:
    base = small_model()
    g = torch.Generator().manual_seed(5)
    texts = [torch.randint(0, SPEC.vocab, (1, 300), generator=g) for _ in range(2)]
    wanted = logits(unrotated(base), dense(SPEC.scale))
    gaps = []
    for rank in (8, 24, PARTS):
        factors = fit_factors(base, texts, still=STILL, rank=rank, key_weight=3.0)
        form = FactoredMla(base, factors, name="form", digest="1")
        gaps.append(float((logits(form, dense(SPEC.scale)) - wanted).norm() / wanted.norm()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3
    random = FactoredMla(base, random_factors(24), name="form", digest="1")
    assert gaps[1] < float((logits(random, dense(SPEC.scale)) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("part", ["nope", "rope"])
def test_a_program_on_one_half_of_a_key_does_not_see_the_other(part: str) -> None:
    candidate = compile_text(HALF[part], {"budget": 512})
    g = torch.Generator().manual_seed(6)
    k, q = torch.randn(1, 600, 40, generator=g), torch.randn(1, 1, 1, 6, 40, generator=g)
    halves = {"nope": slice(0, 24), "rope": slice(24, 40)}
    chosen = {}
    for changed in ("", "nope", "rope"):
        keys = k.clone()
        if changed:
            keys[..., halves[changed]] = torch.randn(600, keys[..., halves[changed]].shape[-1],
                                                     generator=g)  # fmt: skip
        attend = SuffixAttend(
            candidate, (keys[None], keys[None, ..., :24]), scale=0.2, workload_context=2048,
            rope=(24, 16),
        )  # fmt: skip
        new = keys[:, None, :1]
        chosen[changed] = attend.pages(0, q, SuffixKV(keys, keys[..., :24], new, new[..., :24]))
    other = "rope" if part == "nope" else "nope"
    assert torch.equal(chosen[""], chosen[other]) and not torch.equal(chosen[""], chosen[part])


@pytest.mark.parametrize("text", [QUEST, *HALF.values()], ids=["whole", *HALF])
def test_parity_holds_on_a_latent(text: str) -> None:
    assert disagreement(compile_text(text, {"budget": 512}), MLA, seed=1) is None


def test_parity_sees_a_backend_that_takes_the_wrong_half(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = SuffixAttend.__init__

    def wrong(self: SuffixAttend, *args: Any, rope: Any, **named: Any) -> None:
        exact(self, *args, rope=(0, 16), **named)

    monkeypatch.setattr(SuffixAttend, "__init__", wrong)
    assert "keeps pages" in (disagreement(compile_text(HALF["rope"], {"budget": 512}), MLA, seed=1)
                             or "")  # fmt: skip


CONFIG = {
    "accuracy_model": "form", "target": "glm-4.7-flash", "price_for": "h200", "batch": 16,
    "context": 32768, "kv_dtype": "bf16", "context_tokens": 512, "min_recovered": -9.0,
}  # fmt: skip
REQUESTS: dict[str, dict[str, Any]] = {
    "screen": {"contexts": [0]},
    "accuracy": {"contexts": [0]},
    "throughput": {"contexts": [0], "batch": 2, "context": 480, "pairs": 2, "threads": 1},
}


def test_programs_pass_every_stage_on_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    base = small_model(replace(SPEC, vocab=2048), Bytes())  # timing decodes ids of its own
    form = FactoredMla(base, random_factors(24), name="form", digest="2" * 64)
    monkeypatch.setattr(evaluator, "load_model", lambda name: form)
    judge = Evaluator(CONFIG)
    control = next(c.text for c in controls() if c.name == "full")
    for text, reserved in ((control, True), (HALF["rope"], False)):
        values = {}
        for kind, more in REQUESTS.items():
            answer = judge.handle({"kind": kind, "text": text, "control": reserved, **more})
            last = answer["evaluation"]["stages"][-1]
            assert last["status"] == "ok", last
            values |= {s["metric"]: s["value"] for s in last["samples"]}
        # Full attention is what the prefill recorded; the program leaves pages out.
        assert abs(values["kl"]) < 1e-3 if reserved else values["kl"] > 0


def test_factors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "form.safetensors"
    for facts in ({"format": FORMAT, "base": "other"}, {"format": "0", "base": SPEC.digest}, None):
        if facts is None:
            path.write_bytes(b"damaged")
        else:
            save_file({"down": torch.zeros(2, 2), "up": torch.zeros(2, 2)}, path, metadata=facts)
        with pytest.raises(VortexError) as caught:
            read_factors(path, SPEC)
        assert caught.value.code == "E412" and "fetch form" in (caught.value.hint or "")


def test_a_form_that_is_not_fitted_yet_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    with pytest.raises(VortexError) as caught:
        load_model("smollm2-135m-mla")
    assert caught.value.code == "E410" and "fetch smollm2-135m-mla" in (caught.value.hint or "")


@pytest.mark.slow
def test_the_stand_in_is_fitted_once_and_states_a_small_loss(model: Transformer) -> None:
    said: list[str] = []
    path = obtain("smollm2-135m-mla", said.append)
    stamp = path.stat().st_mtime_ns
    obtain("smollm2-135m-mla", said.append)
    assert path.stat().st_mtime_ns == stamp and len(said) <= 1
    form = load_model("smollm2-135m-mla")
    assert form.spec.digest != model.spec.digest and form.spec.cache.kv_heads == 1
    loss = float(loss_note(path).split("+")[1].split()[0])
    assert 0 < loss < 0.15


@pytest.mark.slow
def test_the_stand_in_can_still_look_up_what_it_read(model: Transformer) -> None:
    """With twelve unrotated pairs its loss on text was small, and it copied nothing."""
    obtain("smollm2-135m-mla", lambda line: None)
    form = load_model("smollm2-135m-mla")
    prefilled = prefill(form, build_context(ContextSpec("search", 0), form.tokenizer))
    full = SuffixAttend(
        compile_text(next(c.text for c in controls() if c.name == "full"), reserved=True),
        form.spec.cache.split(prefilled.kv), scale=form.spec.scale, workload_context=2048,
        rope=form.spec.cache.rope,
    )  # fmt: skip
    questions = [q for q in prefilled.context.questions if q.task == "copy"]
    samples = score(form, questions, full, context="", start=2048, full=None)
    assert next(s.value for s in samples if s.metric == "top1") > 0.6
