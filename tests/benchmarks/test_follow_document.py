"""A document's lines run in order in one shell, and a line that fails is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "follow_document.py"
DOCUMENT = """# Follow

```sh
pip install nothing
export WORD=kept
sleep 60 &
```

```python
raise SystemExit("no shell line")
```

```sh
kill -0 $! && test $WORD = kept && echo said
cat
{last}
kill %1
```
"""


def followed(folder: Path, last: str, *more: str) -> tuple[int, list[tuple[str, int]]]:
    folder.mkdir()
    document = folder / "document.md"
    document.write_text(DOCUMENT.format(last=last))
    done = subprocess.run(
        [sys.executable, SCRIPT, document, "--out", folder / "out", *more], capture_output=True,
        text=True, timeout=50, check=False,
    )  # fmt: skip
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, [(f["line"], f["exit"]) for f in facts]


def test_lines_share_a_shell_its_variables_and_its_jobs(tmp_path: Path) -> None:
    code, lines = followed(tmp_path / "a", "true")
    assert code == 0 and len(lines) == 6 and all(exit_code == 0 for _, exit_code in lines)
    assert "said" in (tmp_path / "a" / "out" / "log.txt").read_text()


def test_a_document_without_such_a_line_is_no_success(tmp_path: Path) -> None:
    code, lines = followed(tmp_path / "c", "true", "--from", "no such line")
    assert code == 2 and lines == []


def test_a_line_that_fails_fails_the_whole(tmp_path: Path) -> None:
    code, lines = followed(tmp_path / "b", "false", "--from", "WORD=kept")
    assert code == 1 and ("false", 1) in lines
    assert [line for line, exit_code in lines if exit_code] == ["false"]
