"""Commands that run a search: start one, take one up again."""

from __future__ import annotations

import os
import signal
import threading
import tomllib
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from agent.devices import priced_device, run_device
from agent.loop import Search
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from agent.targets import accuracy_model_for, standin_note
from agent.view import View
from evals.evaluator import environment
from evals.models.fetch import NAMES
from evals.models.fit import obtain
from runs.naming import find_run
from runs.records import RunConfig
from runs.store import Store
from search_spaces.block_topk import seeds
from vortex.devices import device as device_named
from vortex.errors import ExitCode, VortexError
from vortex.geometry import geometry


@click.command()
@click.option("--model", help="Target: a known name or a checkpoint.  [default: smollm2-135m]")
@click.option("--context", type=int, help="Workload's context in tokens.  [default: 32768]")
@click.option("--batch", type=int, help="Workload's batch.  [default: 16]")
@click.option("--kv-dtype", type=click.Choice(["bf16", "fp8"]), help="[default: bf16]")
@click.option("--device", help="Where candidates run: cpu, cuda, cuda:N.  [default: a GPU if any]")
@click.option("--price-for", help="Device of predicted times.  [default: that GPU, or h200]")
@click.option("--evaluations", type=int, help="Candidates to judge.  [default: 60]")
@click.option("--minutes", type=float, help="Stop proposing after so long.")
@click.option("--contexts", type=int, help="Evaluation contexts of the last rung.  [default: 24]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--workers", type=int, help="[default: 2; half the cores with a GPU]")
@click.option("--seeds", "seeds_dir", help="Folder of seed programs, or 'library'.")
@click.option("--sweep", help="Budgets at which the seeds are judged too, as 1024,2048.")
@click.option("--throughput/--no-throughput", default=None, help="Measure decode.")
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML with the same names.")
def start(runs_dir: Path, file: Path | None, contexts: int | None, **options: Any) -> None:
    """Search sparse attention for a model."""
    config = make_config(file, contexts, options)
    _make_ready(config)
    note = standin_note(config.model, config.accuracy_model)
    if note:
        click.echo(f"note: {note}", err=True)
    store = Store.create(runs_dir, config, environment())
    click.echo(f"run {store.name} in {store.folder}", err=True)
    drive(store)


def _make_ready(config: RunConfig) -> None:
    """Workers cannot write or download: what they load must be there before they start."""
    if config.accuracy_model in NAMES:
        obtain(config.accuracy_model, lambda text: click.echo(text, err=True))


def make_config(file: Path | None, contexts: int | None, options: dict[str, Any]) -> RunConfig:
    """The configuration from a TOML file, overridden by what the command line says.

    Raises:
        VortexError: E303, a value makes no sense; E401 to E404 for models and devices.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise VortexError(f"cannot read {file}: {error}", code="E303") from None
    contexts = contexts if contexts is not None else values.pop("contexts", None)
    values |= {k: v for k, v in options.items() if v is not None}
    sweep = values.get("sweep", ())
    try:
        if isinstance(sweep, str):
            values["sweep"] = tuple(int(x) for x in sweep.split(",") if x)
        if contexts is not None:
            values["rungs"] = rungs_for(int(contexts))
        values.setdefault("accuracy_model", accuracy_model_for(values.get("model", "smollm2-135m")))
        values["device"] = run_device(values.get("device"))
        values.setdefault("price_for", priced_device(values["device"]))
        if values["device"] != "cpu":
            values.setdefault("workers", max(2, min(8, (os.cpu_count() or 2) // 2)))
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise VortexError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}", code="E303",
            hint="vortex-search start --help lists the options",
        ) from None  # fmt: skip
    except ValueError as error:
        raise VortexError(f"not a list of numbers: {error}", code="E303") from None
    geometry(config.model)
    device_named(config.price_for)
    seeds(Path(config.seeds_dir) if config.seeds_dir else None)
    return config


def rungs_for(contexts: int) -> tuple[int, ...]:
    """Racing: an eighth of the contexts (at least 3), a third, all.

    Raises:
        VortexError: E303, too few.
    """
    if contexts < 3:
        raise VortexError("errors need at least 3 contexts", code="E303", hint="--contexts 12")
    return tuple(sorted({max(3, contexts // 8), max(3, contexts // 3), contexts}))


@click.command()
@click.argument("run", required=False)
@click.option("--evaluations", type=int, help="A larger budget than before.")
@click.option("--minutes", type=float, help="Stop proposing after so long.")
@click.option("--workers", type=int)
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
def resume(
    run: str | None,
    evaluations: int | None,
    minutes: float | None,
    workers: int | None,
    runs_dir: Path,
) -> None:
    """Go on with a run that was stopped, or extend a finished one."""
    store = Store.open_to_write(find_run(runs_dir, run))
    changes = {"evaluations": evaluations, "minutes": minutes, "workers": workers}
    given = {k: v for k, v in changes.items() if v is not None}
    if given:
        try:
            store.extend(RunConfig.model_validate({**store.config().model_dump(), **given}))
        except ValidationError as error:
            raise VortexError(str(error.errors()[0]["msg"]), code="E303") from None
    _make_ready(store.config())
    drive(store)


def drive(store: Store) -> None:
    """Run the search to its end; the first Ctrl-C ends it in order."""
    stopped = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    view = View()
    try:
        Search(store, (Evolve(), Tune()), view, stopped.is_set).run()
    finally:
        view.finish()
        signal.signal(signal.SIGINT, previous)
        store.close()
    if stopped.is_set():
        click.echo(f"stopped; go on with: vortex-search resume {store.name}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    click.echo(f"done: vortex-search leaderboard {store.name}", err=True)


COMMANDS = (start, resume)
