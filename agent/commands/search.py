"""Commands that run a search: start one, take one up again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agent.commands.configure import changed, make_config
from agent.ending import ending, retry
from agent.enlisting import enlist
from agent.interrupts import told
from agent.llm.account import Agent
from agent.llm.expenses import summary
from agent.llm.prefix import prefix
from agent.llm.recruit import check_agents, recruit
from agent.llm.studio import Studio
from agent.loop import Search
from agent.presentation import board_of
from agent.proposers.ablate import Ablate
from agent.proposers.evolve import Evolve
from agent.proposers.tune import Tune
from agent.targets import cap_note, notes_of
from agent.view import View
from evals.evaluator import environment
from evals.models.fetch import NAMES
from evals.models.fit import obtain
from runs.board import crashes
from runs.leaderboard import judged
from runs.naming import find_run
from runs.records import RunConfig
from runs.store import Store
from vortex.errors import ExitCode, VortexError, printable


@click.command()
@click.option("--model", help="Target: a known name or a checkpoint.  [default: smollm2-135m]")
@click.option("--context", type=int, help="Workload's context in tokens.  [default: 32768]")
@click.option("--batch", type=int, help="Workload's batch.  [default: 16]")
@click.option("--kv-dtype", type=click.Choice(["bf16", "fp8"]), help="[default: bf16]")
@click.option("--device", help="Where candidates run: cpu, cuda, cuda:N.  [default: a GPU if any]")
@click.option("--price-for", help="Device of predicted times.  [default: that GPU, or h200]")
@click.option("--evaluations", type=int, help="Candidates to judge, seeds too.  [default: 60]")
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
def start(runs_dir: Path, file: Path | None, **options: Any) -> None:
    """Search sparse attention for a model."""
    config = make_config(file, options)
    _make_ready(config)
    for note in notes_of(config):
        click.echo(note, err=True)
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
        _check_larger(store, given.get("evaluations"))
        config = changed(store.config(), given)
        check_agents(config)
        if given:  # only what can work is kept
            store.extend(config)
        _make_ready(config)
        if "gpu_seconds" in given and cap_note(config):
            _say(f"note: {cap_note(config)}")
        waiting = retry(store)
        if waiting:
            _say(f"nothing stood: {waiting} that crashed or took too long are judged again")
        agents = _recruited_again(store, config)
    except VortexError:
        store.close()
        raise
    drive(store, agents)


def _check_larger(store: Store, evaluations: int | None) -> None:
    """Refuse a budget that was spent before it is given.

    Raises:
        VortexError: E303.
    """
    done = store.evaluated()
    if evaluations is not None and 0 < evaluations < done:
        raise VortexError(
            f"--evaluations {evaluations}: {done} candidates were judged already", code="E303",
            hint=f"--evaluations N, more than {done}",
        )  # fmt: skip


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
    view = View()
    try:
        with told() as stopped:
            search = _search(store, agents, view, stopped)
            left_out = enlist(store, store.config())
            if left_out:
                _say(_no_room(store, left_out))
            search.run()
            view.finish()
            board = board_of(store)
            for line in (*summary(store), *crashes(board), judged(board)):
                _say(line)
            end = ending(search)
    finally:
        view.finish()
        store.close()
    if stopped.is_set():
        click.echo(f"stopped; go on with: vortex-search resume {store.name}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    if not end.why:
        click.echo(f"done: vortex-search leaderboard {store.name}", err=True)
        return
    click.echo(end.line(), err=True)
    click.echo(f"what came: vortex-search leaderboard {store.name}", err=True)
    if end.exit_code:
        raise click.exceptions.Exit(end.exit_code)


def _search(
    store: Store, agents: Sequence[Agent] | None, view: View, stopped: threading.Event
) -> Search:
    config = store.config()
    alone = config.strategy == "independent"
    search = Search(store, () if alone else (Evolve(), Tune(), Ablate()), view, stopped.is_set)
    if agents is None or agents:
        search.studio = Studio(
            store, config, agents or (), prefix(config), say=_say,
            stop=lambda: stopped.is_set() or search.out_of_time(),
        )  # fmt: skip
        search.studio.capped = agents is None
    return search


def _no_room(store: Store, left_out: int) -> str:
    """That a budget is too small for the seeds, and how to judge the others."""
    which = "1 seed has" if left_out == 1 else f"{left_out} seeds have"
    return (
        f"note: {which} no room in {store.config().evaluations} evaluations; "
        f"vortex-search resume {store.name} --evaluations N judges more of them first"
    )


COMMANDS = (start, resume)
