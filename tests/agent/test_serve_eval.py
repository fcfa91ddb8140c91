"""serve-eval from the command line: against a server, and how bad input ends."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models, pre_tokenizers

from agent.cli import main
from evals.models.write_folder import gguf_to_folder
from tests.centroid import centroid
from tests.evals.test_write_folder import small_gguf
from tests.openai_server import TinyServer

PROGRAM = centroid(512)
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
    "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's configuration and tokenizer, without weights."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    fast = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast.save(str(made / "tokenizer.json"))
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["serve-eval", *map(str, arguments)])


def code(result: Result) -> str:
    found = re.findall(r"error\[(E\d+)\]", result.stderr)
    assert result.exit_code in (2, 3) and len(found) == 1, result.output
    assert "Traceback" not in result.output
    return str(found[0])


def knows(share: float) -> Callable[[str], str]:
    """A server that finds the needle in this share of prompts."""

    def reply(prompt: str) -> str:
        numbers = re.findall(r"registry numbers of \S+ is (\d+)", prompt)
        return numbers[0] if numbers and int(numbers[0]) % 100 < 100 * share else "unknown"

    return reply


def test_two_servers_are_compared_on_problems_and_speed(
    tmp_path: Path, program: Path, folder: Path
) -> None:
    out = tmp_path / "out"
    with (
        TinyServer(reply=knows(1.0), first=0.004, each=0.01) as full,
        TinyServer(reply=knows(0.5), first=0.004, each=0.001) as sparse,
    ):
        arguments = (
            program, "--model", folder, "--url", sparse.url, "--full-url", full.url,
            "--ruler", "needle,needle-keys", "--lengths", "700", "--count", "6", "-o", out,
        )  # fmt: skip
        result = run(*arguments, "--json", "--throughput", "2x40", "--pairs", "2")
        assert result.exit_code == 0, result.output
        asked = len(full.requests)
        again = run(*arguments)
    assert again.exit_code == 0 and len(full.requests) == asked  # nothing is asked twice
    data = json.loads(result.stdout)
    assert data == json.loads((out / "report.json").read_text()) | {
        k: data[k] for k in ("figures", "raw", "notes", "agreement", "engines", "how")
    }
    values = {(f["metric"]["name"], f["mode"], f["where"]): f["metric"] for f in data["figures"]}
    needle = values["mean@1", "full", "needle 700"]
    assert (needle["value"], needle["n"], needle["unit"]) == (1.0, 6, "share")
    gap = values["mean@1_difference", "sparse - full", "all"]
    assert -1 < gap["value"] < 0 and gap["stderr"] > 0
    assert values["decode_speedup", "sparse / full", "2 x 40"]["value"] > 1.3
    assert any("taken at its word" in note for note in data["notes"])
    assert "| needle 700 | mean@1 | full | 1 ± 0 [0.6097, 1] | 6 | 6 | share |" in again.stdout
    assert (out / "report.md").read_text() == again.stdout
    assert all(json.loads(line)["reply"] for line in (out / "answers.jsonl").open())


def test_a_user_s_problems_are_sampled_in_the_chat_format(tmp_path: Path, program: Path) -> None:
    problems = tmp_path / "p.jsonl"
    lines = [{"id": f"{i}", "prompt": f"{i} + 1 =", "answer": i + 1, "scorer": "boxed",
              "group": "sums"} for i in range(3)]  # fmt: skip
    problems.write_text("\n".join(map(json.dumps, lines)))
    with TinyServer(reply=lambda prompt: "\\boxed{2} .") as server:
        result = run(program, "--url", server.url, "--problems", problems, "--k", 4, "--chat",
                     "-o", tmp_path / "o")  # fmt: skip
        assert set(server.paths) == {"/v1/chat/completions"}
        assert {r["temperature"] for r in server.requests} == {0.6} and len(server.requests) == 12
    assert result.exit_code == 0, result.output
    assert "| sums | mean@4 | sparse | 0.3333 ± 0.3333 [" in result.stdout
    assert "pass@4" in result.stdout and "Only sparse attention was run" in result.stdout


def test_a_point_without_the_right_outputs_ends_in_1_and_says_why(
    tmp_path: Path, program: Path
) -> None:
    with TinyServer(usage=False, counts=False, reply=lambda p: "one") as server:
        server.words = lambda body: (["one"], "stop")  # type: ignore[method-assign]
        result = run(program, "--url", server.url, "--throughput", "1x10", "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "NOT MEASURED: 1 x 10: 4 tokens were asked for, 1 came" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--throughput", "16"), "E907"), (("--throughput", "0x5"), "E907"),
        (("--lengths", "x"), "E907"), (("--pairs", "0", "--throughput", "1x1"), "E907"),
        (("--gap-limit", "nan", "--throughput", "1x1"), "E907"), (("--ruler", "needel"), "E902"),
        ((), "E906"), (("--throughput", "1x10"), "E906"),
        (("--throughput", "1x10", "--url", "nonsense"), "E906"),
        (("--throughput", "1x10", "--url", "http://127.0.0.1:9/v1"), "E904"),
        (("--problems", "/absent"), "E901"),
        (("--throughput", "1x10", "--model", "no-such"), "E401"),
        (("--throughput", "1x10", "--weights", "/absent"), "E404"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(
    tmp_path: Path, program: Path, arguments: tuple[str, ...], expected: str
) -> None:
    assert code(run(program, *arguments, "-o", tmp_path / "o")) == expected


def test_what_is_no_export_is_said(tmp_path: Path) -> None:
    arguments = ("--throughput", "1x10", "--url", "http://127.0.0.1:9/v1")
    assert code(run(tmp_path / "absent", *arguments)) == "E801"


def test_without_sglang_a_named_shape_says_how_to_get_it(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sglang", None)
    for more in ((), ("--full-backend", "fa3")):
        result = run(program, "--model", "qwen3-1.7b", "--throughput", "1x10", *more,
                     "-o", tmp_path / "o")  # fmt: skip
        assert code(result) == "E903"


def test_generated_prompts_need_a_tokenizer(tmp_path: Path, program: Path) -> None:
    with TinyServer() as server:
        result = run(program, "--url", server.url, "--ruler", "needle", "-o", tmp_path / "o")
    assert code(result) == "E906" and "tokenizer" in result.stderr


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, program: Path) -> None:
    (tmp_path / "file").write_text("")
    with TinyServer(reply=lambda prompt: "a b") as server:
        result = run(program, "--url", server.url, "--throughput", "1x5", "--pairs", "1",
                     "-o", tmp_path / "file")  # fmt: skip
    assert code(result) == "E604"


def test_with_the_engine_here_both_ways_of_full_attention_are_set_up(
    tmp_path: Path, program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.engine import sglang_engine
    from tests.evals.engine.fake import FakeEngine

    setups: list[Any] = []

    class Here(FakeEngine):
        def __init__(self, setup: Any) -> None:
            setups.append(setup)
            super().__init__(modes=("full", "sparse") if setup.export else ("full",),
                             weights="random")  # fmt: skip

    monkeypatch.setattr(sglang_engine, "SGLangEngine", Here)
    base = (program, "--model", folder, "--throughput", "2x32", "-o", tmp_path / "o")
    result = run(*base, "--ruler", "needle")
    assert result.exit_code == 0, result.output
    assert "No accuracy: weights are random" in result.stdout and "decode_speedup" in result.stdout
    both = run(*base, "--full-backend", "fa3")
    assert both.exit_code == 0 and "one after the other" in both.stdout
    switch, plain, sparse = setups
    assert switch.export == sparse.export == program and plain.export is None
    assert plain.backend == "fa3" and {s.memory for s in setups} == {0.8}
    assert {s.page_size for s in setups} == {16} and not any(s.weights for s in setups)


def test_answers_without_an_engine_come_from_our_own_executor(
    tmp_path: Path, program: Path
) -> None:
    gguf_to_folder(str(small_gguf(tmp_path / "m.gguf", "llama")), tmp_path / "model")
    problems = tmp_path / "p.jsonl"
    lines = [{"id": f"{i}", "prompt": "he" * 8, "answer": "A", "scorer": "contains"}
             for i in range(2)]  # fmt: skip
    problems.write_text("\n".join(map(json.dumps, lines)))
    local = (program, "--local", "--weights", tmp_path / "model", "-o", tmp_path / "o")
    result = run(*local, "--problems", problems, "--max-new", 8, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert set(data["engines"]) == {"full", "sparse"}
    assert "own executor" in data["engines"]["sparse"]["engine"]
    values = {(f["metric"]["name"], f["mode"]): f["metric"]["value"] for f in data["figures"]}
    assert values["mean@1_difference", "sparse - full"] == 0  # the budget covers the prompt
    assert values["reply_tokens", "full"] <= 8
    report = (tmp_path / "o" / "report.md").read_text()
    first = report.splitlines()[0]
    assert first.endswith(" by our own executor, without an engine")
    assert report.count("Executor of ") == 2 and "Engine" not in report and "Poisson" not in report
    assert "in flight" not in report, "nothing was timed"


@pytest.mark.parametrize("more", [("--throughput", "2x40"), ("--url", "http://127.0.0.1:9/v1")])
def test_our_own_executor_gives_no_speed_and_no_server(
    tmp_path: Path, program: Path, folder: Path, more: tuple[str, str]
) -> None:
    result = run(program, "--local", "--weights", folder, "--ruler", "needle", *more,
                 "-o", tmp_path / "o")  # fmt: skip
    assert code(result) == "E906"


def test_a_report_says_up_to_which_length_a_program_leaves_nothing_out(
    tmp_path: Path, program: Path
) -> None:
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"id": "1", "prompt": "a", "answer": "b", "scorer": "exact"}\n')
    with TinyServer(reply=lambda prompt: "b") as server:
        result = run(program, "--url", server.url, "--problems", problems, "--chat", "--json",
                     "-o", tmp_path / "o")  # fmt: skip
    data = json.loads(result.stdout)
    assert any("every page of up to 512 tokens" in note for note in data["notes"])
    assert data["how"]["chat format"] == "yes"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Engines that were started: scripts that keep their setup."""
    from evals.engine import sglang_engine
    from tests.evals.engine.fake import FakeEngine

    found: list[Any] = []

    class Here(FakeEngine):
        def __init__(self, setup: Any) -> None:
            found.append(self)
            self.setup = setup
            super().__init__(weights="real" if setup.weights else "random")

        def encode(self, text: str) -> list[int]:
            return [0] * len(text.split())

    monkeypatch.setattr(sglang_engine, "SGLangEngine", Here)
    return found


@pytest.mark.parametrize(
    ("asked", "context"),
    [
        (("--throughput", "2x32,1x600"), 600 + 136 + 64),
        (("--ruler", "needle", "--lengths", "700,1000", "--count", "1"), 1000 + 256 + 64),
        (("--ruler", "needle", "--lengths", "700", "--count", "1", "--chat"), 2044),
        (("--problems", "p.jsonl", "--max-new", "100"), 900 + 100 + 64),
        (("--throughput", "2x32"), 512 + 64),  # the budget's, whose tokens are compared first
        (("--throughput", "2x4000"), None),  # the model's own: the engine says what it refuses
    ],
)  # fmt: skip
def test_an_engine_has_room_for_what_is_asked_and_no_more(
    tmp_path: Path, program: Path, folder: Path, engines: list[Any], asked: tuple[str, ...],
    context: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (folder / "model.safetensors").write_text("")
    monkeypatch.chdir(tmp_path)
    problem = {"id": "1", "prompt": "word " * 900, "answer": "b", "scorer": "exact"}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    result = run(program, "--weights", folder, *asked, "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert [e.setup.context for e in engines] == [context]


def test_a_shape_by_name_has_room_for_its_loads_alone(
    tmp_path: Path, program: Path, engines: list[Any]
) -> None:
    for load, context in (("2x64", 64 + 136 + 64), ("1x250000", 250_000 + 136 + 64)):
        result = run(program, "--model", "glm-4.7-flash", "--throughput", load, "--pairs", "1",
                     "-o", tmp_path / "o")  # fmt: skip
        assert result.exit_code == 0, result.output
        assert engines[-1].setup.context == context and engines[-1].setup.page_size == 64


def test_a_tokenizer_that_only_the_engine_knows_leaves_the_model_s_own_length(
    tmp_path: Path, program: Path, folder: Path, engines: list[Any]
) -> None:
    (folder / "model.safetensors").write_text("")
    (folder / "tokenizer.json").unlink()
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"id": "1", "prompt": "a", "answer": "b", "scorer": "exact"}\n')
    result = run(program, "--weights", folder, "--problems", problems, "-o", tmp_path / "o")
    assert result.exit_code == 0 and engines[0].setup.context is None


def test_no_covered_prompt_is_longer_than_the_model(
    tmp_path: Path, program: Path, folder: Path, engines: list[Any]
) -> None:
    (folder / "model.safetensors").write_text("")
    program.write_text(centroid(8192))
    result = run(program, "--weights", folder, "--throughput", "1x40", "--pairs", "1", "--json",
                 "-o", tmp_path / "o")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["agreement"]["requests"] == 16
    asked = [len(r.prompt) + r.sampling.tokens for _, rs in engines[0].calls for r in rs]
    assert 4000 < max(asked) < CONFIG["max_position_embeddings"]
