"""Kernels compile for a GPU that is not here: the interpreter accepts more than the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
Case = tuple[str, str, str]
pytestmark = pytest.mark.timeout(600)  # the compiler's cache may be empty
CASES = [
    ("attend", "bf16", "gqa"), ("attend", "bf16", "mla"), ("quest", "bf16", "gqa"),
    ("quest", "fp8", "narrow mla"), ("sub_centroids", "int4", "gqa"), ("relist", "", "gqa"),
    ("drawn6", "", "gqa"), ("hash_attention", "int4", "gqa"), ("snap_kv", "", "gqa"),
    ("hshare", "bf16", "gqa"), ("attention_ema", "bf16", "gqa"), ("mass", "", "gqa"),
    ("mass", "", "mla"), ("known_numbers", "", "gqa"),
    ("cut_values", "", "gqa"), ("chosen_tokens", "", "gqa"),
]  # fmt: skip


def made_of(cases: Sequence[Case]) -> dict[Case, Any]:
    """What one process makes of every case: a process for each would mostly begin."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.vortex.compile_kernels", json.dumps(cases)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    found = {tuple(case): made for case, made in map(json.loads, done.stdout.splitlines())}
    broken = {"error": f"exit code {done.returncode}: {done.stderr[-2000:]}"}
    return {case: found.get(case, broken) for case in cases}


@pytest.fixture(scope="module")
def compiled() -> dict[Case, Any]:
    return made_of(CASES)


def fits(made: Any) -> bool:
    assert "error" not in made, made["error"]
    return bool(made["bytes"]) and all(n < 228 * 1024 for n in made["bytes"])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_kernels_compile_for_hopper(case: Case, compiled: dict[Case, Any]) -> None:
    assert fits(compiled[case])


@pytest.mark.slow
def test_the_widest_served_heads_compile_too() -> None:
    case = ("quest", "fp8", "mla")
    assert fits(made_of([case])[case])
