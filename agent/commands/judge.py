"""Commands about one program: check it, or run it through the ladder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agent.crew import Crew, MachineFault
from agent.loop import HANDLER, worker_config
from agent.minimise import minimise as shrink
from agent.targets import accuracy_model_for, standin_note
from evals.models.fetch import DERIVED, cache_dir
from evals.models.fit import obtain
from runs.records import RunConfig
from vortex.compile import bind, defaults
from vortex.cost import page_bytes, price
from vortex.devices import device as device_named
from vortex.errors import ExitCode, ProgramError, VortexError
from vortex.frontend import parse
from vortex.geometry import Workload, geometry
from vortex.guards import MAX_BYTES
from vortex.importer import import_vflow


def read_program(path: Path) -> str:
    """The text of a program file; no more of it than a program may have.

    Raises:
        VortexError: E192, it cannot be read as text.
    """
    try:
        with path.open("rb") as file:
            return file.read(64 * MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VortexError(
            f"cannot read {path}: {error}", code="E192", hint="name a UTF-8 file with one program"
        ) from None


def parse_knobs(pairs: tuple[str, ...]) -> dict[str, int | float | str]:
    """``name=value`` pairs; numbers where they look like numbers.

    Raises:
        VortexError: E204.
    """
    knobs: dict[str, int | float | str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise VortexError(f"'{pair}' is not NAME=VALUE", code="E204", hint="--knob budget=2048")
        for kind in (int, float, str):
            try:
                knobs[name] = kind(value)
                break
            except ValueError:
                continue
    return knobs


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--model", default="qwen3-1.7b", show_default=True, help="Geometry to price on.")
@click.option("--device", default="h200", show_default=True)
@click.option("--context", default=32768, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def check(
    file: Path, knobs: tuple[str, ...], model: str, device: str, context: int, batch: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Show all errors of a program, or its fields, cost and hash."""
    text = read_program(file)
    try:
        program = parse(text, filename=str(file), reserved=True)
    except ProgramError as error:
        if not as_json:
            raise
        listed = [
            {"code": d.code, "message": d.message, "span": d.span, "hint": d.hint}
            for d in error.diagnostics
        ]
        click.echo(json.dumps({"ok": False, "errors": listed}, indent=2))
        raise click.exceptions.Exit(ExitCode.USAGE) from None
    candidate = bind(program, {**defaults(program), **parse_knobs(knobs)}, files=file.parent)
    shapes = geometry(model)
    cost = price(candidate, shapes, Workload(batch=batch, context=context), device_named(device))
    facts: dict[str, Any] = {
        "ok": True,
        "name": program.name,
        "structure_hash": candidate.structure_hash,
        "candidate_hash": candidate.candidate_hash,
        "knobs": dict(candidate.knobs),
        "fields": {n: [*f.names] for n, f in candidate.fields.items()},
        "dtype": candidate.dtype,
        "bytes_per_page": page_bytes(candidate, shapes),
        "attended_tokens": cost.attended_tokens,
        "index_bytes_per_step": cost.sparse.index_bytes,
        "attended_bytes_per_step": cost.sparse.attended_bytes,
        "predicted_step_seconds": cost.sparse.seconds,
        "predicted_speedup": cost.speedup_step,
        "model": model,
        "device": cost.device,
    }
    click.echo(json.dumps(facts, indent=2) if as_json else _facts(facts, context, batch))


def _facts(f: Mapping[str, Any], context: int, batch: int) -> str:
    fields = ", ".join(f"{n} [{', '.join(a)}]" for n, a in f["fields"].items()) or "none"
    return "\n".join(
        [
            f"{f['name']}: a program",
            f"  structure  {f['structure_hash']}",
            f"  candidate  {f['candidate_hash']}",
            f"  knobs      {', '.join(f'{k} = {v}' for k, v in f['knobs'].items())}",
            f"  fields     {fields}, stored as {f['dtype']}",
            f"  page       {f['bytes_per_page']:,} bytes of fields per page, layer and KV head",
            f"on {f['model']}, batch {batch}, {context:,} tokens (per decode step):",
            f"  attended   {f['attended_tokens']:,} tokens per KV head, "
            f"{f['attended_bytes_per_step'] / 1e6:,.1f} MB",
            f"  index      {f['index_bytes_per_step'] / 1e6:,.1f} MB",
            f"  predicted  {f['predicted_step_seconds'] * 1e3:.3f} ms on {f['device']}, "
            f"{f['predicted_speedup']:.2f}x full attention",
        ]
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Target model.")
@click.option("--contexts", default=3, show_default=True, help="Contexts of the accuracy stage.")
@click.option("--throughput/--no-throughput", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def evaluate(
    file: Path, knobs: tuple[str, ...], model: str, contexts: int, throughput: bool, as_json: bool
) -> None:
    """Run one program through the ladder; keeps no record."""
    config = RunConfig(model=model, accuracy_model=accuracy_model_for(model), rungs=(contexts,))
    if config.accuracy_model in DERIVED:
        obtain(config.accuracy_model, lambda line: click.echo(line, err=True))
    text = read_program(file)
    base = {"text": text, "knobs": parse_knobs(knobs), "contexts": list(range(contexts)),
            "files": str(file.parent.resolve())}  # fmt: skip
    requests: list[tuple[dict[str, Any], float]] = [
        ({**base, "kind": "screen", "contexts": [0, 1][:contexts]}, 120.0),
        ({**base, "kind": "accuracy"}, config.timeout * contexts),
    ]
    if throughput:
        requests.append(
            ({**base, "kind": "throughput", "batch": config.throughput_batch,
              "context": config.throughput_context, "pairs": config.throughput_pairs,
              "threads": config.workers}, 600.0)
        )  # fmt: skip
    note = standin_note(model, config.accuracy_model)
    if note:
        click.echo(f"note: {note}", err=True)
    answers = _in_worker(config, contexts, requests, file.parent.resolve())
    stages = [s for a in answers for s in a["evaluation"]["stages"]]
    if as_json:
        click.echo(json.dumps(stages, indent=2))
    else:
        click.echo("\n".join(line for s in stages for line in _stage_lines(s)))
    if stages[-1]["status"] != "ok":
        raise click.exceptions.Exit(ExitCode.FAILED)


def _in_worker(
    config: RunConfig, contexts: int, requests: list[tuple[dict[str, Any], float]], files: Path
) -> list[Any]:
    cache = (cache_dir(),)
    cache[0].mkdir(parents=True, exist_ok=True)
    settings = worker_config(config)
    maker = Crew(HANDLER, settings, size=1, readable=cache, writable=cache)
    crew = Crew(HANDLER, settings, size=1, readable=(*cache, files))
    try:
        prefills = [({"kind": "prefill", "index": i}, 600.0) for i in range(contexts)]
        maker.submit(prefills).result()
        maker.close()
        return crew.submit(requests).result()
    except MachineFault as fault:
        raise VortexError(
            f"evaluation failed on this machine: {fault}", code="E509",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip
    finally:
        maker.close()
        crew.close()


def _stage_lines(stage: Mapping[str, Any]) -> list[str]:
    lines = [f"{stage['stage']:11} {stage['status']:10} {stage['message']}".rstrip()]
    for m in stage["metrics"]:
        error = "" if m["stderr"] is None else f" ± {m['stderr']:.3g}"
        lines.append(f"    {m['name']:26} {m['value']:.5g}{error} {m['unit']} ({m['origin']})")
    groups: dict[str, list[float]] = {}
    for s in stage["samples"]:
        groups.setdefault(f"{s['task']}.{s['metric']}", []).append(s["value"])
    for name, values in groups.items():
        mean, n = sum(values) / len(values), len(values)
        spread = (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5 if n > 1 else 0.0
        lines.append(f"    {name:26} {mean:.4g} ± {spread:.2g} (measured, n = {n} contexts)")
    return lines


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
            raise VortexError(f"{config} is not JSON: {error}", code="E308") from None
    if not isinstance(settings, dict):
        raise VortexError(f"{config} holds no JSON object", code="E308")
    text = import_vflow(read_program(file), filename=str(file), config=settings)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VortexError(
            f"cannot write {out}: {error.strerror or error}", code="E604",
            hint="free some space, or name another file", exit_code=ExitCode.ENVIRONMENT,
        ) from None  # fmt: skip


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--knob", "knobs", multiple=True, help="NAME=VALUE; others take their defaults.")
@click.option("--tolerance", default=0.02, show_default=True, help="Share that may be lost.")
@click.option("--contexts", default=2, show_default=True)
def minimise(file: Path, knobs: tuple[str, ...], tolerance: float, contexts: int) -> None:
    """Leave out of a program what the recovered attention mass does not miss."""
    config = RunConfig(rungs=(max(1, contexts),))
    given = parse_knobs(knobs)

    def measure(texts: Sequence[str]) -> list[float | None]:
        requests: list[tuple[dict[str, Any], float]] = [
            ({"kind": "screen", "promote": True, "text": text, "contexts": list(range(contexts)),
              "knobs": {k: v for k, v in given.items() if k in parse(text).knobs},
              "files": str(file.parent.resolve())}, 120.0)
            for text in texts
        ]  # fmt: skip
        if not requests:
            return []
        answers = _in_worker(config, contexts, requests, file.parent.resolve())
        return [_recovered(answer) for answer in answers]

    first, steps = shrink(read_program(file), given, measure, tolerance=tolerance)
    click.echo(f"recovered {first:.3f} of the attention mass (measured)", err=True)
    for step in steps:
        click.echo(f"without {step.left_out}: {step.value:.3f}", err=True)
    click.echo(steps[-1].text if steps else read_program(file), nl=False)


def _recovered(answer: Mapping[str, Any]) -> float | None:
    for stage in answer["evaluation"]["stages"]:
        for metric in stage["metrics"]:
            if metric["name"] == "recovered":
                return float(metric["value"])
    return None


COMMANDS = (check, evaluate, import_program, minimise)
