"""Files of an export that serve it: kernels to read, a start script, a check, evidence."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from runs.board import Board, Row
from vortex.cost import price
from vortex.devices import DEVICES
from vortex.geometry import Geometry
from vortex.ir import Candidate
from vortex.workload import Workload

_PACKAGES = ("vortex-search", "torch", "triton", "sglang")

_SERVE = """#!/bin/sh
# Serves a model with this program in SGLang: sh serve.sh MODEL [options of the server].
# MODEL is a Hugging Face folder or name; docs/serving.md says what is supported.
set -eu
[ $# -ge 1 ] || {{ echo "usage: sh serve.sh MODEL [options of sglang.launch_server]" >&2; exit 2; }}
SGLANG_VORTEX_PROGRAM=$(cd "$(dirname "$0")" && pwd)
export SGLANG_VORTEX_PROGRAM
model=$1
shift
exec python -m sglang.launch_server --model-path "$model" --attention-backend vortex \\
    --page-size {page}{memory} "$@"
"""
_SHARE = 1 / 12  # of the cache: fields of no more than that fit beside SGLang's own fraction
_ANY = Workload(batch=1, context=32768)  # shares do not depend on it
_FRACTION = 0.8  # of the GPU's memory, for weights, cache and fields together

_VERIFY = '''"""Checks this folder; takes the options of `vortex-search verify`."""

import sys
from pathlib import Path

from agent.cli import main

sys.argv = ["vortex-search", "verify", str(Path(__file__).resolve().parent), *sys.argv[1:]]
main()
'''


def serving_files(
    row: Row, board: Board, candidate: Candidate, geometry: Geometry | None
) -> dict[str, str]:  # fmt: skip
    """Text of the files by their path in the folder.

    Args:
        geometry: of the run's target; None: it is not on this machine.
    """
    from vortex.triton.launches import unservable

    page, memory = engine_page(candidate, geometry), memory_option(candidate, geometry)
    serve = {"serve.sh": _SERVE.format(page=page, memory=memory)}
    return {
        **_kernels(candidate, geometry),
        **({} if unservable(candidate, geometry) else serve),
        "verify.py": _VERIFY,
        "evidence.json": json.dumps(_evidence(row, board, candidate), indent=2) + "\n",
    }


def memory_option(candidate: Candidate, geometry: Geometry | None) -> str:
    """What leaves room for the program's fields, which lie outside SGLang's fraction of the memory,
    where its default does not."""
    if geometry is None:
        return ""
    share = price(candidate, geometry, _ANY, DEVICES["h200"]).index_share
    return f" --mem-fraction-static {_FRACTION / (1 + share):.2f}" if share > _SHARE else ""


def engine_page(candidate: Candidate, geometry: Geometry | None) -> int:
    """The engine's page size: the program's, or 64 where that makes the faster MLA prefill fit."""
    size = candidate.page_size
    latent = geometry is not None and geometry.kind == "mla"
    return 64 if latent and 64 % size == 0 else size


def _kernels(candidate: Candidate, geometry: Geometry | None) -> dict[str, str]:
    """The generated modules, for inspection: what runs is generated anew, for one device."""
    from vortex.plan import plan_of
    from vortex.triton.arrays import Shapes
    from vortex.triton.scoring import scoring
    from vortex.triton.summaries import summaries
    from vortex.triton.tiles import Unfused

    if geometry is None:
        return {"kernels/README.md": "The shapes of the target were not known at export.\n"}
    if plan_of(candidate.select).everything:
        return {"kernels/README.md": "Full attention: there is nothing to generate.\n"}
    shapes = Shapes.of(geometry, heads_of_a_row=geometry.kv_heads)  # as the engine lays them out
    said = [f"For the heads of {geometry.name} on one rank, to read; nothing imports these files."]
    files = {}
    for name, make in (("route.py", scoring), ("summarise.py", summaries)):
        if name == "summarise.py" and not candidate.fields:
            continue
        try:
            files[f"kernels/{name}"] = make(candidate, shapes).text
        except Unfused as reason:
            said.append(f"{name}: none, since {reason.message}.")
    return files | {"kernels/README.md": "\n\n".join(said) + "\n"}


def _evidence(row: Row, board: Board, candidate: Candidate) -> Mapping[str, object]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "run": board.run, "candidate": row.id, "target": board.target,
        "stand_in": board.accuracy_model, "structure_hash": candidate.structure_hash,
        "candidate_hash": candidate.candidate_hash, "environment": dict(board.environment),
        "versions_at_export": versions, "numbers": "metrics.json",
        "measured_in": sorted({f"{f.place} on {f.device}, model {f.model}" for f in row.engine}),
    }  # fmt: skip
