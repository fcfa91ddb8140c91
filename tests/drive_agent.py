"""Runs a search with a language model in its own process; takes an unfinished one up again."""

from __future__ import annotations

import sys
from pathlib import Path

from runs.naming import list_runs
from runs.store import Store
from tests.agent.llm.driving import config_for, search_of


def main(runs_dir: Path, agent: str) -> None:
    """Start a run in an empty folder, else go on with the one that is there."""
    names = list_runs(runs_dir)
    if names:
        store = Store.open_to_write(runs_dir / names[0])
    else:
        config = config_for(agent, evaluations=40, fill=0.2, parallel_turns=3, notes_every=5)
        store = Store.create(runs_dir, config, {"test": "yes"})
    search_of(store).run()
    store.close()
    print("finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
