"""The command that runs one program through the ladder, beside full attention and random pages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agent.commands.program_file import (
    SCREEN_SECONDS,
    in_worker,
    parse_knobs,
    read_program,
    some_contexts,
)
from agent.devices import priced_device, run_device
from agent.targets import accuracy_model_for, standin_note
from evals.models.fetch import DERIVED
from evals.models.fit import obtain
from evals.result import Sample
from runs.board import finite
from runs.quality import RANKED_TASKS, Estimate, by_context, estimate, scale_of
from runs.records import RunConfig
from search_spaces.block_topk import controls
from vortex.compile import compile_text, placed
from vortex.cost import price
from vortex.devices import device as device_named
from vortex.errors import ExitCode
from vortex.geometry import geometry
from vortex.ir import Candidate
from vortex.plan import attended_tokens
from vortex.workload import Workload

REFERENCES = {"Full": "full attention", "RandomPages": "random pages"}
_THROUGHPUT_SECONDS, _FIDELITY_CONTEXTS = 600.0, 2
_DEFAULT = RunConfig()
_WIDTH = 22  # of a column with value and error
_LOSS_GAP = (
    f"loss gap: extra nll over full attention, as a share of random pages'; mean of "
    f"{' and '.join(RANKED_TASKS)}"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What the ladder said of one program.

    Attributes:
        stages: those it reached, as the worker reports them.
        references: samples of the controls on the same contexts, where accuracy was reached.
    """

    config: RunConfig
    candidate: Candidate
    stages: tuple[Mapping[str, Any], ...]
    references: Mapping[str, tuple[Sample, ...]]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The program's own."""
        return tuple(Sample.model_validate(x) for s in self.stages for x in s["samples"])

    @property
    def loss_gap(self) -> Estimate | None:
        """0 is full attention, 1 random pages; None where either is missing."""
        if self.references.keys() != REFERENCES.keys():
            return None
        scale = scale_of(self.references["Full"], self.references["RandomPages"])
        return estimate(scale.loss(self.samples)) if scale else None

    def attended(self, context: int) -> int:
        """Most tokens attended per step and KV head, averaged over layers, at this length."""
        layers = geometry(self.config.model).layers
        return attended_tokens(self.candidate, context, self.config.context, layers=layers)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--model", default=_DEFAULT.model, show_default=True, help="Target model.")
@click.option("--contexts", default=3, show_default=True, callback=some_contexts,
              help="Contexts of the accuracy stage.")  # fmt: skip
@click.option("--device", help="Where it runs: cpu, cuda, cuda:N.  [default: a GPU if any]")
@click.option("--throughput/--no-throughput", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def evaluate(
    file: Path,
    knobs: tuple[str, ...],
    model: str,
    contexts: int,
    device: str | None,
    throughput: bool,
    as_json: bool,
) -> None:
    """Run one program through the ladder, beside full attention; keeps no record."""
    run_on = run_device(device)
    config = RunConfig(
        model=model, accuracy_model=accuracy_model_for(model), rungs=(contexts,), device=run_on,
        price_for=priced_device(run_on),
    )  # fmt: skip
    text, values = read_program(file), parse_knobs(knobs)
    candidate = compile_text(text, values, filename=str(file), files=file.parent)
    workload = Workload(config.batch, config.context, kv_dtype=config.kv_dtype)
    with placed(candidate.program):  # what does not fit is said before contexts are made for it
        price(candidate, geometry(config.model), workload, device_named(config.price_for))
    if config.accuracy_model in DERIVED:
        obtain(config.accuracy_model, lambda line: click.echo(line, err=True))
    base = {"text": text, "filename": str(file), "knobs": values,
            "files": str(file.parent.resolve())}  # fmt: skip
    requests = _requests(config, base, throughput=throughput)
    (answers,) = in_worker(config, contexts, [[r for _, r in requests]], file.parent.resolve())
    stages: list[Mapping[str, Any]] = []
    references: dict[str, tuple[Sample, ...]] = {}
    for (name, _), answer in zip(requests, answers, strict=False):
        reached = answer["evaluation"]["stages"]
        if name in REFERENCES:
            references[name] = tuple(Sample.model_validate(x) for x in reached[-1]["samples"])
        else:
            stages += reached
    found = Found(config, candidate, tuple(stages), references)
    click.echo(json.dumps(finite(_facts(found)), indent=2) if as_json else "\n".join(_lines(found)))
    if stages[-1]["status"] != "ok":
        raise click.exceptions.Exit(ExitCode.FAILED)


def _requests(
    config: RunConfig, base: Mapping[str, Any], *, throughput: bool
) -> list[tuple[str, tuple[dict[str, Any], float]]]:
    """(whose, request and its seconds): the program's, and the controls' once it is accurate."""
    every = list(range(config.rungs[-1]))
    seconds = config.timeout * len(every)
    files = {c.text: name for c in controls() for name in REFERENCES if f"class {name}(" in c.text}
    found: list[tuple[str, tuple[dict[str, Any], float]]] = [
        ("", ({**base, "kind": "screen", "contexts": every[:_FIDELITY_CONTEXTS]}, SCREEN_SECONDS)),
        ("", ({**base, "kind": "accuracy", "contexts": every}, seconds)),
    ]
    for text, name in files.items():
        request = {"kind": "accuracy", "contexts": every, "text": text, "control": True}
        found.append((name, (request, seconds)))
    if throughput:
        more = {"kind": "throughput", "contexts": every, "batch": config.throughput_batch,
                "context": config.throughput_context, "pairs": config.throughput_pairs,
                "threads": config.workers}  # fmt: skip
        found.append(("", ({**base, **more}, _THROUGHPUT_SECONDS)))
    return found


def _facts(found: Found) -> dict[str, object]:
    config, gap = found.config, found.loss_gap
    return {
        "name": found.candidate.program.name,
        "knobs": dict(found.candidate.knobs),
        "target": config.model,
        "device": config.price_for,
        "accuracy_model": config.accuracy_model,
        "standin_note": standin_note(config.model, config.accuracy_model),
        "context": config.context,
        "attended_tokens": found.attended(config.context),
        "evaluation_contexts": config.rungs[-1],
        "evaluation_context": config.context_tokens,
        "evaluation_attended_tokens": found.attended(config.context_tokens),
        "stages": list(found.stages),
        "references": {
            n: [s.model_dump(mode="json") for s in r] for n, r in found.references.items()
        },
        "loss_gap": None if gap is None else {"value": gap.value, "stderr": gap.error, "n": gap.n},
    }


def _lines(found: Found) -> list[str]:
    config, short = found.config, found.config.context_tokens
    knobs = ", ".join(f"{k} = {v}" for k, v in found.candidate.knobs.items())
    note = standin_note(config.model, config.accuracy_model)
    lines = [
        f"{found.candidate.program.name}: {knobs}",
        f"priced for    {config.model} on {config.price_for}, batch {config.batch}, "
        f"{config.context:,} tokens, {config.kv_dtype} KV",
        f"measured on   {config.accuracy_model}, {'a stand-in' if note else 'the target itself'}, "
        f"{config.rungs[-1]} contexts of {short:,} tokens",
        f"attends to    at most {found.attended(config.context):,} tokens of {config.context:,}; "
        f"scaled for the measurement: {found.attended(short):,} of {short:,}",
        *([f"note          {note}"] if note else []),
        "",
    ]
    for stage in found.stages:
        lines.append(f"{stage['stage']:11} {stage['status']:10} {stage['message']}".rstrip())
        lines += [_metric_line(m) for m in stage["metrics"]]
        if stage["samples"]:
            lines += _accuracy_lines(found)
    return lines


def _metric_line(m: Mapping[str, Any]) -> str:
    error = "" if m["stderr"] is None else f" ± {m['stderr']:.2g}"
    return f"    {m['name']:26} {m['value']:.5g}{error} {m['unit']} ({m['origin']})"


def _accuracy_lines(found: Found) -> list[str]:
    """Every task beside the controls, the loss gap last; ± is a standard error over contexts."""
    columns = [found.samples, *(found.references.get(name, ()) for name in REFERENCES)]
    heads = ["this program", *REFERENCES.values()]
    lines = [f"    {'measured':20}" + "".join(f"{head:>{_WIDTH}}" for head in heads)]
    for task, metric in dict.fromkeys((s.task, s.metric) for s in found.samples):
        cells = [_cell(estimate(by_context(samples, task, metric))) for samples in columns]
        lines.append(
            f"    {f'{task}.{metric}':20}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)
        )
    ends = ["0", "1"] if found.loss_gap else ["–", "–"]
    gap = "".join(f"{cell:>{_WIDTH}}" for cell in (_cell(found.loss_gap), *ends))
    return [*lines, f"    {'loss gap':20}{gap}", f"    ({_LOSS_GAP})"]


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "–"
    error = "" if math.isnan(found.error) else f" ± {found.error:.2g}"
    return f"{found.value:.3g}{error}"


COMMANDS: Sequence[click.Command] = (evaluate,)
