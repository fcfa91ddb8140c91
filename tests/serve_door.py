"""Serves a run with the fake evaluator over the Model Context Protocol, as the command does."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.mcp_server import serve
from agent.outside import source_of
from runs.store import Store
from tests.agent.llm.driving import in_threads

if __name__ == "__main__":
    print("a stray line on standard error", file=sys.stderr)
    handler = sys.argv[2] if len(sys.argv) > 2 else "tests.fake_evaluator:FakeEvaluator"
    with in_threads():
        serve(Store.open_to_write(Path(sys.argv[1])), source_of("robot"), handler=handler)
