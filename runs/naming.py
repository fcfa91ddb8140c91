"""Names of runs: a date and two words, easy to say and to type; and runs found by them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from vortex.errors import VortexError

_FIRST = "amber brisk calm deep early fair gold high keen late mild neat open quick rare".split()  # noqa: SIM905
_SECOND = "ash birch cedar elm fern heath iris larch maple oak pine reed sage thorn yew".split()  # noqa: SIM905


def new_folder(runs_dir: Path) -> Path:
    """A new, empty folder with a name that no run has."""
    day = time.strftime("%Y-%m-%d")
    rng = random.Random(time.time_ns() ^ os.getpid())
    while True:
        words = f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}-{rng.randrange(100):02}"
        folder = runs_dir / f"{day}-{words}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue


def list_runs(runs_dir: Path) -> list[str]:
    """Names of the runs in a folder, newest last."""
    try:
        # os.path answers no where pathlib raises: what may not be looked at is no run of ours.
        found = [p for p in runs_dir.iterdir() if os.path.isfile(p / "run.db")]
    except OSError:
        return []
    return [p.name for p in sorted(found, key=lambda p: (p / "run.db").stat().st_ctime)]


def by_age(runs_dir: Path) -> list[Path]:
    """Folders of the runs, that which was written last first."""
    folders = [runs_dir / name for name in list_runs(runs_dir)]
    return sorted(folders, key=lambda f: (f / "run.db").stat().st_mtime, reverse=True)


def find_run(runs_dir: Path, name: str | None) -> Path:
    """The folder of a run: by name, by a beginning that fits one only, or the latest.

    Raises:
        VortexError: E606, none fits.
    """
    known = list_runs(runs_dir)
    if name in (None, "latest"):
        newest = next(iter(by_age(runs_dir)), None)
        if newest is None:
            raise VortexError(
                f"there is no run in {runs_dir}", code="E606", hint="vortex-search start makes one"
            )
        return newest
    assert name is not None
    if "/" in name and os.path.isdir(name):
        return Path(name)
    fits = [n for n in known if n.startswith(name)]
    if name in known or len(fits) == 1:
        return runs_dir / (name if name in known else fits[0])
    shown = ", ".join(known[-8:]) or "none"
    raise VortexError(
        f"no run is called '{name}' in {runs_dir}", code="E606", hint=f"runs here: {shown}"
    )
