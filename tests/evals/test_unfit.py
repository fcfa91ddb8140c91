"""A candidate that its stand-in would run as full attention is not judged there."""

from __future__ import annotations

from types import SimpleNamespace

from evals.evaluator import Evaluator
from tests.centroid import centroid
from vortex import compile_text
from vortex.geometry import geometry
from vortex.workload import Workload


def unfit(ends: str, layers: int) -> str:
    """What is said of it by a stand-in of so many layers for a target with 47."""
    judge = Evaluator.__new__(Evaluator)
    judge.model = SimpleNamespace(spec=SimpleNamespace(layers=layers))  # type: ignore[assignment]
    judge.geometry, judge.workload = geometry("glm-4.7-flash"), Workload(16, 32768)
    judge.config = {}
    more = f"dense_layers = vx.layers({ends})"
    return judge._unfit(compile_text(centroid(4096, more=more)))


def test_dense_layers_that_are_all_of_the_stand_in_s_are_refused_and_others_are_not() -> None:
    assert geometry("glm-4.7-flash").layers == 47
    said = unfit("first=23, last=23", 30)  # 15 and 15 of 30
    assert "the 30 layers" in said and "declare fewer" in said
    assert not unfit("first=23, last=23", 47)
    assert not unfit("first=46", 30) and not unfit("first=0", 30)
