"""How two runs of an engine are compared, and which of their differences count."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.commands.verify import _said
from vortex.errors import VortexError
from vortex.serving.sglang.check import (
    Switch,
    Uncached,
    decode_rate,
    difference,
    main,
    near,
    tokens,
)


def reply(ids: list[int], gap: float = 1.0) -> dict[str, Any]:
    tops = [[(-0.5, i, None), (-0.5 - gap, i + 1, None)] for i in ids]
    return {"output_ids": ids, "meta_info": {"output_top_logprobs": tops}}


def test_replies_are_compared_up_to_where_they_part() -> None:
    one = [reply([1, 2, 3]), reply([4, 5, 6], gap=0.25)]
    two = [reply([1, 2, 3]), reply([4, 6, 9])]
    found = difference(one, two)
    assert (found["equal"], found["parted"]) == (1, 1)
    assert found["gap_where_parted"] == [0.25] and not found["beyond_the_top"]
    assert near(found)
    assert found["largest_logprob_shift"] == 0.0


def test_a_token_that_the_first_run_found_unlikely_is_no_near_tie() -> None:
    found = difference([reply([1, 2], gap=0.1)], [reply([1, 7])])
    assert found["beyond_the_top"] == 1 and found["gap_where_parted"] == []
    assert not near(found)


@pytest.mark.parametrize(("gap", "verdict"), [(0.1, "ok"), (3.0, "failed")])
def test_only_a_near_tie_may_fall_the_other_way(gap: float, verdict: str) -> None:
    facts = {"what": "tokens", **difference([reply([1], gap)], [reply([2])])}
    assert _said(facts).verdict == verdict


def test_the_switch_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "switch"
    switch = Switch(path)
    inode = path.stat().st_ino
    switch("s")
    assert path.read_bytes() == b"s" and path.stat().st_ino == inode


def test_rates_come_from_the_difference_of_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def generate(input_ids: list[Any], sampling_params: dict[str, Any]) -> list[Any]:
        clock.now += 5.0 + 0.01 * sampling_params["max_new_tokens"]  # prefill, and each step
        return [reply([1])] * len(input_ids)

    monkeypatch.setattr("vortex.serving.sglang.check.time.perf_counter", lambda: clock.now)
    made = SimpleNamespace(generate=generate)
    assert decode_rate(made, [[1]] * 4, 8, 136) == pytest.approx(400.0)


def test_rates_of_prompts_that_the_cache_lost_are_none() -> None:
    cached = iter((4000, 4000, 4000, 100))

    def generate(input_ids: list[Any], sampling_params: dict[str, Any]) -> list[Any]:
        return [{"meta_info": {"cached_tokens": next(cached)}}] * len(input_ids)

    made, prompts = SimpleNamespace(generate=generate), [[1] * 4100]
    decode_rate(made, prompts, 8, 136)
    with pytest.raises(Uncached, match=r"4,000 and 100 of 4,100"):
        decode_rate(made, prompts, 8, 136)


def test_prompts_are_the_same_each_time_and_a_folder_without_a_model_is_refused(
    tmp_path: Path,
) -> None:
    assert tokens(20, 3, 100) == tokens(20, 3, 100) != tokens(20, 4, 100)
    with pytest.raises(VortexError) as raised:
        main(str(tmp_path), 64, 16, 128)
    assert raised.value.code == "E808"


def test_nothing_longer_than_the_model_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 300, "max_position_embeddings": 512}')
    longest = []

    def generate(input_ids: list[Any], sampling_params: dict[str, Any], **more: Any) -> list[Any]:
        count = sampling_params["max_new_tokens"]
        longest.append(max(map(len, input_ids)) + count)
        return [reply(list(range(count))) for _ in input_ids]

    made = SimpleNamespace(generate=generate, flush_cache=lambda: None, shutdown=lambda: None)
    monkeypatch.setattr("vortex.serving.sglang.check.engine", lambda *a, **k: made)
    monkeypatch.setenv("SGLANG_VORTEX_SWITCH", "")
    main(str(tmp_path), 4096, 16, 8192)
    assert 480 < max(longest) <= 512
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [s["what"] for s in said] == ["weights", "tokens", "decode tokens/s"]
