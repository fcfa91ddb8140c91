"""Answers in an engine: both modes on the same problems, kept as they come, never asked twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from evals.engine.engine import Completion, Mode, Request, Sampling, Sides, digest, failed, run
from evals.engine.problems import Problem
from evals.engine.scorers import answer_of, score
from evals.result import Record
from vortex.errors import ExitCode, VortexError

VERSION = 1


class Answer(Record):
    """One sample: a line of the log.

    Attributes:
        key: identifies program, engine, prompt, sampling, mode and index: asked once.
        problem: its digest; ``name``: its id.
        reply: the whole text; scores are computed from it whenever they are needed.
    """

    key: str
    name: str
    problem: str
    mode: Mode
    index: int
    seed: int
    program: str
    engine: str
    finish: str
    tokens: int
    reply: str


@dataclass(frozen=True, slots=True)
class Exam:
    """What is asked, and how.

    Attributes:
        samples: of each problem and mode.
        at_once: requests in flight, and so many between two writes of the log.
        program: hash of the candidate; seeds follow from problem, index and ``seed`` alone, so
            they are the same in both modes.
        shown: from a problem's text to what is sent, as a chat template.
    """

    problems: Sequence[Problem]
    samples: int
    sampling: Sampling
    program: str
    at_once: int = 16
    seed: int = 0
    shown: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class _Task:
    problem: Problem
    mode: Mode
    index: int
    key: str
    seed: int


def examine(
    sides: Sides, exam: Exam, log: Path, say: Callable[[int, int], None] = lambda done, all_: None
) -> list[Answer]:
    """Ask whatever the log does not hold yet; both modes in turn.

    Killed at any moment, it goes on where the log ends. A line that was cut off is dropped.

    Args:
        say: told how many answers are there, and of how many.

    Returns:
        Every answer of this exam, old ones too.

    Raises:
        VortexError: E904, an engine failed, E905, the log is damaged, in use or not writable.
    """
    tasks = list(_tasks(sides, exam))
    with _opened(log) as file:
        known = {a.key: a for a in _kept(file, log)}
        left = [t for t in tasks if t.key not in known]
        say(len(tasks) - len(left), len(tasks))
        for batch in _batches(left, exam.at_once):
            requests = [_request(t, exam) for t in batch]
            found = run(sides, batch[0].mode, requests, stream=False, at_once=exam.at_once)
            answers = [_answer(t, c, sides, exam) for t, c in zip(batch, found, strict=True)]
            _append(file, answers, log)
            known |= {a.key: a for a in answers}
            say(sum(t.key in known for t in tasks), len(tasks))
    return [known[t.key] for t in tasks]


def scored(
    answers: Sequence[Answer], problems: Sequence[Problem]
) -> dict[Mode, dict[str, list[tuple[str | None, float]]]]:
    """By mode and problem id: (stated answer, score) of each sample, in order of index."""
    by_digest = {p.digest: p for p in problems}
    found: dict[Mode, dict[str, list[tuple[str | None, float]]]] = {}
    for a in sorted(answers, key=lambda a: a.index):
        p = by_digest[a.problem]
        pair = (answer_of(p.scorer, a.reply), score(p.scorer, a.reply, p.answer))
        found.setdefault(a.mode, {}).setdefault(a.name, []).append(pair)
    return found


def _tasks(sides: Sides, exam: Exam) -> Iterator[_Task]:
    """By index, then problem: a run cut short has every problem before it has any twice."""
    engines = {mode: _engine_hash(engine.facts) for mode, engine in sides.items()}
    s = exam.sampling
    how = [s.tokens, s.temperature, s.top_p, s.ignore_end]
    for index in range(exam.samples):
        for p in exam.problems:
            seed = _seed(exam.seed, p.digest, index)
            sent = hashlib.sha256(exam.shown(p.prompt).encode()).hexdigest()
            for mode in sides:
                # Full attention does not depend on the program.
                program = exam.program if mode == "sparse" else ""
                key = digest(VERSION, program, engines[mode], p.id, p.digest, sent, how, mode,
                             index, seed)  # fmt: skip
                yield _Task(p, mode, index, key, seed)


def _engine_hash(facts: Mapping[str, str]) -> str:
    """Of what decides answers: room for longer requests does not."""
    return digest({k: v for k, v in facts.items() if k != "context_length"})


def _seed(seed: int, problem: str, index: int) -> int:
    return int(digest("seed", seed, problem, index)[:7], 16)


def _batches(left: Sequence[_Task], size: int) -> Iterator[list[_Task]]:
    """Batches of one mode: A B, B A, A B, ... over the same problems."""
    pending: dict[Mode, list[_Task]] = {}
    modes, turn = len({task.mode for task in left}), 0
    for task in left:
        pending.setdefault(task.mode, []).append(task)
        if sum(map(len, pending.values())) >= size * modes:
            order = sorted(pending, reverse=turn % 2 == 1)
            yield from (pending.pop(mode) for mode in order)
            turn += 1
    yield from pending.values()


def _request(task: _Task, exam: Exam) -> Request:
    s = exam.sampling
    sampling = Sampling(s.tokens, s.temperature, s.top_p, task.seed, s.ignore_end)
    return Request(exam.shown(task.problem.prompt), sampling)


def _answer(task: _Task, c: Completion, sides: Sides, exam: Exam) -> Answer:
    if c.finish not in ("stop", "length"):
        # No verdict about the program: nothing of it is kept, and the run may go on later.
        raise failed(f"the engine ended a request by '{c.finish[:40]}'")
    return Answer(
        key=task.key, name=task.problem.id, problem=task.problem.digest, mode=task.mode,
        index=task.index, seed=task.seed, program=exam.program,
        engine=_engine_hash(sides[task.mode].facts), finish=c.finish, tokens=c.tokens,
        reply=c.text.encode("utf-8", "replace").decode(),  # a half of a character is no text
    )  # fmt: skip


# -- the log -----------------------------------------------------


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    """The log's descriptor, for this process alone."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _log_error(f"cannot write {log}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _log_error(f"{log} is in use by another process") from None
        yield file
    finally:
        os.close(file)


def _kept(file: int, log: Path) -> Iterator[Answer]:
    """Answers of the log; its last line is dropped if a kill cut it off."""
    whole = 0
    with log.open("rb") as lines:
        for at, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                os.ftruncate(file, whole)
                return
            try:
                yield Answer.model_validate_json(line)
            except ValidationError:
                raise _log_error(f"{log}:{at} is no sample: damaged, or another's file") from None
            whole += len(line)


def _append(file: int, answers: Sequence[Answer], log: Path) -> None:
    """Lines, on the disk before anything else happens."""
    text = "".join(json.dumps(a.model_dump(mode="json")) + "\n" for a in answers).encode()
    try:
        while text:
            text = text[os.write(file, text) :]
        os.fsync(file)
    except OSError as error:
        raise _log_error(f"cannot write {log}: {error.strerror or error}") from None


def _log_error(message: str) -> VortexError:
    return VortexError(
        message, code="E905", hint="name another folder with -o",
        exit_code=ExitCode.ENVIRONMENT,
    )  # fmt: skip
