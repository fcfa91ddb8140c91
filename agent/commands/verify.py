"""``verify``: what an exported folder claims, checked as far as this machine can."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import torch

from evals.engine.report import shown
from evals.engine.statistics import Estimate, mean, ratio
from evals.parity import Shape, disagreement
from runs.serving import engine_page
from vortex.errors import ExitCode, VortexError, printable
from vortex.exported import mismatches, read_exported
from vortex.geometry import Geometry, from_config, geometry
from vortex.ir import Candidate
from vortex.workload import MOST

Verdict = Literal["ok", "warning", "failed", "not checked"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        said: numbers of what was found, or why it could not be looked at.
    """

    name: str
    verdict: Verdict
    said: str


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--for", "target", help="The model it is to serve.  [default: the folder's own]")
@click.option("--model", "weights", help="A Hugging Face folder: start the engine with it.")
@click.option(
    "--context", type=click.IntRange(1, MOST), default=8192, show_default=True,
    help="Tokens of prompts for speed, and for accuracy where no budget is fixed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True)
def verify(
    folder: Path, target: str | None, weights: str | None, context: int, as_json: bool
) -> None:  # fmt: skip
    """Check an exported folder: hashes, parity, kernels, and the engine it will serve in.

    Says what it could not check, and why. Exit code 1: a check failed; what was not checked is
    no failure.
    """
    found = []
    for check in _checks(folder, target, weights, context):
        found.append(check)
        if not as_json:
            click.echo(f"{check.name:10} {check.verdict:12} {printable(check.said, limit=600)}")
    failed = any(c.verdict == "failed" for c in found)
    left = [c for c in found if c.verdict == "not checked"]
    if as_json:
        facts = {
            "ok": not failed, "not_checked": [c.name for c in left],
            "checks": [asdict(c) for c in found],
        }  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
    elif left:
        click.echo("not checked: " + "; ".join(f"{c.name} ({c.said})" for c in left))
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _checks(
    folder: Path, target: str | None, weights: str | None, context: int
) -> Iterator[Check]:  # fmt: skip
    if not os.path.isdir(folder) and not os.path.isfile(folder):
        read_exported(folder)  # says so
    if os.path.isdir(folder):
        bad = mismatches(folder)
        yield Check("hashes", "failed" if bad else "ok",
                    ", ".join(bad) or "every file is as the manifest says")  # fmt: skip
        if bad:
            return  # what is no longer the export says nothing about it
    else:
        yield Check("hashes", "not checked", "a program file, without a manifest")
    exported = read_exported(folder)
    candidate = exported.candidate
    yield Check("program", "ok", f"{exported.name}, {candidate.candidate_hash}")
    model = geometry(target or _own_target(folder))
    latent = model.kind == "mla"
    shape = Shape(
        min(2, model.kv_heads), model.group, model.dim, model.vdim if latent else None,
        model.rope,
    )  # fmt: skip
    problem = disagreement(candidate, shape, seed=1)
    agree = f"the CPU backend and the reference agree (heads of {model.name})"
    yield Check("parity", "failed" if problem else "ok", problem or agree)
    from vortex.triton.launches import unservable

    why = unservable(candidate, model)
    yield Check("serving", "failed" if why else "ok", f"it cannot be served yet: {why}" if why
                else "every part has a kernel")  # fmt: skip
    if why:
        return
    yield _kernels(candidate, model)
    page = engine_page(candidate, model)
    yield from _engine(folder, candidate, page, weights, context)


def _own_target(folder: Path) -> str:
    """The model that the export was searched for."""
    try:
        found = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))["target"]
    except (OSError, ValueError, KeyError, TypeError):
        raise VortexError(
            f"{folder} does not say which model it is for", code="E801", hint="name it by --for"
        ) from None
    return str(found)


def _kernels(candidate: Candidate, model: Geometry) -> Check:
    """The serving kernels on a GPU, or in Triton's interpreter where the user asks for that."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not torch.cuda.is_available() and not interpreted:
        return Check("kernels", "not checked", "no GPU here")
    if importlib.util.find_spec("triton") is None:
        return Check("kernels", "not checked", "Triton is not installed")
    from vortex.serving.selfcheck import check_kernels, outputs_agree
    from vortex.serving.sglang.bookkeeping import budget_tokens

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    # Longer than the budget, so that there is something to choose.
    more = 256 if gpu else 8
    longest = budget_tokens(candidate) + more * candidate.page_size + 7
    try:
        pages, worst = check_kernels(candidate, model, device, longest=longest, kv_heads=2)
    except VortexError as error:
        return Check("kernels", "failed", f"error[{error.code}]: {error.message}")
    good = pages.wrong == 0 and outputs_agree(worst)
    where = torch.cuda.get_device_name() if gpu else "Triton's interpreter"
    return Check(
        "kernels", "ok" if good else "failed",
        f"{where}: {pages.pages} pages chosen, {pages.near} otherwise within rounding, "
        f"{pages.wrong} wrong; largest output error {worst:.4f}",
    )  # fmt: skip


def _engine(
    folder: Path, candidate: Candidate, page: int, weights: str | None, context: int
) -> Iterator[Check]:  # fmt: skip
    why = ""
    if importlib.util.find_spec("sglang") is None:
        why = "SGLang is not installed"
    elif not torch.cuda.is_available():
        why = "no GPU here"
    elif weights is None:
        why = "no --model was named"
    if why:
        yield Check("engine", "not checked", why)
        yield Check("accuracy", "not checked", "needs the engine")
        return
    good = True
    for check in _served(folder, candidate, page, str(weights), context):
        good &= check.verdict != "failed"
        yield check
    yield (
        _accuracy(folder, candidate, page, Path(str(weights)), context) if good
        else Check("accuracy", "not checked", "the engine's own check failed")
    )  # fmt: skip


def _served(
    folder: Path, candidate: Candidate, page: int, weights: str, context: int
) -> Iterator[Check]:  # fmt: skip
    from vortex.serving.sglang.bookkeeping import covered_tokens

    command = [
        sys.executable, "-m", "vortex.serving.sglang.check", weights,
        str(covered_tokens(candidate)), str(page), str(context),
    ]  # fmt: skip
    env = os.environ | {"SGLANG_VORTEX_PROGRAM": str(folder.resolve())}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    for facts in _told(done.stdout):
        yield _speed(facts) if "rows" in facts else _said(facts)
    if done.returncode:
        last = [x for x in done.stderr.splitlines() if x.strip()][-1:]
        yield Check("engine", "failed", f"error[E808]: it ended with {done.returncode}: {last}")


def _told(stdout: str) -> Iterator[dict[str, Any]]:
    """What the check printed; others print there too."""
    for line in stdout.splitlines():
        try:
            facts = json.loads(line) if line.startswith("{") else None
        except ValueError:
            continue
        if isinstance(facts, dict) and "what" in facts:
            yield facts


def _said(facts: dict[str, Any]) -> Check:
    from vortex.serving.sglang.check import near

    what = str(facts.pop("what"))
    if what == "tokens":
        # A near tie may fall either way in bf16; a wide gap may not.
        told = (
            f"{facts['equal']} of {facts['requests']} greedy replies within the budget are full "
            f"attention's; {facts['parted']} part from them"
        )
        if facts["parted"]:
            widest = max(facts["gap_where_parted"], default=0.0)
            told += f", full attention found the other token at most {widest:g} nats less likely"
        if facts["beyond_the_top"]:
            told += f", {facts['beyond_the_top']} of them at a token far from its own"
        return Check("engine", "ok" if near(facts) else "failed", told)
    drawn = "random: it has none" if facts.get("random") else "its own"
    return Check(what[:10], "ok", drawn)


def _accuracy(
    folder: Path, candidate: Candidate, page: int, model: Path, context: int
) -> Check:  # fmt: skip
    """Hidden numbers, in an engine of its own with real weights, of sparse and full attention."""
    why = ""
    if not any(model.glob("*.safetensors")):
        why = f"{model} holds no *.safetensors, and random weights answer nothing"
    elif not any((model / name).is_file() for name in _TOKENIZERS):
        why = f"{model} holds no tokenizer ({' or '.join(_TOKENIZERS)})"
    if why:
        return Check("accuracy", "not checked", why)
    try:
        return _needles(folder, candidate, page, model, context)
    except VortexError as error:
        return Check("accuracy", "failed", f"error[{error.code}]: {error.message}")


def _needles(
    folder: Path, candidate: Candidate, page: int, model: Path, context: int
) -> Check:  # fmt: skip
    from evals.engine import needles
    from evals.engine.sglang_engine import Setup, SGLangEngine
    from evals.engine.shapes import context_for
    from vortex.serving.sglang.bookkeeping import budget_tokens

    budget, longest = budget_tokens(candidate), from_config(model).max_context
    length = needles.prompt_length(budget, context, longest)
    if not length:
        return Check("accuracy", "not checked", f"this model reads {longest:,} tokens: no room "
                     f"for prompts beyond the budget of {budget:,}")  # fmt: skip
    setup = Setup(
        model=model, export=folder, weights=True, page_size=page,
        context=context_for(length + needles.TEMPLATE + needles.REPLY_TOKENS, longest),
    )  # fmt: skip
    engine = SGLangEngine(setup)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = needles.ask_needles(
                engine, candidate.candidate_hash, length, engine.encode, Path(scratch) / "answers",
                shown=engine.chat if engine.chats else str,
            )  # fmt: skip
    finally:
        engine.close()
    said = (
        f"{needles.COUNT} numbers hidden in {length:,} tokens, shares found: full attention "
        f"{_with_error(found.full)}, sparse {_with_error(found.sparse)}, "
        f"difference {_with_error(found.difference)}"
    )
    if not found.telling:
        less = f"full attention finds less than {needles.TELLING:.0%}, so that no loss would show: "
        return Check("accuracy", "not checked", less + said)
    worse = f"surely a loss of more than {needles.LOSS:g}: "
    return Check("accuracy", "failed" if found.worse else "ok", worse * found.worse + said)


def _speed(facts: Mapping[str, Any]) -> Check:
    """Decode rates, in pairs of neighbours in time; a slow program is right all the same."""
    load = f"{facts['rows']} x {facts['context']:,} tokens"
    if "why" in facts:
        return Check("speed", "not checked", f"{load}: {facts['why']}")
    full, sparse = facts["dense"], facts["sparse"]
    if not all(rate > 0 for rate in (*full, *sparse)):
        return Check("speed", "not checked", f"{load}: longer replies took no longer")
    times = ratio(sparse, full)
    assert times is not None  # there are pairs
    rates = " against ".join(_with_error(found) for found in map(mean, (sparse, full)) if found)
    slower = times.value < 1.0
    return Check(
        "speed", "warning" if slower else "ok",
        f"{load}: sparse decodes {'slower: ' * slower}{_with_error(times)} times as fast as full "
        f"attention, over {times.n} pairs ({rates} tokens/s)",
    )  # fmt: skip


def _with_error(found: Estimate) -> str:
    return shown(found.value) + ("" if found.error is None else f" ± {shown(found.error)}")


COMMANDS = (verify,)
