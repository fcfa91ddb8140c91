"""A real model in SGLang under found programs: answers held against our own executor's, and speed.

    python benchmarks/engine_real_model.py local --gguf MODEL.gguf --out real      # any machine
    python benchmarks/engine_real_model.py engine --gguf MODEL.gguf --out real     # with a GPU
    python benchmarks/engine_real_model.py compare --out real

SmolLM2-135M, three programs of the front of a recorded run, their budgets scaled to the prompts as
the search scaled them. ``local`` and ``engine`` ask the same problems, whose answers are words of
the context (a score is the share that is said); answers are kept as they come, so that a killed
side goes on. ``compare`` pairs them by problem.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.engine_runs import Stage, run_stage, say  # noqa: E402

if TYPE_CHECKING:
    from evals.engine.accuracy import Answer
    from evals.engine.problems import Problem

SIDES = ("engine", "local")
RUN = ROOT / "docs" / "runs" / "agent-smollm2" / "run.db"
FOUND = (45, 43, 35)  # the front's most accurate one, one of its middle, a fast one
WORKLOAD, CONTEXT = 32768, 2048  # tokens: where budgets are stated, and what they are scaled to
CONTEXTS, LENGTH = 6, 2000
LOAD = "256x1900"


def programs() -> dict[str, str]:
    """Texts of the found programs by name, their knobs bound, budgets scaled."""
    found = {}
    with sqlite3.connect(f"file:{RUN}?mode=ro", uri=True) as run:
        for number in FOUND:
            name, text, knobs = run.execute(
                "SELECT name, text, knobs FROM candidates WHERE id = ?", (number,)
            ).fetchone()
            found[name] = bound(text, json.loads(knobs))
    return found


def bound(text: str, knobs: Mapping[str, float]) -> str:
    """The program with numbers in the place of its knobs."""
    for knob, value in knobs.items():
        if knob == "page_size":
            text = re.sub(r"page_size = vx\.\w+\(.*\)", f"page_size = {value}", text)
            continue
        number = int(value * CONTEXT / WORKLOAD) if knob == "budget" else value
        text = re.sub(rf"\n *{knob} = vx\.\w+\(.*\)", "", text)
        text = text.replace(f"self.{knob}", repr(number))
    return text


def model_folder(gguf: Path, out: Path) -> Path:
    """The model as engines load it."""
    from evals.models.write_folder import gguf_to_folder

    folder = out / "model"
    if not (folder / "config.json").is_file():
        gguf_to_folder(str(gguf), folder)
    return folder


def problems(model: Path, out: Path) -> Path:
    """What both sides are asked, in a file: needles and copies of the search's own contexts."""
    from evals.contexts import ContextSpec, build_context
    from evals.engine.problems import Problem
    from evals.models.load import load_model

    file = out / "problems.jsonl"
    if file.is_file():
        return file
    tokenizer, lines = load_model(str(model)).tokenizer, []
    for index in range(CONTEXTS):
        context = build_context(ContextSpec("search", index, LENGTH), tokenizer)
        asked = [q for q in context.questions if q.task in ("needle", "copy")]
        for at, question in enumerate(asked):
            told = tokenizer.decode(question.answer)
            words = tuple(dict.fromkeys(re.findall(r"[A-Za-z]{4,}", told)))
            if not words or (question.task == "needle" and at % 2):
                continue
            lines.append(Problem(
                id=f"{context.name}-{at}", scorer="contains", group=question.task, answer=words,
                prompt=tokenizer.decode([*context.tokens, *question.prompt]),
            ).model_dump_json())  # fmt: skip
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def evaluate(program: Path, out: Path, side: str, more: list[str]) -> None:
    """``serve-eval`` in this process; its report is kept beside the answers of all programs."""
    from agent.commands.serve_eval import serve_eval

    began, folder = time.perf_counter(), out / side
    serve_eval.main(
        [str(program), "--weights", str(out / "model"), "--problems", str(out / "problems.jsonl"),
         "--max-new", "24", *more, "-o", str(folder), "--json"],
        standalone_mode=False,
    )  # fmt: skip
    shutil.copy(folder / "report.json", folder / f"{program.stem}.json")
    say(what="report", program=program.stem, seconds=round(time.perf_counter() - began, 1))


# -- compare -----------------------------------------------------


def compare(out: Path) -> list[dict[str, Any]]:
    """Answers of both sides, paired by problem, and the engine's speed beside them."""
    from evals.engine.accuracy import Answer
    from evals.engine.problems import read_problems

    right = {p.id: p for p in read_problems(out / "problems.jsonl")}
    lines = [(out / side / "answers.jsonl").read_text().splitlines() for side in SIDES]
    engine, local = ([Answer.model_validate_json(x) for x in side] for side in lines)
    found = []
    for file in [None, *sorted((out / "programs").glob("*.py"))]:
        report = _report(out / "engine" / f"{file.stem}.json") if file else {}
        if file and not report:
            print(f"{file.stem}: the engine's side has not ended", flush=True)
            continue
        mode, program = ("sparse", report["candidate_hash"]) if file else ("full", "")
        pair = [
            {a.name: a for a in side if a.mode == mode and (not file or a.program == program)}
            for side in (engine, local)
        ]
        found.append({
            "what": "agreement", "program": file.stem if file else "full attention",
            **_agreement(pair[0], pair[1], right), **_speed(report),
        })  # fmt: skip
    return found


def _report(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def _speed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Decode figures of a report."""
    return {
        f"{f['metric']['name']} {f['mode']}": [f["metric"]["value"], f["metric"]["stderr"]]
        for f in report.get("figures", ())
        if f["metric"]["name"] in ("decode_tokens_per_second", "decode_speedup")
    }


def _agreement(
    engine: Mapping[str, Answer], local: Mapping[str, Answer], right: Mapping[str, Problem]
) -> dict[str, Any]:  # fmt: skip
    from evals.engine.scorers import score
    from evals.engine.statistics import mean_at_k, paired_difference

    both = sorted(engine.keys() & local.keys())
    one, two = (
        {n: [score(right[n].scorer, side[n].reply, right[n].answer)] for n in both}
        for side in (engine, local)
    )
    figures = {
        "engine": mean_at_k(one), "local": mean_at_k(two),
        "difference": paired_difference(one, two, seed=0),
    }  # fmt: skip
    return {
        "problems": len(both), "same_reply": sum(engine[n].reply == local[n].reply for n in both),
        **{name: f and [round(f.value, 4), f.error and round(f.error, 4)]
           for name, f in figures.items()},
    }  # fmt: skip


# -- the command -------------------------------------------------


def main() -> None:
    """Run a side, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=(*SIDES, "compare"))
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--seconds", type=float, default=500.0, help="of `engine`, in all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = args.out.resolve()
    if args.side == "compare":
        for row in compare(out):
            say(**row)
        return
    load = ["--throughput", LOAD, "--memory", "0.5"]
    if args.run:
        evaluate(args.run, out, "engine", load if args.device == "cuda" else ["--memory", "0.05"])
        return
    (out / "programs").mkdir(parents=True, exist_ok=True)
    problems(model_folder(args.gguf, out), out)
    end = time.monotonic() + args.seconds
    for name, text in programs().items():
        file = out / "programs" / f"{name}.py"
        file.write_text(text)
        if args.side == "local":
            evaluate(file, out, "local", ["--local"])
            continue
        inner = {"SGLANG_VORTEX_INNER": "triton"} if args.device == "cuda" else {}
        run = ["engine", "--run", str(file), "--out", str(out), "--device", args.device]
        stage = Stage(name, __file__, run, file, inner)
        run_stage(stage, out, end - time.monotonic(), args.device)


if __name__ == "__main__":
    main()
