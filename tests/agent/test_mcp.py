"""The official client drives a run over stdio: the desk's answers, the run's budget and record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.door import Door
from agent.outside import claims, judge_pending
from runs.records import RunConfig
from runs.store import Store
from tests.agent.llm.driving import in_threads

pytest.importorskip("mcp")
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

ROOT = Path(__file__).resolve().parents[2]
SEED = (ROOT / "search_spaces/block_topk/seeds/quest.py").read_text()
NEW = SEED.replace("class Quest", "class Fresh").replace('.max("head")', '.mean("head")')
HANDLER = "tests.fake_evaluator:FakeEvaluator"
BROKEN = "tests.fake_evaluator:BrokenEvaluator"


def handed(**more: Any) -> dict[str, Any]:
    return {"program": NEW, "hypothesis": "Means lose less.", "compared_to": 4,
            "expected_loss": "lower", "expected_time": "same"} | more  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with in_threads():
        yield


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose known algorithms are judged."""
    folder = new_run(tmp_path_factory.mktemp("judged"), 100)
    store = Store.open_to_write(folder)
    judge_pending(store, handler=HANDLER)
    store.close()
    return folder


@pytest.fixture
def folder(judged: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(judged, tmp_path / judged.name))


def new_run(folder: Path, evaluations: int) -> Path:
    config = RunConfig(evaluations=evaluations, rungs=(3, 4), workers=1, throughput=False)
    store = Store.create(folder, config, {"test": "yes"})
    store.close()
    return store.folder


def drive(folder: Path, talk: Callable[[ClientSession], Awaitable[None]]) -> None:
    async def session() -> None:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "tests.serve_door", str(folder)], cwd=ROOT,
            env=os.environ | {"VORTEX_CACHE": str(folder.parent / "cache")},
        )  # fmt: skip
        async with (
            stdio_client(server) as (read, write),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            await talk(client)

    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(session)


def said(result: Any) -> str:
    return str(result.content[0].text)


def test_an_agent_looks_checks_submits_and_meets_the_budget(tmp_path: Path) -> None:
    from search_spaces.block_topk import seeds

    folder = new_run(tmp_path, len(seeds()) + 1)

    async def talk(client: ClientSession) -> None:
        tools = {t.name: t for t in (await client.list_tools()).tools}
        assert {"check_program", "price_program", "look_up_op", "read_candidate",
                "submit_program", "front", "guide"} == tools.keys()  # fmt: skip
        assert tools["submit_program"].input_schema["additionalProperties"] is False
        assert "top_k" in said(await client.call_tool("guide", {}))
        checked = await client.call_tool("check_program", {"program": NEW})
        assert not checked.is_error and "Fresh" in said(checked)
        bad = await client.call_tool("check_program", {"program": NEW.replace("k.min", "k.mn")})
        assert bad.is_error and "error[E102]" in said(bad) and "^" in said(bad)
        assert "predicted" in said(await client.call_tool("price_program", {"program": NEW}))
        assert "max" in said(await client.call_tool("look_up_op", {"name": "max"}))
        result = await client.call_tool("submit_program", handed())
        assert not result.is_error, said(result)
        assert "(measured, n =" in said(result) and "hypothesis" in said(result)
        data = result.structured_content
        assert data["taken"] and data["finished"] and data["evaluations_left"] == 0
        assert data["loss_gap"]["error"] is not None
        read = await client.call_tool("read_candidate", {"id": data["id"]})
        assert "Fresh" in said(read)
        front = await client.call_tool("front", {})
        assert front.structured_content["front"] and "evaluations used" in said(front)
        twin = await client.call_tool("submit_program", handed(knobs={"budget": 700}))
        assert twin.is_error and "E706" in said(twin)

    drive(folder, talk)
    store = Store.open_to_read(folder)
    (mine,) = (c for c in store.candidates() if c.proposer == "outside:robot")
    assert claims(store)[mine.id].expected_loss == "lower"
    assert store.evaluated() == store.config().evaluations


def test_wrong_calls_are_told_what_is_wrong_and_the_server_lives_on(folder: Path) -> None:

    async def talk(client: ClientSession) -> None:
        for name, given in (
            ("no_such_tool", {}), ("check_program", {}), ("check_program", {"program": 3}),
            ("check_program", {"program": "(" * 100_000}), ("read_candidate", {"id": 10**9}),
            ("submit_program", {"program": "\x00"}), ("submit_program", handed(compared_to="x")),
            ("look_up_op", {"name": "\x1b[31m", "more": 1}),
        ):  # fmt: skip
            result = await client.call_tool(name, given)
            assert result.is_error and said(result) and "\x1b" not in said(result), name
        assert "class" in said(await client.call_tool("read_candidate", {"id": 4}))

    drive(folder, talk)


def test_standard_output_carries_the_protocol_and_nothing_else(folder: Path) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}}}  # fmt: skip
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call",
            "params": {"name": "submit_program", "arguments": handed()}}  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "tests.serve_door", str(folder)], cwd=ROOT, text=True,
        env=os.environ | {"VORTEX_CACHE": str(folder.parent / "cache")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        assert server.stdin and server.stdout and server.stderr
        for message in (hello, ready, call):
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
        lines = [server.stdout.readline(), server.stdout.readline()]
        server.stdin.close()
        rest = server.stdout.read()
        assert server.wait(60) == 0, server.stderr.read()
    found = [json.loads(line) for line in (*lines, *rest.splitlines())]
    assert [m["id"] for m in found] == [1, 2] and all(m["jsonrpc"] == "2.0" for m in found)
    assert found[1]["result"]["structuredContent"]["taken"]


def test_a_client_that_leaves_loses_nothing(folder: Path) -> None:
    """The verdict of what it handed in is there when somebody asks again."""

    async def leave(client: ClientSession) -> None:
        with anyio.move_on_after(0.5):
            await client.call_tool("submit_program", handed())

    async def ask(client: ClientSession) -> None:
        again = await client.call_tool("submit_program", handed())
        assert again.is_error and "not taken" in said(again)
        other = await client.call_tool("submit_program", handed(knobs={"budget": 700}))
        assert other.structured_content["finished"]

    drive(folder, leave)
    drive(folder, ask)
    store = Store.open_to_read(folder)
    mine = [c.id for c in store.candidates() if c.proposer == "outside:robot"]
    assert len(mine) == 2 and all(store.stages()[i] for i in mine)


def test_a_verdict_that_takes_long_is_told_to_be_asked_for_later(tmp_path: Path) -> None:
    door = Door(Store.open_to_write(new_run(tmp_path, 100)), "outside", handler=HANDLER, wait=0.0)
    try:
        reply = door.call("submit_program", handed())
        assert reply.ok and reply.data is not None and reply.data["finished"] is False
        assert "read_candidate" in reply.text and "Do not hand it in again" in reply.text
    finally:
        door.close()


def test_a_machine_that_fails_is_told_and_the_candidate_stays_recorded(tmp_path: Path) -> None:
    folder = new_run(tmp_path, 100)
    door = Door(Store.open_to_write(folder), "outside", handler="tests.no_such:Handler", wait=60)
    try:
        reply = door.call("submit_program", handed())
        assert not reply.ok and "E509" in reply.text and "recorded and not judged" in reply.text
    finally:
        door.close()
    assert any(c.proposer == "outside" for c in Store.open_to_read(folder).candidates())


def test_a_worker_that_answers_nonsense_is_a_fault_of_the_machine_and_the_next_is_judged(
    folder: Path,
) -> None:
    door = Door(Store.open_to_write(folder), "outside", handler=BROKEN, wait=60)
    try:
        reply = door.call("submit_program", handed())
        assert not reply.ok and reply.data is not None and reply.data["finished"]
        assert "recorded and not judged: the machine could not judge it: IndexError" in reply.text
        other = door.call("submit_program", handed(program=NEW.replace("Fresh", "Other")
                                                   .replace(".mean", ".min")))  # fmt: skip
        assert other.ok and "(measured, n =" in other.text, other.text
    finally:
        door.close()
    store = Store.open_to_read(folder)
    broken, _ = (c.id for c in store.candidates() if c.proposer == "outside")
    assert broken not in store.stages(), "a fault is no verdict"
    assert ("infra_error", f"candidate {broken}: IndexError") in {
        (kind, message[: len(f"candidate {broken}: IndexError")])
        for kind, message, _ in store.events()
    }


def test_an_error_of_ours_ends_no_door_and_stands_in_the_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = [RuntimeError("no \x1b[31m such shelf")]

    def judging(*args: Any, **more: Any) -> None:
        if passes:
            raise passes.pop()
        judge_pending(*args, **more)

    monkeypatch.setattr("agent.door.judge_pending", judging)
    door = Door(Store.open_to_write(folder), "outside", handler=HANDLER, wait=60)
    try:
        reply = door.call("submit_program", handed())
        assert not reply.ok and "RuntimeError: no  [31m such shelf" in reply.text
        assert "recorded and not judged" in reply.text and "Traceback" in capsys.readouterr().err
        other = door.call("submit_program", handed(knobs={"budget": 700}))
        assert other.ok and "(measured, n =" in other.text
    finally:
        door.close()
    store = Store.open_to_read(folder)
    assert [m for k, m, _ in store.events() if k == "infra_error" and "RuntimeError" in m]
    mine = [c.id for c in store.candidates() if c.proposer == "outside"]
    assert len(mine) == 2 and all(i in store.stages() for i in mine), "the first is judged too"


def test_the_command_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    folder = new_run(tmp_path, 100)
    for words, code, ends in (
        (["--run", folder.name, "--context", "4096"], "E303", 2),
        (["--run", "x"], "E606", 2),
        (["--run", folder.name, "--evaluations", "0"], "E303", 2),
        (["--run", folder.name, "--evaluations", "9" * 24], "E303", 2),
        (["--name", "a b"], "E303", 2),
        (["--model", "no-such-model"], "E401", 2),
    ):
        done = CliRunner().invoke(main, ["mcp", *words, "--runs-dir", str(tmp_path)])
        assert done.exit_code == ends and code in done.stderr and not done.stdout, words


def test_the_command_serves_a_new_run_or_goes_on_with_one_under_a_larger_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Path, int, str]] = []

    def note(store: Store, source: str) -> None:
        served.append((store.folder, store.config().evaluations, source))
        store.close()

    monkeypatch.setattr("agent.commands.mcp.serve", note)
    monkeypatch.setattr("agent.commands.mcp.fetched", lambda *_: None)
    rest = ["--runs-dir", str(tmp_path), "--name", "robot"]
    for words in (["--evaluations", "7"], ["--run", "latest", "--evaluations", "9"]):
        done = CliRunner().invoke(main, ["mcp", *words, *rest])
        assert done.exit_code == 0 and not done.stdout and "serving run" in done.stderr
    (first, seven, source), (second, nine, _) = served
    assert first == second and (seven, nine, source) == (7, 9, "outside:robot")


def test_without_the_package_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["mcp", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 3 and "E707" in done.stderr and "vortex-search[mcp]" in done.stderr
    assert not list(tmp_path.iterdir()), "no run is made that nobody can drive"
