"""``verify`` checks what it can, and says what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from agent.commands.verify import verify
from tests.runs.test_serving_files import exported


def checks(folder: Path, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    done = CliRunner().invoke(verify, [str(folder), "--json", *options])
    facts = json.loads(done.stdout)
    found = {c["name"]: (c["verdict"], c["said"]) for c in facts["checks"]}
    assert facts["ok"] == (done.exit_code == 0)
    assert facts["not_checked"] == [n for n, (v, _) in found.items() if v == "not checked"]
    return done.exit_code, found


def test_without_a_gpu_the_rest_is_checked_and_the_lack_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    exported(tmp_path / "out")
    code, found = checks(tmp_path / "out", "--for", "smollm2-135m")
    assert code == 0
    assert [found[n][0] for n in ("hashes", "program", "parity")] == ["ok"] * 3
    assert found["kernels"] == ("not checked", "no GPU here")
    assert found["engine"][0] == found["accuracy"][0] == "not checked"
    done = CliRunner().invoke(verify, [str(tmp_path / "out"), "--for", "smollm2-135m"])
    last = done.stdout.splitlines()[-1]
    assert last.startswith("not checked: kernels (no GPU here); engine (")


def test_a_changed_program_fails(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    with (tmp_path / "out" / "program.py").open("a") as file:
        file.write("# better\n")
    code, found = checks(tmp_path / "out")
    assert code == 1
    assert found == {"hashes": ("failed", "program.py was changed")}


def test_kernels_run_in_the_interpreter_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    exported(tmp_path / "out")
    code, found = checks(tmp_path / "out", "--for", "smollm2-135m")
    assert code == 0 and found["kernels"][0] == "ok"
    assert "0 wrong" in found["kernels"][1]
