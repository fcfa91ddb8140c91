"""Runs the shell lines of a document in order, as a reader would type them, and says which failed.

    python benchmarks/follow_document.py docs/from-search-to-server.md --out followed

All lines share one shell, in a folder of its own; what they print goes to ``log.txt``, and
``lines.jsonl`` has each line with its exit code and seconds. Lines that install are left out, for
whoever runs this has installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = "\x1eended"  # what no command prints


def lines_of(text: str) -> list[str]:
    """The lines of a document's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def follow(lines: list[str], folder: Path) -> Iterator[tuple[str, int, float]]:
    """Run lines in one shell with jobs, as a terminal's is; each with its exit code and seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log, subprocess.Popen(
        ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as shell:  # fmt: skip
        assert shell.stdin is not None and shell.stdout is not None
        shell.stdin.write("set -m\n")
        for line in lines:
            log.write(f"+ {line}\n")
            began = time.monotonic()
            shell.stdin.write(f"{{ {line}\n}} < /dev/null\nprintf '\\n{_MARK} %d\\n' $?\n")
            shell.stdin.flush()
            code = -1
            for said in shell.stdout:
                if said.startswith(_MARK):
                    code = int(said.split()[1])
                    break
                log.write(said)
                log.flush()
            yield line, code, time.monotonic() - began


def main() -> None:
    """Follow a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="start", default="", help="the first line to run holds this")
    parser.add_argument("--until", default="", help="the first line not to run starts with this")
    args = parser.parse_args()
    lines = [x for x in lines_of(args.document.read_text()) if not x.startswith("pip install")]
    first = next((i for i, line in enumerate(lines) if args.start in line), None)
    if first is None:
        parser.error(f"no shell line of {args.document} holds '{args.start}'")
    lines = lines[first:]
    if args.until:
        lines = list(itertools.takewhile(lambda line: not line.startswith(args.until), lines))
    failed = 0
    for line, code, seconds in follow(lines, args.out):
        failed += code != 0
        facts = {"line": line, "exit": code, "seconds": round(seconds, 1)}
        print(json.dumps(facts), flush=True)
        with (args.out / "lines.jsonl").open("a") as file:
            file.write(json.dumps(facts) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
