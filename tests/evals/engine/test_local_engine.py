"""Our own executor in an engine's place: its replies are the model's, under either attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evals.engine.engine import Request, Sampling
from evals.engine.local_engine import LocalEngine, drawn
from evals.models.load import load_model
from evals.models.write_folder import gguf_to_folder
from evals.prefill import DenseCausal
from tests.evals.test_write_folder import small_gguf
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ir import Candidate
from vortex.suffix import SuffixAttend

PROMPT = tuple((7 * i * i + 3 * i) % 90 for i in range(41))


def program(budget: int, more: str = "") -> Candidate:
    return compile_text(f"""import vortex as vx
class Mine(vx.Algorithm):
    page_size = 8
    {more}
    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))
    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head")
    def select(self, score):
        return vx.top_k(score, tokens={budget}) | vx.recent(1)
""")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("local")
    gguf_to_folder(str(small_gguf(scratch / "m.gguf", "llama")), scratch / "model")
    return scratch / "model"


def reply(engine: LocalEngine, mode: str, tokens: int = 20, **more: object) -> tuple[int, ...]:
    engine.use(mode)  # type: ignore[arg-type]
    sampling = Sampling(tokens, ignore_end=True, **more)  # type: ignore[arg-type]
    (made,) = engine.generate([Request(PROMPT, sampling)])
    assert made.ids is not None and made.tokens == tokens and made.prompt_tokens == len(PROMPT)
    return made.ids


def likeliest(folder: Path, candidate: Candidate, ids: tuple[int, ...]) -> list[int]:
    """The likeliest token at each place, by the batched executor."""
    model, n = load_model(str(folder)), len(PROMPT)
    dense = DenseCausal(model.spec, n)
    first = model.forward(torch.tensor([PROMPT]), torch.arange(n)[None], dense)[-1:]
    attend = SuffixAttend(
        candidate, model.spec.cache.split(dense.kv), scale=model.spec.scale, workload_context=n
    )
    places = n + torch.arange(len(ids) - 1)[None]
    rest = model.forward(torch.tensor([ids[:-1]]), places, attend)
    return [int(x) for x in torch.cat([first, rest]).argmax(-1)]


@pytest.mark.parametrize("more", ["", "reuse = vx.reuse(steps=3)"])
def test_replies_are_the_likeliest_tokens_under_the_program(folder: Path, more: str) -> None:
    candidate = program(16, more)
    engine = LocalEngine(folder, candidate)
    sparse, full = reply(engine, "sparse"), reply(engine, "full")
    assert list(sparse) == likeliest(folder, candidate, sparse)
    assert list(full) == likeliest(folder, program(4096), full)
    assert sparse != full


def test_a_budget_over_the_context_is_full_attention(folder: Path) -> None:
    engine = LocalEngine(folder, program(4096))
    assert reply(engine, "sparse") == reply(engine, "full")


def test_dense_layers_of_the_program_are_dense(folder: Path) -> None:
    engine = LocalEngine(folder, program(16, "dense_layers = vx.layers(first=2)"))
    assert reply(engine, "sparse") == reply(engine, "full")


def test_it_stops_at_the_end_unless_told_not_to(folder: Path) -> None:
    engine = LocalEngine(folder, program(16))
    ids = reply(engine, "full", 6)
    engine.settings["eos_token_id"] = [ids[3], 10**6]
    (made,) = engine.generate([Request(PROMPT, Sampling(6))])
    cut = ids.index(ids[3])
    assert (made.ids, made.finish) == (ids[:cut] or ids[:1], "stop")


def test_samples_follow_their_seed_and_the_share_that_is_kept(folder: Path) -> None:
    engine = LocalEngine(folder, program(16))
    hot = {"temperature": 1.5}
    first = reply(engine, "sparse", seed=3, **hot)
    assert first == reply(engine, "sparse", seed=3, **hot) != reply(engine, "sparse", seed=4, **hot)
    assert reply(engine, "full", seed=3, top_p=1e-6, **hot) == reply(engine, "full")
    logits, draw = torch.tensor([0.0, 2.0, 1.0]), torch.Generator().manual_seed(0)
    s = Sampling(1, temperature=1.0, top_p=0.8)  # 0.67 and 0.24: two are kept
    assert {drawn(logits, s, draw) for _ in range(200)} == {1, 2}


def test_what_does_not_fit_is_said_and_text_is_tokenized(folder: Path) -> None:
    engine = LocalEngine(folder, program(16))
    with pytest.raises(VortexError, match="exceed the model's 64") as raised:
        engine.generate([Request(PROMPT, Sampling(60))])
    assert raised.value.code == "E906"
    (made,) = engine.generate([Request("hehe", Sampling(3, ignore_end=True))])
    assert made.prompt_tokens == len(engine.encode("hehe")) == 2
    assert engine.chat("A turn.") == "A turn."
    engine.settings["chat_template"] = None
    with pytest.raises(VortexError, match="no chat format"):
        engine.chat("A turn.")


def test_special_tokens_of_a_chat_format_may_be_objects(folder: Path) -> None:
    engine = LocalEngine(folder, program(16))
    engine.settings |= {
        "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
        "bos_token": {"content": "<s>"}, "eos_token": "</s>",
    }  # fmt: skip
    assert engine.chat("x") == "<s>x</s>"


def test_the_folder_s_own_end_is_read(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert LocalEngine(folder, program(16))._ends() == {told}


def test_a_prompt_that_begins_as_another_did_gives_what_it_gives_alone(folder: Path) -> None:
    candidate, sampling = program(16), Sampling(12, ignore_end=True)
    longer = (*PROMPT[:30], 5, 6, 7, 8, 9)
    used, fresh = LocalEngine(folder, candidate), LocalEngine(folder, candidate)
    for engine in (used, fresh):
        engine.use("sparse")
    prompts = [PROMPT, longer, PROMPT[:20], (*longer, 3)]
    warm = used.generate([Request(p, sampling) for p in prompts])
    for prompt, found in zip(prompts, warm, strict=True):
        fresh.close()
        (alone,) = fresh.generate([Request(prompt, sampling)])
        assert alone.ids == found.ids
