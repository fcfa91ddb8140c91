"""One SQLite database per run, written by one coordinator: what was proposed, what came of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from evals.result import Evaluation, Metric, Sample, Stage, StageResult, Status
from runs import tables
from runs.naming import new_folder
from runs.records import SCHEMA_VERSION, CandidateRecord, RunConfig
from vortex.errors import ExitCode, VortexError


class Store:
    """A run's rows. Use :meth:`create`, :meth:`open_to_write` or :meth:`open_to_read`."""

    def __init__(self, folder: Path, engine: Engine, lock: int | None) -> None:
        self.folder, self._engine, self._lock = folder, engine, lock

    @classmethod
    def create(cls, runs_dir: Path, config: RunConfig, environment: Mapping[str, str]) -> Store:
        """A new run in a folder of its own, locked by this process.

        Raises:
            VortexError: E604, the disk is full or cannot be written.
        """
        with _disk_errors(runs_dir):
            runs_dir.mkdir(parents=True, exist_ok=True)
            folder = new_folder(runs_dir)
            lock = _locked(folder)
            store = cls(folder, _engine(folder, write=True), lock)
        try:
            store._begin(config, environment)
        except VortexError:
            store.close()
            shutil.rmtree(folder, ignore_errors=True)  # half a run is none
            raise
        return store

    def _begin(self, config: RunConfig, environment: Mapping[str, str]) -> None:
        with self.write() as connection:
            tables.metadata.create_all(connection)
            connection.execute(
                insert(tables.run).values(
                    id=1, schema_version=SCHEMA_VERSION, name=self.folder.name,
                    config=config.model_dump(mode="json"), created=time.time(),
                    environment=dict(environment),
                )
            )  # fmt: skip

    @classmethod
    def open_to_write(cls, folder: Path) -> Store:
        """Take up a run again.

        Raises:
            VortexError: E601 damaged, E602 newer version, E603 in use, E605 no run.
        """
        _require(folder)
        with _disk_errors(folder):
            lock = _locked(folder)
        store = cls(folder, _engine(folder, write=True), lock)
        store.check()
        return store

    @classmethod
    def open_to_read(cls, folder: Path) -> Store:
        """Look at a run, also while another process writes it.

        Raises:
            VortexError: E601 damaged, E602 newer version, E605 no run.
        """
        _require(folder)
        store = cls(folder, _engine(folder, write=False), None)
        store.check()
        return store

    def close(self) -> None:
        """Release the run."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Refuse what cannot be read rightly."""
        with self.read() as connection:
            version = connection.execute(select(tables.run.c.schema_version)).scalar()
        if version is None:
            raise _damaged(self.folder, "it holds no run")
        if version > SCHEMA_VERSION:
            raise VortexError(
                f"run {self.folder.name} was written by a newer vortex-search (format {version}, "
                f"this one knows {SCHEMA_VERSION})",
                code="E602",
                hint="upgrade vortex-search",
            )

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction."""
        with _disk_errors(self.folder), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view."""
        with _disk_errors(self.folder), self._engine.connect() as connection:
            yield connection

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def config(self) -> RunConfig:
        """The run's configuration."""
        with self.read() as connection:
            return RunConfig.model_validate(
                connection.execute(select(tables.run.c.config)).scalar_one()
            )

    def extend(self, config: RunConfig) -> None:
        """Replace the configuration (larger budgets)."""
        with self.write() as connection:
            connection.execute(update(tables.run).values(config=config.model_dump(mode="json")))

    def environment(self) -> dict[str, str]:
        """Where the run was made."""
        with self.read() as connection:
            return dict(connection.execute(select(tables.run.c.environment)).scalar_one())

    def add(
        self,
        *,
        text: str,
        knobs: Mapping[str, int | float | str],
        proposer: str,
        parents: Sequence[int] = (),
        note: str = "",
        control: bool = False,
        name: str = "",
    ) -> tuple[int, bool]:
        """Record a proposal before anything is done with it; returns (id, whether it is new)."""
        identity = hashlib.sha256(json.dumps([text, dict(knobs)], sort_keys=True).encode())
        with self.write() as connection:
            key = identity.hexdigest()
            query = select(tables.candidates.c.id).where(tables.candidates.c.identity == key)
            found = connection.execute(query).scalar()
            if found is not None:
                return int(found), False
            done = connection.execute(
                insert(tables.candidates).values(
                    identity=key, name=name, text=text, knobs=dict(knobs), proposer=proposer,
                    parents=list(parents), note=note, control=int(control), created=time.time(),
                )
            )  # fmt: skip
            assert done.inserted_primary_key is not None
            return int(done.inserted_primary_key[0]), True

    def record(
        self,
        candidate: int,
        evaluation: Evaluation,
        *,
        name: str = "",
        knobs: Mapping[str, int | float | str] | None = None,
    ) -> None:
        """Keep all stages of an evaluation in one transaction; a stage kept before stays."""
        with self.write() as connection:
            if evaluation.candidate_hash is not None:
                values: dict[str, Any] = {
                    "structure_hash": evaluation.structure_hash,
                    "candidate_hash": evaluation.candidate_hash,
                    "name": name,
                }
                if knobs is not None:
                    values["knobs"] = dict(knobs)
                connection.execute(
                    update(tables.candidates)
                    .where(tables.candidates.c.id == candidate)
                    .values(**values)
                )
            for stage in evaluation.stages:
                self._stage(connection, candidate, stage, evaluation)

    def _stage(
        self, connection: Connection, candidate: int, stage: StageResult, evaluation: Evaluation
    ) -> None:
        connection.execute(
            insert(tables.evaluations).prefix_with("OR IGNORE").values(
                candidate=candidate, stage=stage.stage.value, rung=stage.rung,
                status=stage.status.value, message=stage.message, seconds=stage.seconds,
                metrics=[m.model_dump(mode="json") for m in stage.metrics],
                evaluator_version=evaluation.evaluator_version,
                environment=evaluation.environment, created=time.time(),
            )
        )  # fmt: skip
        rows = [
            {"candidate": candidate, "split": s.context.partition("-")[0], **s.model_dump()}
            for s in stage.samples
        ]
        if rows:
            connection.execute(insert(tables.samples).prefix_with("OR IGNORE"), rows)

    def note(self, kind: str, message: str) -> None:
        """Append an event."""
        with self.write() as connection:
            connection.execute(
                insert(tables.events).values(kind=kind, message=message, created=time.time())
            )

    def events(self) -> list[tuple[str, str, float]]:
        """(kind, message, time), oldest first."""
        table = tables.events
        with self.read() as connection:
            query = select(table.c.kind, table.c.message, table.c.created).order_by(table.c.id)
            return [(str(k), str(m), float(t)) for k, m, t in connection.execute(query)]

    def candidates(self) -> list[CandidateRecord]:
        """Every candidate, oldest first."""
        with self.read() as connection:
            query = select(tables.candidates).order_by(tables.candidates.c.id)
            return [
                CandidateRecord(
                    id=r.id, name=r.name, text=r.text, knobs=r.knobs,
                    structure_hash=r.structure_hash, candidate_hash=r.candidate_hash,
                    proposer=r.proposer, parents=tuple(r.parents), note=r.note,
                    control=bool(r.control),
                )
                for r in connection.execute(query)
            ]  # fmt: skip

    def stages(self) -> dict[int, list[StageResult]]:
        """Results of every candidate in the order in which they came, without samples."""
        found: dict[int, list[StageResult]] = {}
        with self.read() as connection:
            query = select(tables.evaluations).order_by(tables.evaluations.c.id)
            for r in connection.execute(query):
                metrics = tuple(Metric.model_validate(m) for m in r.metrics)
                found.setdefault(r.candidate, []).append(
                    StageResult(
                        stage=Stage(r.stage), rung=r.rung, status=Status(r.status),
                        message=r.message, seconds=r.seconds, metrics=metrics,
                    )
                )  # fmt: skip
        return found

    def samples(self, split: str = "search") -> dict[int, list[Sample]]:
        """Raw measurements of every candidate on one split."""
        table = tables.samples
        found: dict[int, list[Sample]] = {}
        with self.read() as connection:
            for r in connection.execute(select(table).where(table.c.split == split)):
                found.setdefault(r.candidate, []).append(
                    Sample(context=r.context, task=r.task, metric=r.metric, value=r.value, n=r.n)
                )
        return found

    def evaluated(self) -> int:
        """Candidates with a verdict of any kind, controls and duplicates apart."""
        c, e = tables.candidates, tables.evaluations
        with self.read() as connection:
            query = (
                select(func.count(func.distinct(e.c.candidate)))
                .join(c, c.c.id == e.c.candidate)
                .where(c.c.control == 0)
            )
            duplicates = select(func.count()).where(e.c.status == Status.DUPLICATE.value)
            total = connection.execute(query).scalar_one()
            return int(total) - int(connection.execute(duplicates).scalar_one())


def _require(folder: Path) -> None:
    if not (folder / "run.db").is_file():
        raise VortexError(
            f"{folder} is no run", code="E605", hint="vortex-search runs lists the runs"
        )


def _locked(folder: Path) -> int:
    """Take the run's lock; the kernel gives it back when the process ends, however it ends."""
    descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise VortexError(
            f"run {folder.name} is in use by process {holder}",
            code="E603",
            hint="wait for it, or stop it with Ctrl-C; nothing is lost",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _engine(folder: Path, *, write: bool) -> Engine:
    mode = "rwc" if write else "ro"
    # Quoted twice: SQLAlchemy and SQLite each decode once.
    path = quote(quote(str((folder / "run.db").resolve())))
    engine = create_engine(f"sqlite:///file:{path}?mode={mode}&uri=true")

    @event.listens_for(engine, "connect")
    def _setup(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=10000")
        if write:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _damaged(folder: Path, why: str) -> VortexError:
    return VortexError(
        f"run {folder.name} is damaged: {why}",
        code="E601",
        hint="restore run.db from a copy; what sqlite3's .recover finds can be read back",
    )


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk and SQLite complain about into messages."""
    try:
        yield
    except DatabaseError as error:
        text = str(error.orig)
        if "locked" in text:
            raise VortexError(
                f"run {folder.name} is being written by another process",
                code="E603",
                hint="try again in a moment",
                exit_code=ExitCode.ENVIRONMENT,
            ) from None
        if any(word in text for word in ("full", "disk I/O", "readonly", "unable to open")):
            raise VortexError(
                f"cannot write run {folder.name}: {text}",
                code="E604",
                hint="free some space or mend permissions, then: vortex-search resume",
                exit_code=ExitCode.ENVIRONMENT,
            ) from None
        raise _damaged(folder, text) from None
    except ValueError as error:
        raise _damaged(folder, f"a row cannot be read: {type(error).__name__}") from None
    except OSError as error:
        raise VortexError(
            f"cannot write to {folder}: {error.strerror or error}",
            code="E604",
            hint="free some space, mend permissions, or choose another --runs-dir",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
