"""Commands about one program: check it, translate it, leave parts of it out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
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
from agent.minimise import minimise as shrink
from runs.records import RunConfig
from vortex.compile import bind, compile_text, placed
from vortex.cost import Price, page_bytes
from vortex.cost import price as cost_of
from vortex.devices import device as device_named
from vortex.errors import VortexError, unwritable
from vortex.frontend import parse
from vortex.geometry import Workload, geometry
from vortex.importer import import_vflow
from vortex.ir import Candidate
from vortex.trials import try_choices

_DEFAULTS = RunConfig()  # one target and workload for check, evaluate and start


_PRICED: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.argument("file", type=click.Path(path_type=Path)),
    click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults."),
    click.option("--model", default=_DEFAULTS.model, show_default=True, help="Target model."),
    click.option("--device", default=_DEFAULTS.price_for, show_default=True),
    click.option("--context", default=_DEFAULTS.context, show_default=True),
    click.option("--batch", default=_DEFAULTS.batch, show_default=True),
    click.option("--json", "as_json", is_flag=True),
)


def _priced(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of what is said of a program at a target."""
    for option in reversed(_PRICED):
        command = option(command)
    return command


@click.command()
@_priced
def check(
    file: Path, knobs: tuple[str, ...], model: str, device: str, context: int, batch: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Show all errors of a program, or its fields, cost and hash.

    Every value of every choice is tried; what is shown is for the defaults and --knob.
    """
    from vortex.triton.launches import launch_plan, unservable

    text = read_program(file)
    shapes, hardware = geometry(model), device_named(device)
    workload = Workload(batch=batch, context=context)
    program = parse(text, filename=str(file), reserved=True)

    def priced(values: Mapping[str, object]) -> tuple[Candidate, Price, int]:
        candidate = bind(program, values, files=file.parent)
        cost = cost_of(candidate, shapes, workload, hardware)
        return candidate, cost, page_bytes(candidate, shapes)

    with placed(program):
        candidate, cost, held = priced(parse_knobs(knobs))
    try_choices(program, candidate.knobs, priced)
    lacks = unservable(candidate, shapes)
    facts: dict[str, Any] = {
        "ok": True,
        "name": program.name,
        "structure_hash": candidate.structure_hash,
        "candidate_hash": candidate.candidate_hash,
        "knobs": dict(candidate.knobs),
        "fields": {n: [*f.names] for n, f in candidate.fields.items()},
        "dtype": candidate.dtype,
        "bytes_per_page": held,
        "attended_tokens": cost.attended_tokens,
        "index_bytes_per_step": cost.sparse.index_bytes,
        "attended_bytes_per_step": cost.sparse.attended_bytes,
        "predicted_step_seconds": cost.sparse.seconds,
        "predicted_speedup": cost.speedup_step,
        "model": model,
        "device": cost.device,
        "launches": [*launch_plan(candidate, shapes)],
        "servable": not lacks,
        "not_servable_because": lacks or None,
    }
    click.echo(json.dumps(facts, indent=2) if as_json else _facts(facts, context, batch))


def _facts(f: Mapping[str, Any], context: int, batch: int) -> str:
    fields = ", ".join(f"{n} [{', '.join(a)}]" for n, a in f["fields"].items()) or "none"
    stored = f", stored as {f['dtype']}" if f["fields"] else ""
    return "\n".join(
        [
            f"{f['name']}: a program",
            f"  structure  {f['structure_hash']}",
            f"  candidate  {f['candidate_hash']}",
            f"  knobs      {', '.join(f'{k} = {v}' for k, v in f['knobs'].items())}",
            f"  fields     {fields}{stored}",
            f"  page       {f['bytes_per_page']:,} bytes of fields per page, layer and KV head",
            f"priced for {f['model']}, batch {batch}, {context:,} tokens (per decode step):",
            f"  attended   {f['attended_tokens']:,} tokens per KV head, "
            f"{f['attended_bytes_per_step'] / 1e6:,.1f} MB",
            f"  index      {f['index_bytes_per_step'] / 1e6:,.1f} MB",
            f"  predicted  {f['predicted_step_seconds'] * 1e3:.3f} ms on {f['device']}, "
            f"{f['predicted_speedup']:.2f}x full attention",
            f"  launches   {'; '.join(f['launches'])} (a layer, on a GPU)",
            f"  serving    {_serving(f['not_servable_because'])}",
        ]
    )


def _serving(lacks: str | None) -> str:
    return f"no engine can serve it yet: {lacks}" if lacks else "every part has a kernel"


@click.command()
@_priced
def price(
    file: Path, knobs: tuple[str, ...], model: str, device: str, context: int, batch: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Predict what a decode step of a program costs, beside full attention."""
    shapes, hardware = geometry(model), device_named(device)
    workload = Workload(batch=batch, context=context)
    program = parse(read_program(file), filename=str(file), reserved=True)
    with placed(program):
        candidate = bind(program, parse_knobs(knobs), files=file.parent)
        cost = cost_of(candidate, shapes, workload, hardware)
    facts: dict[str, Any] = {
        "ok": True,
        "name": program.name,
        "candidate_hash": candidate.candidate_hash,
        "knobs": dict(candidate.knobs),
        "model": model,
        "device": cost.device,
        "batch": batch,
        "context": context,
        "origin": cost.origin,
        "attended_tokens": cost.attended_tokens,
        "sparse_layers": cost.sparse_layers,
        "index_bytes_per_token": cost.index_bytes_per_token,
        "bytes_per_request": cost.request_bytes,
        "memory_bytes": cost.memory,
        "fits": cost.fits,
        "speedup": cost.speedup_step,
        "attention_speedup": cost.speedup_attention,
        "step": dataclasses.asdict(cost.sparse),
        "full_attention_step": dataclasses.asdict(cost.full),
    }
    click.echo(json.dumps(facts, indent=2) if as_json else _cost_lines(facts))


def _cost_lines(f: Mapping[str, Any]) -> str:
    rows = [
        f"{f['name']} on {f['device']} for {f['model']}, batch {f['batch']}, {f['context']:,} "
        "tokens, per decode step (all predicted):",
        f"  {'':12} {'program':>12} {'full':>12}",
    ]
    for title, key, scale in (
        ("step ms", "seconds", 1e3), ("attention ms", "attention_seconds", 1e3),
        ("index MB", "index_bytes", 1e-6), ("attended MB", "attended_bytes", 1e-6),
        ("dense MB", "dense_bytes", 1e-6), ("upkeep MB", "upkeep_bytes", 1e-6),
        ("weights MB", "weight_bytes", 1e-6), ("launches", "launches", 1),
    ):  # fmt: skip
        form = ",.0f" if key == "launches" else ",.3f" if key.endswith("seconds") else ",.1f"
        pair = (f"{f[side][key] * scale:{form}}" for side in ("step", "full_attention_step"))
        rows.append(f"  {title:12} " + " ".join(f"{x:>12}" for x in pair))
    rows.append(
        f"  {f['speedup']:.2f}x full attention ({f['attention_speedup']:.2f}x in attention alone), "
        f"{f['attended_tokens']:,} tokens attended, fields of {f['index_bytes_per_token']:.1f} "
        "bytes per token"
    )
    if f["bytes_per_request"]:
        rows.append(
            f"  {f['bytes_per_request'] / 1e6:,.1f} MB per request of this length for states and "
            "picks kept from step to step"
        )
    if not f["fits"]:
        rows.append(f"  {f['memory_bytes'] / 1e9:,.1f} GB do not fit on the device")
    return "\n".join(rows)


_SETTINGS = "--config names the submission's own configuration, a JSON object"


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="Its JSON configuration.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="[default: standard output]")
def import_program(file: Path, config: Path | None, out: Path | None) -> None:
    """Translate a vFlow submission of the reference system, without running it."""
    settings: Any = {}
    if config is not None:
        try:
            settings = json.loads(read_program(config))
        except ValueError as error:
            raise VortexError(
                f"{config} is not JSON: {error}", code="E308", hint=_SETTINGS
            ) from None
    if not isinstance(settings, dict):
        raise VortexError(f"{config} holds no JSON object", code="E308", hint=_SETTINGS)
    text = import_vflow(read_program(file), filename=str(file), config=settings)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(out, error, "name another file with -o") from None


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--tolerance", default=0.02, show_default=True, help="Share that may be lost.")
@click.option("--contexts", default=2, show_default=True, callback=some_contexts)
def minimise(file: Path, knobs: tuple[str, ...], tolerance: float, contexts: int) -> None:
    """Leave out of a program what the recovered attention mass does not miss."""
    if not 0 <= tolerance < 1:  # NaN neither
        raise VortexError(
            f"{tolerance} is no share that may be lost", code="E303", hint="--tolerance 0.02"
        )
    config = RunConfig(rungs=(contexts,))
    whole, given = read_program(file), parse_knobs(knobs)
    compile_text(whole, given, filename=str(file), files=file.parent)  # says what is wrong with it

    def measure(texts: Sequence[str]) -> list[float | None]:
        requests: list[tuple[dict[str, Any], float]] = [
            ({"kind": "screen", "promote": True, "text": text, "contexts": list(range(contexts)),
              "knobs": {k: v for k, v in given.items() if k in parse(text).knobs},
              "files": str(file.parent.resolve())}, SCREEN_SECONDS)
            for text in texts
        ]  # fmt: skip
        if not requests:
            return []
        batches = [[request] for request in requests]  # a failed one does not end the others
        found = in_worker(config, contexts, batches, file.parent.resolve())
        return [_recovered(answer) for (answer,) in found]

    first, steps = shrink(whole, given, measure, tolerance=tolerance)
    click.echo(f"recovered {first:.3f} of the attention mass (measured)", err=True)
    for step in steps:
        click.echo(f"without {step.left_out}: {step.value:.3f}", err=True)
    click.echo(steps[-1].text if steps else whole, nl=False)


def _recovered(answer: Mapping[str, Any]) -> float | None:
    for stage in answer["evaluation"]["stages"]:
        for metric in stage["metrics"]:
            if metric["name"] == "recovered":
                return float(metric["value"])
    return None


COMMANDS = (check, price, import_program, minimise)
