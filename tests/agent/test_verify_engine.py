"""The checks of ``verify`` in the engine: how fast, and how many hidden numbers are found."""

from __future__ import annotations

import importlib.machinery
import json
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.commands.verify import Check, _engine
from evals.engine import sglang_engine
from evals.engine.engine import Mode, Request
from tests.centroid import centroid
from tests.evals.engine.fake import FakeEngine
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.serving.sglang.check import difference

PROGRAM = centroid(256)
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
    "max_position_embeddings": 4096,
}  # fmt: skip
TOKENS = {"what": "tokens", **difference([], [])}


class Engine(FakeEngine):
    """The needle is found in this share of prompts, by mode; every setup is kept."""

    shares: Mapping[str, float]
    setups: list[Any]

    def __init__(self, setup: Any) -> None:
        self.setups.append(setup)
        self.seen: list[str] = []
        super().__init__(reply=self.answer)

    chats = True

    def encode(self, text: str) -> list[int]:
        return [0] * len(text.split())

    def chat(self, text: str) -> str:
        return f"<user>{text}"

    def answer(self, request: Request, mode: Mode, call: int) -> str:
        prompt = str(request.prompt)
        self.seen += [] if prompt in self.seen else [prompt]
        found = re.findall(r"registry numbers of \S+ is (\d+)", prompt)
        return f"{found[0]}." if self.seen.index(prompt) < 16 * self.shares[mode] else "?"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """A GPU and an SGLang, as far as ``verify`` looks, and engines that are scripts."""
    stub = types.ModuleType("sglang")
    stub.__spec__ = importlib.machinery.ModuleSpec("sglang", None)
    monkeypatch.setitem(sys.modules, "sglang", stub)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sglang_engine, "SGLangEngine", Engine)
    monkeypatch.setattr(Engine, "shares", {"full": 1.0, "sparse": 1.0}, raising=False)
    monkeypatch.setattr(Engine, "setups", [], raising=False)
    return Engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint, as far as its files say."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    for name in ("model.safetensors", "tokenizer.json"):
        (made / name).write_text("")
    return made


def checked(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any],
    program: str = PROGRAM, code: int = 0, stdout: str = "",
) -> dict[str, Check]:  # fmt: skip
    """The engine's checks, where the short process in it prints these lines."""
    path = tmp_path / "mine.py"
    path.write_text(program)
    stdout = stdout or "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.CompletedProcess[str]([], code, stdout, "it broke\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    candidate = compile_text(program)
    return {c.name: c for c in _engine(path, candidate, 16, str(model), 8192)}


def test_numbers_hidden_beyond_the_budget_are_asked_of_both_in_the_engine(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    found = checked(tmp_path, model, monkeypatch, TOKENS)["accuracy"]
    assert found.verdict == "ok"
    assert "16 numbers hidden in 1,024 tokens" in found.said
    assert "full attention 1 ± 0, sparse 1 ± 0, difference 0 ± 0" in found.said
    (setup,) = machine.setups
    assert setup.weights and setup.page_size == 16 and setup.export == tmp_path / "mine.py"
    assert 1024 + 64 < setup.context < 2048  # no more of the kernels than is asked for


@pytest.mark.parametrize(("sparse", "verdict"), [(0.4, "failed"), (0.8, "ok")])
def test_a_sure_loss_fails_and_an_unsure_one_does_not(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine],
    sparse: float, verdict: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "shares", {"full": 1.0, "sparse": sparse})
    found = checked(tmp_path, model, monkeypatch, TOKENS)["accuracy"]
    assert found.verdict == verdict
    assert ("surely a loss" in found.said) == (verdict == "failed") and "±" in found.said


def test_what_others_print_is_passed_over_and_an_empty_cache_is_said(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    speed = {"what": "decode tokens/s", "rows": 8, "context": 4000, "why": "caches served 0 of 9"}
    stdout = '{\'x\': 1} from a library\n{"level": "info"}\n' + json.dumps(speed) + "\n"
    found = checked(tmp_path, model, monkeypatch, stdout=stdout)
    assert set(found) == {"speed", "accuracy"}
    assert found["speed"] == Check("speed", "not checked", "8 x 4,000 tokens: caches served 0 of 9")


def test_nothing_is_said_where_full_attention_itself_finds_little(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    monkeypatch.setattr(machine, "shares", {"full": 0.25, "sparse": 0.0})
    found = checked(tmp_path, model, monkeypatch, TOKENS)["accuracy"]
    assert found.verdict == "not checked" and "finds less than 50%" in found.said


@pytest.mark.parametrize(
    ("absent", "why"), [("model.safetensors", "random weights"), ("tokenizer.json", "tokenizer")]
)
def test_without_weights_or_tokenizer_the_lack_is_said_and_no_engine_starts(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine],
    absent: str, why: str,
) -> None:  # fmt: skip
    (model / absent).unlink()
    found = checked(tmp_path, model, monkeypatch, TOKENS)["accuracy"]
    assert found.verdict == "not checked" and why in found.said and not machine.setups


def test_a_budget_over_all_that_the_model_reads_leaves_nothing_to_check(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    large = centroid(4096)
    found = checked(tmp_path, model, monkeypatch, TOKENS, program=large)["accuracy"]
    assert found.verdict == "not checked" and "beyond the budget of 4,096" in found.said


def test_an_engine_that_failed_is_not_asked_and_one_that_fails_then_is_said(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    found = checked(tmp_path, model, monkeypatch, code=1)
    assert found["engine"].verdict == "failed" and not machine.setups
    assert found["accuracy"] == Check("accuracy", "not checked", "the engine's own check failed")

    def broken(setup: Any) -> Any:
        raise VortexError("SGLang does not start: no room", code="E903")

    monkeypatch.setattr(sglang_engine, "SGLangEngine", broken)
    found = checked(tmp_path, model, monkeypatch, TOKENS)
    assert found["accuracy"].verdict == "failed" and "E903" in found["accuracy"].said


def rates(full: list[float], sparse: list[float]) -> dict[str, Any]:
    return {"what": "decode tokens/s", "rows": 8, "context": 8192, "dense": full, "sparse": sparse}


@pytest.mark.parametrize(
    ("sparse", "verdict", "ratio"),
    [([300.0, 310.0, 290.0], "ok", "2.999 ± 0.05774 times as fast"),
     ([90.0, 91.0, 92.0], "warning", "slower: 0.91 ± 0.00")],
)  # fmt: skip
def test_speed_is_a_ratio_with_its_error_and_a_slow_program_is_a_warning(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine],
    sparse: list[float], verdict: str, ratio: str,
) -> None:  # fmt: skip
    found = checked(tmp_path, model, monkeypatch, TOKENS, rates([100.0] * 3, sparse))
    assert found["speed"].verdict == verdict
    assert ratio in found["speed"].said and "over 3 pairs" in found["speed"].said
    assert found["accuracy"].verdict == "ok"  # no failure: what comes after is checked


def test_rates_that_are_none_give_no_ratio(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, machine: type[Engine]
) -> None:
    found = checked(tmp_path, model, monkeypatch, TOKENS, rates([100.0, -3.0, 100.0], [300.0] * 3))
    assert found["speed"].verdict == "not checked"
