"""The command that lets an outside agent drive a search over the Model Context Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent.commands.configure import changed, make_config
from agent.commands.inspect_run import DIR
from agent.commands.search import start
from agent.mcp_server import require_mcp, serve
from agent.outside import OUTSIDE, source_of
from agent.targets import fetched, notes_of
from evals.evaluator import environment
from runs.naming import find_run
from runs.store import Store
from vortex.errors import VortexError, printable

_NOT_HERE = (
    "agents", "strategy", "max_cost", "max_tokens", "prices", "parallel_turns", "fill",
)  # fmt: skip


@click.command()
@click.option("--run", help="Go on with this run; 'latest' is one too.  [default: a new run]")
@click.option("--name", default=OUTSIDE, show_default=True, help="Who proposes, as recorded.")
@DIR
def mcp(run: str | None, name: str, runs_dir: Path, file: Path | None, **options: Any) -> None:
    """Serve a run to an agent over the Model Context Protocol (stdio).

    Without --run a new run is started with the options of 'start': its seeds are judged,
    and every further evaluation is the agent's. With it, --evaluations is a larger budget than
    before. The run is this server's until it ends.
    """
    require_mcp()
    source = source_of(name)
    said = {**options, "config": file}
    given = [k for k, v in said.items() if v is not None and v != () and k != "evaluations"]
    if run is not None and given:
        raise VortexError(
            f"--run takes up a run as it is, so --{given[0].replace('_', '-')} changes nothing",
            code="E303", hint="leave one of them out",
        )  # fmt: skip
    if run is not None:
        store = Store.open_to_write(find_run(runs_dir, run))
        try:
            if options["evaluations"] is not None:
                store.extend(changed(store.config(), {"evaluations": options["evaluations"]}))
        except VortexError:
            store.close()
            raise
        fetched(store.config().accuracy_model, _say)
    else:
        config = make_config(file, options)
        fetched(config.accuracy_model, _say)
        for note in notes_of(config):
            _say(note)
        store = Store.create(runs_dir, config, environment())
    _say(f"serving run {store.name} in {store.folder}")
    serve(store, source)


def _say(line: str) -> None:
    click.echo(printable(line, limit=400), err=True)


# One list of options for what makes a run, wherever it is made; the model here is the client's.
mcp.params += [p for p in start.params if p.name not in {*_NOT_HERE, *(q.name for q in mcp.params)}]
