"""An export brings what serves it, and says what it was made for."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from runs.export import export
from runs.serving import engine_page, memory_option, serving_files
from tests.runs.synthetic import board, row
from vortex.compile import compile_text
from vortex.exported import mismatches, read_exported
from vortex.geometry import GEOMETRIES
from vortex.ir import Candidate
from vortex.triton.launches import unservable

SEEDS = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk" / "seeds"
TEXT = (SEEDS / "quest.py").read_text()
ROW = row(4, on_front=True, program=TEXT)
MLA, GQA = GEOMETRIES["glm-4.7-flash"], GEOMETRIES["qwen3-1.7b"]


def canonical(candidate: Candidate) -> dict[str, object]:
    return {"name": "Quest", "knobs": dict(candidate.knobs),
            "candidate_hash": candidate.candidate_hash}  # fmt: skip


def exported(out: Path) -> Candidate:
    candidate = compile_text(TEXT, {"budget": 512})
    more = serving_files(ROW, board(ROW), candidate, GQA)
    export(ROW, board(ROW), canonical(candidate), out, force=False, more=more)
    return candidate


def test_kernels_a_start_script_a_check_and_evidence_are_written_and_hashed(
    tmp_path: Path,
) -> None:
    candidate = exported(tmp_path / "out")
    assert mismatches(tmp_path / "out") == []
    for name in ("kernels/route.py", "kernels/summarise.py", "verify.py"):
        ast.parse((tmp_path / "out" / name).read_text())
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["candidate_hash"] == candidate.candidate_hash
    assert evidence["versions_at_export"]["torch"]
    assert "`serve.sh`: serves" in (tmp_path / "out" / "README.md").read_text()
    assert read_exported(tmp_path / "out").candidate.candidate_hash == candidate.candidate_hash


def test_the_start_script_names_the_folder_the_backend_and_the_pages(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$SGLANG_VORTEX_PROGRAM $@"\n')
    fake.chmod(0o755)
    script, env = str(tmp_path / "out" / "serve.sh"), {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    done = subprocess.run([script, "a model", "--port", "1"], env=env, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == (
        f"{tmp_path / 'out'} -m sglang.launch_server --model-path a model "
        "--attention-backend vortex --page-size 16 --port 1"
    )
    assert subprocess.run([script], env=env, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize(("geometry", "page"), [(GQA, 16), (MLA, 64), (None, 16)])
def test_the_engines_pages_suit_the_program_and_the_prefill(geometry: object, page: int) -> None:
    assert engine_page(compile_text(TEXT), geometry) == page  # type: ignore[arg-type]


def test_fields_that_are_large_get_room_beside_the_engines_cache() -> None:
    light = compile_text(TEXT)
    assert memory_option(light, GQA) == "" == memory_option(light, None)
    whole = compile_text((SEEDS.parent / "library" / "token_select.py").read_text())
    assert whole.fields  # a copy of every key
    assert float(memory_option(whole, GQA).split()[1]) < 0.75


def test_an_export_for_an_unknown_target_has_all_but_kernels() -> None:
    files = serving_files(ROW, board(ROW), compile_text(TEXT), None)
    assert set(files) == {"kernels/README.md", "serve.sh", "verify.py", "evidence.json"}


def test_what_no_engine_can_serve_brings_no_start_script() -> None:
    text = TEXT.replace("    page_size", "    heat = vx.state(init=0.0)\n    page_size", 1)
    text = text.replace('.max("head")', '.max("head") + page.heat')
    text += "\n    def update(self, page, mass):\n        return vx.State(heat={})\n"
    read = 'page.lo.sum("dim") + mass'
    for more, served in (("page.heat + mass", True), (read, False)):
        candidate = compile_text(text.format(more), {})
        assert (unservable(candidate, GQA) == "") == served
        files = serving_files(ROW, board(ROW), candidate, GQA)
        assert ("serve.sh" in files) == served and "verify.py" in files
    assert not unservable(compile_text(TEXT, {}), GQA) and not unservable(candidate, None)
