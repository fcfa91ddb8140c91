"""Names of runs: a date and two words, easy to say and to type."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

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
