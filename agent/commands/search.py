"""Commands that run a search: start one, take one up again."""

from __future__ import annotations

import os
import signal
import threading
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from agent.devices import priced_device, run_device
from agent.llm.account import Agent
from agent.llm.expenses import summary
from agent.llm.prefix import prefix
from agent.llm.recruit import check_agents, recruit
from agent.llm.studio import Studio
from agent.loop import Search
from agent.proposers.ablate import Ablate
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from agent.providers.named import parse_agent
from agent.providers.prices import parse_price
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
from vortex.errors import ExitCode, VortexError, printable
from vortex.geometry import geometry

_LARGEST = 2.0**53


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
@click.option(
    "--agent",
    "agents",
    multiple=True,
    help="A language model that proposes: anthropic:NAME, openai:NAME[@URL]. Repeatable.",
)
@click.option(
    "--strategy",
    type=click.Choice(["search", "independent"]),
    help="independent: sample the models without feedback (best of N).",
)
@click.option("--max-cost", type=float, help="Most dollars for language models.")
@click.option("--max-tokens", type=int, help="Most tokens sent to and received from them.")
@click.option("--gpu-seconds", type=float, help="Most seconds of evaluation on a GPU.")
@click.option(
    "--price",
    "prices",
    multiple=True,
    help="MODEL=INPUT,CACHED,WRITTEN,OUTPUT: dollars a million tokens. Repeatable.",
)
@click.option("--parallel-turns", type=int, help="Turns of language models at once.  [default: 2]")
@click.option(
    "--fill",
    type=float,
    help="Largest share of evaluations that other proposers take.  [default: 0.5]",
)
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
    try:
        agents = recruit(store, config, _say)
    except BaseException:
        store.discard()  # nothing was begun
        raise
    _say(f"run {store.name} in {store.folder}")
    _say(
        f"for {config.model}, batch {config.batch}, {config.context:,} tokens; judged on "
        f"{config.accuracy_model}, {config.device}; times for {config.price_for}"
    )
    drive(store, agents)


def _say(line: str) -> None:
    click.echo(printable(line, limit=400), err=True)


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
    _check_kinds(values)
    contexts = contexts if contexts is not None else values.pop("contexts", None)
    values |= {k: v for k, v in options.items() if v is not None and v != ()}
    sweep = values.get("sweep", ())
    _name_agents(values)
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
    except OverflowError:
        raise VortexError("a number is too large", code="E303") from None
    except ValueError as error:
        raise VortexError(f"not a list of numbers: {error}", code="E303") from None
    _check_numbers(values)
    check_agents(config)
    geometry(config.model)
    device_named(config.price_for)
    seeds(Path(config.seeds_dir) if config.seeds_dir else None)
    return config


def _check_kinds(values: dict[str, Any]) -> None:
    """What a file may hold at names that are read before the configuration is checked.

    Raises:
        VortexError: E303, a value of another kind.
    """
    texts, lists = ("model", "accuracy_model", "device", "price_for"), ("agent", "agents")
    kinds: dict[str, Any] = {**dict.fromkeys(texts, str), **dict.fromkeys(lists, str | list)}
    kinds |= {"sweep": str | list, "prices": list | dict, "contexts": int}
    for name, kind in kinds.items():
        value = values.get(name)
        if value is not None and not isinstance(value, kind):
            raise VortexError(
                f"{name}: {printable(repr(value), limit=60)} is of the wrong kind", code="E303",
                hint="vortex-search start --help lists the options",
            )  # fmt: skip


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse what would pass a comparison and limit nothing, or lower a cost.

    Raises:
        VortexError: E303, a value is not finite, or too large; E704, a price is none.
    """
    for name, value in values.items():
        if isinstance(value, int | float) and not -_LARGEST < value < _LARGEST:
            raise VortexError(f"{name}: {value} is no usable number", code="E303")
    for model, figures in dict(values.get("prices") or {}).items():
        if not all(0 <= float(x) < _LARGEST for x in figures):
            raise VortexError(
                f"{printable(str(model), limit=80)!r} has no price like this", code="E704",
                hint="dollars for a million tokens, none below 0",
            )  # fmt: skip


def _name_agents(values: dict[str, Any]) -> None:
    """Models and prices as the configuration keeps them."""
    agents = values.pop("agents", None) or values.pop("agent", None) or ()
    agents = (agents,) if isinstance(agents, str) else agents
    values["agents"] = tuple(parse_agent(str(a)).name for a in agents)
    prices = values.get("prices") or ()
    if not isinstance(prices, dict):
        parsed = [parse_price(str(p)) for p in prices]
        values["prices"] = {m: (p.input, p.cached, p.written, p.output) for m, p in parsed}


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
@click.option("--max-cost", type=float, help="Most dollars for language models, all of the run.")
@click.option("--max-tokens", type=int, help="Most tokens sent to and received from them.")
@click.option("--gpu-seconds", type=float, help="Most seconds of evaluation on a GPU.")
@click.option("--workers", type=int)
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("vortex-runs"))
def resume(run: str | None, runs_dir: Path, **changes: Any) -> None:
    """Go on with a run that was stopped, or extend a finished one."""
    store = Store.open_to_write(find_run(runs_dir, run))
    given = {k: v for k, v in changes.items() if v is not None}
    try:
        config = RunConfig.model_validate({**store.config().model_dump(), **given})
        _check_numbers(given)
        check_agents(config)
        if given:  # only what can work is kept
            store.extend(config)
        _make_ready(config)
        agents = _recruited_again(store, config)
    except ValidationError as error:
        store.close()
        raise VortexError(str(error.errors()[0]["msg"]), code="E303") from None
    except VortexError:
        store.close()
        raise
    drive(store, agents)


def _recruited_again(store: Store, config: RunConfig) -> list[Agent] | None:
    """The models of a run; None where a cap leaves no room even to ask whether they answer."""
    if store.evaluated() >= config.evaluations:
        return []  # nothing is left to propose: nobody is asked
    try:
        return recruit(store, config, _say)
    except VortexError as error:
        if error.code != "E709":
            raise
        _say(f"{error.message}: nothing more is proposed, what waits is judged")
        return None


def drive(store: Store, agents: Sequence[Agent] | None = ()) -> None:
    """Run the search to its end; the first Ctrl-C ends it in order, the second at once.

    Args:
        agents: the language models that propose; None: a cap was reached, nobody does.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        if stopped.is_set():
            os._exit(ExitCode.INTERRUPTED)  # as a kill: what came is on disk
        stopped.set()
        _say("stopping when what runs has come back; Ctrl-C again stops at once, nothing is lost")

    previous = signal.signal(signal.SIGINT, stop)
    view = View()
    config = store.config()
    alone = config.strategy == "independent"
    search = Search(store, () if alone else (Evolve(), Tune(), Ablate()), view, stopped.is_set)
    if agents is None or agents:
        search.studio = Studio(
            store, config, agents or (), prefix(config), say=_say,
            stop=lambda: stopped.is_set() or search.out_of_time(),
        )  # fmt: skip
        search.studio.capped = agents is None
    try:
        search.run()
        for line in summary(store):
            _say(line)
    finally:
        view.finish()
        signal.signal(signal.SIGINT, previous)
        store.close()
    if stopped.is_set():
        click.echo(f"stopped; go on with: vortex-search resume {store.name}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    click.echo(f"done: vortex-search leaderboard {store.name}", err=True)


COMMANDS = (start, resume)
