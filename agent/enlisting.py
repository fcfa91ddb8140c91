"""What a run begins with: the controls, and the seeds that its budget has room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.llm.turns import PROPOSE
from runs.ledger import Ledger
from runs.records import RunConfig
from runs.store import Store
from search_spaces.block_topk import SeedFile, are_ours, controls, seeds
from vortex.compile import compile_text
from vortex.errors import VortexError
from vortex.ops import AxisError


def enlist(store: Store, config: RunConfig) -> int:
    """Record the controls, and the seeds in their order while an evaluation is left for each.

    Losses are measured by the controls: they are always judged, and count as no evaluation. A run
    that is taken up again with a larger budget records what had no room before.

    Returns:
        How many seeds have no room.

    Raises:
        VortexError: E301, the seeds cannot be read.
    """
    for file in controls():
        _add(store, file, {}, "control")
    room, left_out = _room(store, config), 0
    before: set[str] = set()
    for file, knobs in _seeds(config):
        identity = _identity(file, knobs)
        twin = identity in before
        before.add(identity)
        if store.has(file.text, knobs):
            continue
        if room > 0:
            _add(store, file, knobs, _origin(file, config))
            room -= not twin  # what was judged before is no evaluation
        else:
            left_out += not twin
    return left_out


def _identity(file: SeedFile, knobs: Mapping[str, int]) -> str:
    """What tells programs apart, as the ladder does; the text where it does not compile."""
    try:
        return compile_text(file.text, knobs).candidate_hash
    except (AxisError, VortexError):
        return f"{file.text}{sorted(knobs.items())}"


def _seeds(config: RunConfig) -> Iterator[tuple[SeedFile, Mapping[str, int]]]:
    """As they are, then at every budget of the sweep."""
    files = seeds(_folder(config))
    yield from ((file, {}) for file in files)
    for budget in config.sweep:
        yield from ((file, {"budget": budget}) for file in files if "budget" in file.text)


def _room(store: Store, config: RunConfig) -> int:
    """Evaluations that neither a candidate nor a turn of a language model has a claim to."""
    judged = store.stages()
    waiting = sum(not c.control and c.id not in judged for c in store.candidates())
    asked = sum(t.purpose == PROPOSE and t.outcome is None for t in Ledger(store).turns())
    return config.evaluations - store.evaluated() - waiting - asked


def _folder(config: RunConfig) -> Path | None:
    return Path(config.seeds_dir) if config.seeds_dir else None


def _origin(file: SeedFile, config: RunConfig) -> str:
    """Where a seed is from, as its candidate says."""
    return "known algorithm" if are_ours(_folder(config)) else f"your seed {file.name}.py"


def _add(store: Store, file: SeedFile, knobs: Mapping[str, int], note: str) -> None:
    store.add(
        text=file.text, knobs=knobs, proposer="control" if file.control else "seed",
        control=file.control, name=file.name, note=note,
    )  # fmt: skip
