"""A run's store keeps what was found, once, for one writer and any number of readers."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from evals.result import Stage, Status
from runs.naming import find_run, list_runs
from runs.records import SCHEMA_VERSION
from runs.store import Store
from tests.runs.synthetic import evaluation, metric, new_store, samples, stage
from vortex.errors import ExitCode, VortexError

ROOT = Path(__file__).resolve().parents[2]


def add(store: Store, text: str = "class A: ...", **more: object) -> int:
    return store.add(text=text, knobs={}, proposer="seed", **more)[0]  # type: ignore[arg-type]


def changed(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "run.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_is_recorded_comes_back_the_same(tmp_path: Path) -> None:
    store = new_store(tmp_path, model="glm-4.7-flash", seed=7)
    first = add(store)
    second, _ = store.add(
        text="class B: ...", knobs={"budget": 512, "kind": "x", "mix": 0.5}, proposer="evolve",
        parents=(first,), note="swap a reduction", name="B",
    )  # fmt: skip
    price = stage(Stage.PRICE, metrics=(metric(),), message="fine", seconds=0.5)
    accuracy = stage(Stage.ACCURACY, rung=1, samples=samples([1.0, 2.0]))
    store.record(second, evaluation(price, accuracy), name="B")
    store.note("started", "resumed")
    store.close()

    store = Store.open_to_read(store.folder)
    assert store.config().seed == 7 and store.config().standin
    assert store.environment() == {"processor": "test"}
    record = store.candidates()[1]
    assert (record.name, record.parents, record.note) == ("B", (first,), "swap a reduction")
    assert record.knobs == {"budget": 512, "kind": "x", "mix": 0.5}
    assert (record.candidate_hash, record.structure_hash) == ("d0", "s-d0")
    assert store.stages() == {second: [price, accuracy.model_copy(update={"samples": ()})]}
    assert store.samples() == {second: list(accuracy.samples)}
    assert [(k, m) for k, m, _ in store.events()] == [("started", "resumed")]


def test_a_proposal_made_twice_is_one_candidate(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    first, new = store.add(text="t", knobs={"a": 1, "b": 2}, proposer="seed")
    again, renewed = store.add(text="t", knobs={"b": 2, "a": 1}, proposer="evolve")
    other, third = store.add(text="t", knobs={"a": 1, "b": 3}, proposer="tune")
    assert (first, new) == (again, not renewed)
    assert other != first and third
    assert [c.proposer for c in store.candidates()] == ["seed", "tune"]


def test_a_text_that_is_no_program_is_kept_with_its_verdict(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    identity = add(store, "not a program \x00 at all")
    refused = stage(Stage.PARSE, Status.REJECTED, message="error[E100]")
    store.record(identity, evaluation(refused, digest=None))
    assert store.candidates()[0].text == "not a program \x00 at all"
    assert store.candidates()[0].candidate_hash is None
    assert store.stages()[identity] == [refused]


def test_a_stage_recorded_twice_stays_as_it_was(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    identity = add(store)
    for value in (1.0, 9.0):
        kept = stage(samples=samples([value]), message=str(value))
        store.record(identity, evaluation(kept))
    assert [s.message for s in store.stages()[identity]] == ["1.0"]
    assert [s.value for s in store.samples()[identity]] == [1.0]


def test_each_rung_of_racing_is_a_result_of_its_own(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    identity = add(store)
    for rung in (0, 1, 2):
        store.record(identity, evaluation(stage(rung=rung)))
    assert [s.rung for s in store.stages()[identity]] == [0, 1, 2]


def test_sealed_measurements_are_kept_apart(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    identity = add(store)
    store.record(identity, evaluation(
        stage(samples=samples([1.0])), stage(Stage.SEALED, samples=samples([2.0], split="sealed"))
    ))  # fmt: skip
    assert [s.value for s in store.samples("search")[identity]] == [1.0]
    assert [s.value for s in store.samples("sealed")[identity]] == [2.0]


def test_an_evaluation_is_kept_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    identity = add(store)
    keep, calls = Store._stage, []

    def fails_at_second(self: Store, *args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        keep(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_stage", fails_at_second)
    with pytest.raises(KeyboardInterrupt):
        store.record(identity, evaluation(stage(Stage.PRICE), stage(samples=samples([1.0]))))
    assert store.stages() == {} and store.candidates()[0].candidate_hash is None


def test_controls_and_duplicates_do_not_count_as_evaluated(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    ids = [add(store, f"p{i}", control=i == 0) for i in range(4)]
    verdicts = (Status.OK, Status.OK, Status.DUPLICATE)
    for i, (identity, status) in enumerate(zip(ids, verdicts, strict=False)):
        store.record(identity, evaluation(stage(Stage.DEDUP, status), digest=f"d{i}"))
    assert store.evaluated() == 1


def test_a_run_can_be_extended(tmp_path: Path) -> None:
    store = new_store(tmp_path, evaluations=10)
    store.extend(store.config().model_copy(update={"evaluations": 20}))
    store.close()
    assert Store.open_to_write(store.folder).config().evaluations == 20


def test_a_reader_sees_what_is_committed_while_another_process_writes(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    reader = Store.open_to_read(store.folder)
    with store.write() as connection:
        connection.exec_driver_sql(
            "insert into events (kind, message, created) values ('a', 'b', 0)"
        )
        assert reader.events() == []
    assert len(reader.events()) == 1


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with pytest.raises(VortexError) as caught:
        add(Store.open_to_read(store.folder))
    assert caught.value.code == "E604"


def test_a_finished_run_where_nothing_can_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    first = add(store)
    store.close()
    before = {p.name for p in store.folder.iterdir()}
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    reader = Store.open_to_read(store.folder)
    with reader.read():
        assert [c.id for c in reader.candidates()] == [first]
        assert {p.name for p in store.folder.iterdir()} == before, "it wrote beside the run"
    reader.close()


def test_a_run_that_is_being_written_is_not_taken_for_a_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    reader = Store.open_to_read(store.folder)
    candidate = add(store)
    assert [c.id for c in reader.candidates()] == [candidate]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look at everything")
def test_a_run_that_may_not_be_looked_at_hides_no_other(tmp_path: Path) -> None:
    store, hidden = new_store(tmp_path), tmp_path / "hidden"
    (hidden / "in").mkdir(parents=True)
    hidden.chmod(0)
    try:
        assert list_runs(tmp_path) == [store.name]
        assert find_run(tmp_path, None) == store.folder
    finally:
        hidden.chmod(0o700)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    folder = new_store(tmp_path).folder
    code = (
        "import os, sys; from pathlib import Path; from runs.store import Store\n"
        "from vortex.errors import VortexError\n"
        "try: Store.open_to_write(Path(sys.argv[1]))\n"
        "except VortexError as e: print(e.code, os.getppid(), e.message); sys.exit(e.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    refusal, parent, message = done.stdout.split(maxsplit=2)
    assert refusal == "E603" and message.rstrip().endswith(f"process {parent}")


def test_a_closed_run_can_be_taken_up_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.close()
    add(Store.open_to_write(store.folder))


def test_a_run_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.close()
    changed(store.folder, f"update run set schema_version = {SCHEMA_VERSION + 1}")
    for opened in (Store.open_to_read, Store.open_to_write):
        with pytest.raises(VortexError, match="newer") as caught:
            opened(store.folder)
        assert caught.value.code == "E602"


@pytest.mark.parametrize("damage", ["noise", "empty", "cut", "no run", "config"])
def test_a_damaged_run_is_said_to_be_damaged(tmp_path: Path, damage: str) -> None:
    store = new_store(tmp_path)
    for i in range(200):
        add(store, f"{i}" * 100)
    store.close()
    path = store.folder / "run.db"
    data = path.read_bytes()
    if damage == "no run":
        changed(store.folder, "delete from run")
    elif damage == "config":
        changed(store.folder, """update run set config = '{"surprise": 1}'""")
    else:
        path.write_bytes({"noise": b"\x07" * len(data), "empty": b"", "cut": data[:6000]}[damage])
    with pytest.raises(VortexError) as caught:
        opened = Store.open_to_read(store.folder)
        opened.config()
        opened.candidates()
    assert caught.value.code == "E601"
    assert store.name in caught.value.message


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(VortexError) as caught:
            Store.open_to_read(folder)
        assert caught.value.code == "E605"


def test_runs_are_found_by_name_by_a_beginning_and_by_age(tmp_path: Path) -> None:
    for name in ("2026-01-01-calm-elm-01", "2026-01-02-keen-oak-02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.db").touch()
    (tmp_path / "no-run").mkdir()
    assert sorted(list_runs(tmp_path)) == ["2026-01-01-calm-elm-01", "2026-01-02-keen-oak-02"]
    assert find_run(tmp_path, "2026-01-01").name == "2026-01-01-calm-elm-01"
    assert find_run(tmp_path, None).name in list_runs(tmp_path)
    for unclear in ("2026", "other"):
        with pytest.raises(VortexError) as caught:
            find_run(tmp_path, unclear)
        assert caught.value.code == "E606" and "keen-oak-02" in str(caught.value.hint)


def test_without_runs_the_latest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VortexError) as caught:
        find_run(tmp_path / "missing", None)
    assert caught.value.code == "E606"


def test_runs_started_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    stores = [new_store(tmp_path) for _ in range(20)]
    assert len({s.folder for s in stores}) == 20
