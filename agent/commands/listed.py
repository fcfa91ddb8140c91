"""The commands by module of this package, with the line that ``--help`` has for each: what must be
known of a command before its module, torch behind most, is loaded."""

from __future__ import annotations

LISTED: dict[str, dict[str, str]] = {
    "judge": {
        "check": "Show all errors of a program, or its fields, cost and hash.",
        "price": "Predict what a decode step of a program costs, beside full attention.",
        "import": "Translate a vFlow submission of the reference system, without running it.",
        "minimise": "Leave out of a program what the recovered attention mass does not miss.",
    },
    "evaluate": {
        "evaluate": "Run one program through the ladder, beside full attention; keeps no record.",
    },
    "search": {
        "start": "Search sparse attention for a model.",
        "resume": "Go on with a run that was stopped, or extend a finished one.",
    },
    "compare": {
        "compare": "Compare two candidates (numbers), paired by context, or two runs (names).",
    },
    "cost": {"cost": "Show what a run's language models cost and brought."},
    "inspect_run": {
        "runs": "List the runs, oldest first.",
        "leaderboard": "Show the best of a run, beside its controls.",
        "show": "Show a candidate, by its number: program, lineage, metrics.",
        "seal": "Re-measure front, seeds and controls on contexts that the search never saw.",
        "export": "Write a candidate as a folder that anyone can read and run.",
        "report": "Write one HTML file about a run.",
    },
    "tune_kernels": {
        "tune-kernels": "Find the fastest schedules of the kernels on this GPU, and keep them for "
        "later runs.",
    },
    "replay": {
        "replay": "Re-run the turns of a recorded run: no key, nothing sent; changed prompts as "
        "diffs.",
    },
    "verify": {
        "verify": "Check an exported folder: hashes, parity, kernels, and the engine it will serve "
        "in.",
    },
    "outside": {
        "front": "Show what no other candidate beats, fastest first.",
        "submit": "Hand a program in to a run: it is recorded with what you expect, evaluated and "
        "judged.",
        "mcp": "Serve a run to an agent over the Model Context Protocol (stdio).",
    },
    "serve_eval": {
        "serve-eval": "Measure a program in an inference engine beside full attention.",
    },
}
