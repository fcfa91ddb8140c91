"""The tap: what a choice was made from is kept, for as many steps as are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from tests.centroid import centroid  # noqa: E402
from tests.vortex.serving.fake_engine import Engine  # noqa: E402
from vortex.compile import compile_text  # noqa: E402
from vortex.errors import VortexError  # noqa: E402
from vortex.serving.equality import compare, read_choice  # noqa: E402
from vortex.serving.sglang.tap import Tap  # noqa: E402

pytestmark = [pytest.mark.skipif(GPU, reason="the miniature engine lives on the CPU")]


def test_the_tap_keeps_what_a_choice_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_VORTEX_TAP", str(tmp_path))
    engine = Engine(compile_text(centroid(64)))
    engine.backend.tap = Tap.of(engine.sparse, 0)
    engine.prefill({1: 150})
    for _ in range(3):
        engine.decode(1)
    files = sorted((tmp_path / "rank0").glob("*.safetensors"))
    assert [f.stem for f in files[:2]] == ["step000_layer000", "step000_layer001"]
    found = compare(engine.candidate, read_choice(files[0]))
    assert found.pages == 2 * 4 and found.wrong == 0
    other = compile_text(centroid(96))
    assert compare(other, read_choice(files[0])).wrong > 0


def test_a_number_of_tapped_steps_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_VORTEX_TAP", str(tmp_path / "tap"))
    monkeypatch.setenv("SGLANG_VORTEX_TAP_STEPS", "many")
    with pytest.raises(VortexError, match="no number of steps") as raised:
        Tap.of(Engine(compile_text(centroid(64))).sparse, 0)
    assert raised.value.code == "E804" and not (tmp_path / "tap").exists()
