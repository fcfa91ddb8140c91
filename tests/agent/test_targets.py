"""A target is judged on a model of its kind of attention, and the note says on which."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from agent.targets import accuracy_model_for, notes_of, standin_note
from runs.records import RunConfig


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("smollm2-135m", "smollm2-135m"), ("qwen3-1.7b", "smollm2-135m"),
     ("glm-4.7-flash", "smollm2-135m-mla")],
)  # fmt: skip
def test_the_stand_in_attends_as_the_target_does(target: str, wanted: str) -> None:
    assert accuracy_model_for(target) == wanted


def test_the_note_states_the_loss_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    assert "loss is not known" in standin_note("glm-4.7-flash", "smollm2-135m-mla")
    (tmp_path / "models").mkdir()
    facts = {"loss": "0.371", "loss_error": "0.052", "measured_on": "2 texts"}
    save_file({"up": torch.zeros(1)}, tmp_path / "models/smollm2-135m-mla.safetensors",
              metadata=facts)  # fmt: skip
    note = standin_note("glm-4.7-flash", "smollm2-135m-mla")
    assert "MLA form of smollm2-135m with factored keys" in note
    assert (
        "+0.37 ± 0.05 nats a token on 2 texts" in note
        and "times are those of glm-4.7-flash" in note
    )


def test_there_is_no_note_without_a_stand_in_and_a_plain_one_for_the_same_kind() -> None:
    assert standin_note("smollm2-135m", "smollm2-135m") == ""
    assert "MLA" not in standin_note("qwen3-1.7b", "smollm2-135m")
    assert "not the target's MLA latent" in standin_note("glm-4.7-flash", "smollm2-135m")


def test_a_cap_on_gpu_seconds_without_a_gpu_is_said_to_cap_nothing() -> None:
    def said(**values: object) -> list[str]:
        return notes_of(RunConfig.model_validate({"gpu_seconds": 60.0, **values}))

    (note,) = said()
    assert note.startswith("note: --gpu-seconds caps nothing: candidates run on cpu")
    assert said(device="cuda:0") == [] == notes_of(RunConfig())
    both = said(model="qwen3-1.7b")
    assert len(both) == 2 and "stand-in" in both[0]
