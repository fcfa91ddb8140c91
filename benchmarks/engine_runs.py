"""What benchmarks of a running SGLang share: the plugin on the path, stages that end, results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_CENTROID = """import vortex as vx

class Centroid(vx.Algorithm):
    page_size = {page}
    {more}

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens={budget}) | vx.sinks(1) | vx.recent(2)
"""


def centroid(budget: int, *, page: int = 16, more: str = "") -> str:
    """A program: pages by their mean key.

    Args:
        more: a line of policies.
    """
    return _CENTROID.format(budget=budget, page=page, more=more)


def say(**facts: Any) -> None:
    """One result, for the parent and for whoever watches."""
    print("RESULT " + json.dumps(facts), flush=True)


@dataclass(frozen=True)
class Stage:
    """An engine of its own, in a process group of its own.

    Attributes:
        arguments: of the script that runs it; ``--scratch FOLDER`` is added.
        program: text of what is served, or the path of an export.
        more: environment besides.
    """

    name: str
    script: str
    arguments: Sequence[str]
    program: str | Path
    more: dict[str, str]


def environment(stage: Stage, scratch: Path, device: str) -> dict[str, str]:
    """The plugin is found by a folder, as it would be once installed."""
    facts = scratch / "plugin" / "vortex_search-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vortex-search\nVersion: 0\n")
    (facts / "entry_points.txt").write_text(
        "[sglang.srt.plugins]\nvortex = vortex.serving.sglang.plugin:register\n"
    )
    program = stage.program
    if isinstance(program, str):
        (scratch / "program.py").write_text(program)
        program = scratch / "program.py"
    path = [os.environ.get("PYTHONPATH", ""), str(facts.parent), str(ROOT)]
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in path if p), "HF_HUB_OFFLINE": "1",
        "SGLANG_VORTEX_PROGRAM": str(program), "SGLANG_VORTEX_SWITCH": str(scratch / "switch"),
        "VORTEX_CACHE": str(scratch / "cache"),
    }  # fmt: skip
    if device == "cpu":
        found |= {"TRITON_INTERPRET": "1", "SGLANG_USE_CPU_ENGINE": "1",
                  "SGLANG_VORTEX_INNER": "torch_native"}  # fmt: skip
    return found | stage.more


def run_stage(stage: Stage, out: Path, seconds: float, device: str) -> list[Any]:
    """Results of a stage, printed and kept as they come; empty where it failed.

    Args:
        seconds: after which it is killed.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f"{stage.name}-"))
    process = subprocess.Popen(
        [sys.executable, stage.script, *stage.arguments, "--scratch", str(scratch)],
        env=environment(stage, scratch, device), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, start_new_session=True,
        cwd=scratch,  # a checkout may hold the facts of an older installation
    )  # fmt: skip
    stopper = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    stopper.start()
    log = out / f"{stage.name}.log"
    try:
        found = _followed(process, stage.name, log, out)
    finally:
        stopper.cancel()
    code, text = process.wait(), log.read_text(errors="replace")
    print(f"{stage.name}: exit {code}, retractions {text.count('Retract requests')}", flush=True)
    if code:
        for line in text.splitlines()[-25:]:
            print(f"{stage.name} | {line[:300]}", flush=True)
    return [] if code else found


def _followed(process: subprocess.Popen[str], stage: str, log: Path, out: Path) -> list[Any]:
    found = []
    for text in _lines_of(process, log):
        print(f"{stage}: {text}", end="", flush=True)
        found.append({"stage": stage} | json.loads(text))
        with (out / "results.jsonl").open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
    return found


def _lines_of(process: subprocess.Popen[str], log: Path) -> Iterator[str]:
    """Results of a stage, as they come; everything goes to its log."""
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            if line.startswith("RESULT "):
                yield line[7:]
