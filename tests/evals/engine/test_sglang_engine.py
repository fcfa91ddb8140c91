"""SGLang as an engine, against a stand-in with its calls: switch, streams, ends, and clean-up."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evals.engine.engine import Request, Sampling
from evals.engine.sglang_engine import INNER, Setup, SGLangEngine
from vortex.errors import VortexError

PROGRAM, SWITCH = "SGLANG_VORTEX_PROGRAM", "SGLANG_VORTEX_SWITCH"


class _Tokenizer:
    chat_template: str | None = "<user>"

    def encode(self, text: str) -> list[int]:
        return [len(w) for w in text.split()]

    def apply_chat_template(self, turn: Any, **more: Any) -> str:
        assert more == {"tokenize": False, "add_generation_prompt": True}
        return f"<{turn[0]['role']}>{turn[0]['content']}"


class _Handlers:
    def running_phase_sigquit_handler(self, signum: Any = None, frame: Any = None) -> None:
        raise AssertionError("SGLang would kill this process here")


class StandIn:
    """SGLang's Engine, as far as we call it: 0.5.16's chunks, all tokens so far in each."""

    made: ClassVar[list[StandIn]] = []
    incremental = False  # a setting of SGLang: chunks then hold new tokens only
    reason: Any = None  # of the end, instead of length
    refuses: str = ""
    dies = False

    def __init__(self, **arguments: Any) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        signal.signal(signal.SIGQUIT, arguments["custom_sigquit_handler"])
        self.arguments, self.environment = arguments, dict(os.environ)
        self.loop = asyncio.new_event_loop()
        self.tokenizer_manager = types.SimpleNamespace(
            tokenizer=_Tokenizer(), signal_handler_class=_Handlers
        )
        self.asked: list[dict[str, Any]] = []
        self.shut = 0
        StandIn.made.append(self)

    async def async_generate(
        self, prompt: str | None = None, sampling_params: Any = None, input_ids: Any = None,
        stream: bool = False,
    ) -> Any:  # fmt: skip
        assert (prompt is None) != (input_ids is None)
        switch = os.environ.get(SWITCH)
        mode = Path(switch).read_bytes()[:1].decode() if switch else ""
        self.asked.append({"prompt": prompt or input_ids, "mode": mode, **sampling_params})
        handlers = self.tokenizer_manager.signal_handler_class()
        self.loop.add_signal_handler(signal.SIGQUIT, handlers.running_phase_sigquit_handler)
        if self.dies:
            os.kill(os.getpid(), signal.SIGQUIT)  # as a process of SGLang does at its end
        if sampling_params["max_new_tokens"] > 100:
            raise ValueError("longer than the context")
        return self._chunks(sampling_params) if stream else await self._last(sampling_params)

    async def _chunks(self, sampling: Any) -> AsyncIterator[Any]:
        most = sampling["max_new_tokens"]
        for n in range(1, most + 1):
            await asyncio.sleep(0.002)
            ids = [n] if self.incremental else list(range(1, n + 1))
            end = (self.reason or {"type": "length"}) if n == most else None
            meta = {"completion_tokens": n, "finish_reason": end, "prompt_tokens": 3,
                    "cached_tokens": 1}  # fmt: skip
            yield {"output_ids": ids, "text": "x" * n, "meta_info": meta}

    async def _last(self, sampling: Any) -> Any:
        last = None
        async for chunk in self._chunks(sampling):
            last = chunk
        return last

    def shutdown(self) -> None:
        self.shut += 1


@pytest.fixture(autouse=True)
def sglang(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    module = types.ModuleType("sglang")
    kind = type("Engine", (StandIn,), {})
    module.Engine = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang", module)
    monkeypatch.setattr(StandIn, "made", [])
    seen = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("vortex", "x:y", "sglang.srt.plugins")]
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: seen)
    monkeypatch.setenv(PROGRAM, "mine")
    monkeypatch.delenv(SWITCH, raising=False)
    yield kind


def setup(tmp_path: Path, **more: Any) -> Setup:
    facts: dict[str, Any] = {"model": tmp_path, "export": tmp_path, "weights": True,
                             "page_size": 16}  # fmt: skip
    return Setup(**facts | more)


def request(prompt: str | tuple[int, ...] = "hello", tokens: int = 5) -> Request:
    return Request(prompt, Sampling(tokens, 0.5, 0.9, seed=3, ignore_end=True))


def test_one_engine_serves_both_modes_by_the_switch(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path))
    assert engine.modes == ("full", "sparse")
    for mode in engine.modes:
        engine.use(mode)
        engine.generate([request()])
    made = StandIn.made[0]
    assert [a["mode"] for a in made.asked] == ["d", "s"]
    assert made.environment[PROGRAM] == str(tmp_path.resolve())
    assert made.arguments["attention_backend"] == "vortex" and made.arguments["page_size"] == 16
    scratch = Path(os.environ[SWITCH]).parent
    engine.close()
    engine.close()
    assert made.shut == 1 and not scratch.exists()
    assert os.environ[PROGRAM] == "mine" and SWITCH not in os.environ


def test_full_attention_alone_needs_no_plugin(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path, export=None, backend="fa3"))
    assert engine.modes == ("full",)
    assert StandIn.made[0].arguments["attention_backend"] == "fa3"
    engine.use("full")
    engine.close()


@pytest.mark.parametrize("incremental", [False, True])
def test_a_stream_gives_every_token_and_its_time(
    tmp_path: Path, sglang: type[StandIn], incremental: bool
) -> None:
    sglang.incremental = incremental
    engine = SGLangEngine(setup(tmp_path))
    found = engine.generate([request(), request((7, 8), 3)])
    engine.close()
    assert [c.ids for c in found] == [(1, 2, 3, 4, 5), (1, 2, 3)]
    assert [n for _, n in found[0].arrivals] == [1, 2, 3, 4, 5]
    times = [t for t, _ in found[0].arrivals]
    assert times == sorted(times) and times[-1] > 0.008
    assert (found[0].finish, found[0].prompt_tokens, found[0].cached_tokens) == ("length", 3, 1)
    asked = StandIn.made[0].asked
    assert [a["prompt"] for a in asked] == ["hello", [7, 8]]
    assert asked[0] | {"prompt": 0, "mode": 0} == {
        "prompt": 0, "mode": 0, "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9,
        "ignore_eos": True, "sampling_seed": 3,
    }  # fmt: skip


def test_without_streaming_the_end_is_all_there_is(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path))
    found = engine.generate([request()], stream=False)[0]
    engine.close()
    assert found.ids == (1, 2, 3, 4, 5) and len(found.arrivals) == 1 and found.text == "xxxxx"


def test_random_weights_need_no_tokenizer_and_take_no_text(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path, weights=False))
    arguments = StandIn.made[0].arguments
    assert arguments["load_format"] == "dummy" and arguments["skip_tokenizer_init"]
    assert engine.facts["weights"] == "random"
    with pytest.raises(VortexError, match="without a tokenizer"):
        engine.generate([request("text")])
    assert engine.generate([request((1, 2))])[0].tokens == 5
    engine.close()


def test_what_sglang_raises_is_one_line_and_the_engine_goes_on(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path))
    with pytest.raises(VortexError, match="longer than the context") as caught:
        engine.generate([request(), request(tokens=101)])
    assert caught.value.code == "E904"
    assert engine.generate([request()])[0].tokens == 5
    engine.close()


def test_a_request_that_was_given_up_is_a_failure(tmp_path: Path, sglang: type[StandIn]) -> None:
    sglang.reason = {"type": "abort", "message": "no room"}
    engine = SGLangEngine(setup(tmp_path))
    with pytest.raises(VortexError, match=r"gave up a request.*no room"):
        engine.generate([request()])
    engine.close()


def test_an_engine_whose_process_dies_ends_in_one_line(
    tmp_path: Path, sglang: type[StandIn]
) -> None:
    before = signal.getsignal(signal.SIGQUIT)
    sglang.dies = True
    engine = SGLangEngine(setup(tmp_path))
    with pytest.raises(VortexError, match="one of its processes ended") as caught:
        engine.generate([request(), request()])
    assert caught.value.code == "E904"
    engine.close()
    assert signal.getsignal(signal.SIGQUIT) is before and StandIn.made[0].shut == 1


def test_an_engine_that_does_not_start_leaves_nothing_behind(
    tmp_path: Path, sglang: type[StandIn]
) -> None:
    sglang.refuses = "no room\nfor it"
    with pytest.raises(VortexError, match="does not start: no room for it") as caught:
        SGLangEngine(setup(tmp_path))
    assert caught.value.code == "E903" and os.environ[PROGRAM] == "mine"


def test_without_sglang_or_its_plugin_it_is_said_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = importlib.metadata.EntryPoints([])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: none)
    with pytest.raises(VortexError, match="does not see the plugin") as caught:
        SGLangEngine(setup(tmp_path))
    assert caught.value.code == "E903" and caught.value.exit_code == 3
    monkeypatch.setitem(sys.modules, "sglang", None)
    with pytest.raises(VortexError, match="cannot be imported"):
        SGLangEngine(setup(tmp_path))


def test_texts_are_encoded_and_put_as_a_turn_by_the_model_s_own_tokenizer(tmp_path: Path) -> None:
    engine = SGLangEngine(setup(tmp_path))
    assert engine.encode("ab cde") == [2, 3]
    assert engine.chats and engine.chat("why?") == "<user>why?"
    engine.close()


def test_a_model_without_a_chat_format_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Tokenizer, "chat_template", None)
    engine = SGLangEngine(setup(tmp_path))
    assert not engine.chats
    with pytest.raises(VortexError, match="no chat format") as caught:
        engine.chat("why?")
    assert caught.value.code == "E904"
    engine.close()


def test_answers_of_one_checkpoint_are_not_taken_for_anothers(tmp_path: Path) -> None:
    """Of the same name and configuration."""
    facts = []
    for text in ("a", "bc"):
        given = setup(tmp_path)
        (given.model / "model.safetensors").write_text(text)
        facts.append(SGLangEngine(given).facts)
    assert facts[0]["checkpoint"] != facts[1]["checkpoint"]
    assert {**facts[0], "checkpoint": ""} == {**facts[1], "checkpoint": ""}


def test_a_format_and_a_tokenizer_that_both_begin_begin_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SGLangEngine(setup(tmp_path))
    monkeypatch.setattr(_Tokenizer, "bos_token", "<user>", raising=False)
    monkeypatch.setattr(_Tokenizer, "bos_token_id", 7, raising=False)
    monkeypatch.setattr(_Tokenizer, "encode", lambda self, text: [7, len(text)])
    assert engine.chat("why?") == "<user>why?"
    monkeypatch.setattr(_Tokenizer, "encode", lambda self, text: [7, 7, len(text)])
    assert engine.chat("why?") == "why?"
    engine.close()


def test_an_engine_that_does_not_shut_down_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    engine = SGLangEngine(setup(tmp_path))
    assert StandIn.made[-1].environment["SGLANG_VORTEX_TWO_GRAPHS"] == "1"
    switch = engine._switch
    assert switch is not None

    def broken(self: StandIn) -> None:
        raise RuntimeError("it hangs")

    monkeypatch.setattr(StandIn, "shutdown", broken)
    with pytest.raises(RuntimeError, match="it hangs"):
        engine.close()
    assert SWITCH not in os.environ
    with pytest.raises(OSError):
        os.fstat(switch.file)


def test_an_engine_draws_no_progress_bars_unless_the_user_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    SGLangEngine(setup(tmp_path)).close()
    assert StandIn.made[-1].environment["TQDM_DISABLE"] == "1"
    assert "TQDM_DISABLE" not in os.environ
    monkeypatch.setenv("TQDM_DISABLE", "0")
    SGLangEngine(setup(tmp_path)).close()
    assert StandIn.made[-1].environment["TQDM_DISABLE"] == "0"


def test_the_backend_that_was_named_beside_the_plugin_is_among_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(INNER, raising=False)
    assert "inner_backend" not in SGLangEngine(setup(tmp_path)).facts
    monkeypatch.setenv(INNER, "triton")
    assert SGLangEngine(setup(tmp_path)).facts["inner_backend"] == "triton"
    plain = SGLangEngine(setup(tmp_path, export=None, backend="fa3"))
    assert "inner_backend" not in plain.facts, "the plugin alone reads it"
