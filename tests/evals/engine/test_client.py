"""What a client sees: OpenAI's own package against a server, tiny here, real on a GPU machine.

The real one is SGLang with the plugin, started by this test: ``VORTEX_SERVED_MODEL`` names a
checkpoint with a chat template, ``VORTEX_SERVED_PROGRAM`` an exported folder (else a small program
is written). Or ``VORTEX_SERVED_URL`` names one that runs.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.engine.shapes import shape_folder
from runs.serving import engine_page
from tests.centroid import centroid
from tests.openai_server import TinyServer
from vortex.exported import read_exported
from vortex.geometry import from_config

pytest.importorskip("openai")
import openai

PROGRAM = centroid(512)
_START_SECONDS = 280
SAY = [{"role": "user", "content": "Count from one to twenty in words."}]


@pytest.fixture(
    scope="module",
    params=["tiny", pytest.param("real", marks=[pytest.mark.gpu, pytest.mark.timeout(400)])],
)
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The client of a server, and the name of its model."""
    if request.param == "tiny":
        with TinyServer(reply=lambda prompt: "one two three four " * 8, first=0.05) as server:
            yield connected(server.url)
        return
    given = os.environ.get("VORTEX_SERVED_URL")
    if given:
        yield connected(given)
        return
    model = os.environ.get("VORTEX_SERVED_MODEL")
    if not model:
        pytest.skip("VORTEX_SERVED_MODEL names no checkpoint")
    pytest.importorskip("sglang")
    yield from started(Path(model), tmp_path_factory.mktemp("server"))


@pytest.fixture
def real(request: pytest.FixtureRequest) -> bool:
    """Whether the server has a model."""
    return bool(request.node.callspec.params["client"] == "real")


def connected(url: str) -> tuple[openai.OpenAI, str]:
    found = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    return found, found.models.list().data[0].id


def started(model: Path, scratch: Path) -> Iterator[Any]:
    """A server process of its own, ended with its children."""
    program = Path(os.environ.get("VORTEX_SERVED_PROGRAM") or scratch / "program.py")
    if not program.exists():
        program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = scratch / "server.log"
    command = served_by(model, program, port)
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=os.environ | {"SGLANG_VORTEX_PROGRAM": str(program)}, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield waited(f"http://127.0.0.1:{port}/v1", process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def served_by(model: Path, program: Path, port: int) -> list[str]:
    """The server's command; its pages are those that the program is served with."""
    page = engine_page(read_exported(program).candidate, from_config(model))
    return [
        sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--port",
        str(port), "--attention-backend", "vortex", "--page-size", str(page), "--sampling-backend",
        "pytorch", "--grammar-backend", "none", "--mem-fraction-static", "0.7",
    ]  # fmt: skip


def waited(url: str, process: subprocess.Popen[bytes], log: Path) -> tuple[openai.OpenAI, str]:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            return connected(url)
        except openai.APIError:
            time.sleep(1)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.parametrize(
    ("model", "own", "page"),
    [("qwen3-1.7b", 16, "16"), ("qwen3-1.7b", 32, "32"), ("glm-4.7-flash", 16, "64")],
)
def test_the_server_has_the_pages_of_the_program_that_it_is_given(
    tmp_path: Path, model: str, own: int, page: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(centroid(512, page=own))
    command = served_by(shape_folder(model, tmp_path / model, 4096), program, 1)
    assert command[command.index("--page-size") + 1] == page


def test_a_chat_turn_is_answered(client: Any) -> None:
    server, model = client
    made = server.chat.completions.create(model=model, messages=SAY, max_tokens=16, temperature=0)
    assert made.choices[0].message.content
    assert made.choices[0].finish_reason in ("stop", "length")
    assert made.usage and 0 < made.usage.completion_tokens <= 16 and made.usage.prompt_tokens > 0


def test_a_stream_comes_in_pieces_and_is_the_whole_reply(client: Any) -> None:
    server, model = client
    ask = {"model": model, "messages": SAY, "max_tokens": 16, "temperature": 0}
    whole = server.chat.completions.create(**ask).choices[0].message.content
    pieces, times, finish = [], [], None
    stream = server.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
                times.append(time.perf_counter())
            finish = choice.finish_reason or finish
        usage = chunk.usage
    assert "".join(pieces) == whole and len(pieces) > 3
    assert times[-1] > times[0] and finish in ("stop", "length")
    assert usage is not None and usage.completion_tokens >= len(pieces) - 1


def test_requests_at_once_get_their_own_answers(client: Any) -> None:
    server, model = client

    def ask(count: int) -> Any:
        made = server.completions.create(
            model=model, prompt=f"Number {count}:", max_tokens=count, temperature=0,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        return count, made.choices[0].text, made.usage.completion_tokens

    counts = [4 + 3 * i for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, counts))
    assert [(c, n) for c, _, n in found] == [(c, c) for c in counts]
    assert all(text for _, text, _ in found)


def test_sixteen_at_once_are_told_what_every_model_knows(client: Any, real: bool) -> None:
    if not real:
        pytest.skip("the tiny server says one thing")
    server, model = client
    asked = [{"role": "user", "content": "Name the capital of France."}]

    def ask(_: int) -> str:
        made = server.chat.completions.create(
            model=model, messages=asked, max_tokens=24, temperature=0
        )
        return str(made.choices[0].message.content)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all("Paris" in reply for reply in pool.map(ask, range(16)))


def test_a_long_prompt_is_answered_beyond_what_the_budget_covers(client: Any) -> None:
    server, model = client
    prompt = "The grass is green. " * 300 + "The grass is"
    made = server.completions.create(model=model, prompt=prompt, max_tokens=4, temperature=0)
    assert made.usage and made.usage.prompt_tokens > 512 and made.choices[0].text.strip()
