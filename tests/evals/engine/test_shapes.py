"""Folders of known shapes: enough for an engine, and the shape that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.engine.shapes import shape_folder
from vortex.errors import VortexError
from vortex.geometry import from_config, geometry


@pytest.mark.parametrize("name", ["qwen3-1.7b", "smollm2-135m"])
def test_a_folder_has_the_shape_of_the_model(tmp_path: Path, name: str) -> None:
    known = geometry(name)
    made = from_config(shape_folder(known, tmp_path / name, 100_000))
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "dense_parameters"):
        assert getattr(made, field) == getattr(known, field)
    assert made.max_context >= 100_000


def test_a_shape_with_experts_needs_its_own_configuration(tmp_path: Path) -> None:
    with pytest.raises(VortexError) as caught:
        shape_folder(geometry("glm-4.7-flash"), tmp_path, 1000)
    assert caught.value.code == "E906"
