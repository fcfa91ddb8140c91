"""Folders of known shapes: enough for an engine, and the shape that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.engine.shapes import SPARE, context_for, shape_folder
from vortex.geometry import GEOMETRIES, from_config, geometry


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_a_folder_has_the_shape_of_the_model(tmp_path: Path, name: str) -> None:
    known = geometry(name)
    made = from_config(shape_folder(name, tmp_path / name, 300_000))
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "dense_parameters"):
        assert getattr(made, field) == getattr(known, field)
    assert made.max_context >= 300_000 and made.weight_dtype == "bf16"


def test_a_folder_may_have_the_first_layers_alone(tmp_path: Path) -> None:
    made = from_config(shape_folder("minimax-m2.7", tmp_path, 1000, layers=12))
    assert made.layers == 12 and made.experts is not None and made.experts.layers == 12


def test_an_engine_s_context_is_what_is_asked_for_within_the_model_s() -> None:
    assert context_for(4000, 40_960) == 4000 + SPARE
    assert context_for(40_950, 40_960) is None and context_for(50_000, 40_960) is None
