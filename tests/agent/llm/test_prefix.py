"""The prefix is the same bytes for a whole run, small, and true of the run's target."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.llm.prefix import prefix
from agent.llm.target import parts_of, target_of
from evals.result import Status
from runs.records import RunConfig
from search_spaces.block_topk import library
from tests.agent.llm.state import CONFIG
from vortex import compile_text
from vortex.errors import VortexError
from vortex.geometry import GEOMETRIES
from vortex.handbook import terse
from vortex.ops import OPS

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = (
    "import hashlib; from agent.llm.prefix import prefix; from runs.records import RunConfig; "
    "print(hashlib.sha256(prefix(RunConfig()).encode()).hexdigest())"
)


def test_two_processes_that_hash_differently_write_the_same_bytes() -> None:
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_budgets_that_a_resumed_run_may_change_do_not_change_it() -> None:
    more = CONFIG.model_copy(update={"evaluations": 999, "minutes": 3.0, "workers": 7})
    assert prefix(CONFIG) == prefix(more)
    assert prefix(CONFIG) != prefix(CONFIG.model_copy(update={"context": 65536}))


@pytest.mark.parametrize("model", sorted(GEOMETRIES))
def test_it_stays_small_for_every_model(model: str) -> None:
    for device in ("cpu", "cuda:0"):
        text = prefix(RunConfig(model=model, device=device))
        assert 8_000 < len(text.encode()) <= 28_000
        assert "predicted" in text and model in text


@pytest.mark.parametrize(("context", "batch"), [(64, 1), (300, 1), (1 << 20, 256)])
def test_odd_workloads_have_cost_facts_too(context: int, batch: int) -> None:
    assert "speed-up" in prefix(RunConfig(context=context, batch=batch))


def test_every_op_of_a_candidate_and_every_status_is_told() -> None:
    text, language = prefix(CONFIG), terse()
    for op in OPS.values():
        if op.kind not in ("scalar",) and op.name not in ("field", "union") and not op.reserved:
            assert f"\n{op.name}: " in language
    assert language.rstrip() in text
    assert all(f"{status}: " in text for status in Status)


def test_a_target_that_is_not_known_is_an_error_of_the_user_s() -> None:
    with pytest.raises(VortexError) as caught:
        prefix(RunConfig(model="no-such-model"))
    assert caught.value.code == "E401"


@pytest.mark.parametrize("seed", library(), ids=lambda s: s.name)
def test_the_parts_of_a_step_add_up_to_it(seed: object) -> None:
    try:
        candidate = compile_text(seed.text)  # type: ignore[attr-defined]
    except VortexError:
        return  # it loads numbers of its own
    for model in ("smollm2-135m", "glm-4.7-flash"):
        target = target_of(RunConfig(model=model))
        try:
            step = target.price(candidate).sparse
        except VortexError:
            continue  # it is for the other kind of model
        parts = parts_of(candidate, target)
        total = parts.route + parts.attend + parts.dense + parts.upkeep + parts.weights
        assert total == pytest.approx(step.seconds, rel=1e-9)
