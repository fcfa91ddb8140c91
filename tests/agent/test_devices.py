"""Where a search runs: a GPU where there is one, and no wish is quietly ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agent.commands.configure import make_config
from agent.devices import priced_device, run_device
from agent.loop import Search
from agent.presentation import board_of
from agent.proposers.evolve import Evolve
from agent.workers import crew_for
from evals.result import Stage
from runs.leaderboard import facts
from runs.records import SCHEMA_VERSION, RunConfig
from runs.store import Store
from tests.drive_search import HANDLER
from tests.runs.synthetic import evaluation, metric, new_store, stage
from vortex.errors import ExitCode, VortexError

WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@WITHOUT
@pytest.mark.parametrize("wanted", [None, "auto", "cpu", "CPU"])
def test_without_a_gpu_candidates_run_on_the_processor(wanted: str | None) -> None:
    assert run_device(wanted) == "cpu"
    assert priced_device("cpu") == "h200"


@WITHOUT
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(wanted: str) -> None:
    with pytest.raises(VortexError) as error:
        run_device(wanted)
    assert (error.value.code, error.value.exit_code) == ("E413", ExitCode.ENVIRONMENT)
    assert "--device cpu" in str(error.value.hint)


@pytest.mark.parametrize("wanted", ["h200", "tpu", "cuda:x", ""])
def test_what_is_no_place_to_run_is_said_and_prices_have_an_option_of_their_own(
    wanted: str,
) -> None:
    if not wanted:
        assert run_device(wanted) == run_device("auto")
        return
    with pytest.raises(VortexError) as error:
        run_device(wanted)
    assert error.value.code == "E303" and "--price-for" in str(error.value.hint)


def test_a_config_prices_another_device_than_it_runs_on() -> None:
    config = make_config(None, {"device": "cpu", "price_for": "h100"})
    assert (config.device, config.price_for, config.on_gpu) == ("cpu", "h100", False)


def test_runs_of_version_1_keep_the_device_they_were_priced_for() -> None:
    old = {**RunConfig().model_dump(), "schema_version": 1, "device": "b200"}
    del old["price_for"]
    config = RunConfig.model_validate(old)
    assert (config.device, config.price_for, config.schema_version) == (
        "cpu",
        "b200",
        SCHEMA_VERSION,
    )


def test_a_gpu_s_workers_are_its_own_and_may_keep_compiled_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    crew = crew_for(RunConfig(device="cuda:0"), 1)
    setup = crew.make().setup
    assert str(setup["handler"]).endswith("DeviceEvaluator")
    assert setup["writable"] == [str(tmp_path / "triton"), str(tmp_path / "kernels")]
    assert setup["limits"]["memory"] is None
    assert crew_for(RunConfig(), 1).make().setup["writable"] == []


def test_on_a_gpu_every_judged_candidate_is_timed_once(tmp_path: Path) -> None:
    config = RunConfig(evaluations=12, rungs=(3, 4), workers=2, device="cuda:0")
    store = Store.create(tmp_path, config, {})
    Search(store, (Evolve(),), lambda p: None, lambda: False, handler=HANDLER).run()
    stages = store.stages()
    for record in store.candidates():
        kinds = [s.stage for s in stages[record.id]]
        wanted = Stage.ACCURACY in kinds and not record.control
        assert kinds.count(Stage.THROUGHPUT) == wanted
    store.close()


def test_the_leaderboard_says_beside_what_candidates_were_timed_and_what_was_left_out(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path)
    found, _ = store.add(text="x", knobs={}, proposer="seed", name="A")
    by = "full attention by vortex; FlashAttention-3 left out: it ended its process"
    timed = metric("gpu_speedup", 2.0).model_copy(update={"workload": f"batch 16, {by}"})
    store.record(found, evaluation(stage(Stage.THROUGHPUT, metrics=(timed,))))
    board = board_of(store)
    assert board.gpu == f"h200 ({by})"
    assert any(f"on h200 ({by})" in line for line in facts(board))
