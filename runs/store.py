"""One SQLite database per run, written by one coordinator: what was proposed, what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, inspect, select, update

from evals.result import Evaluation, Metric, Sample, Stage, StageResult, Status
from runs import tables
from runs.database import damaged, disk_errors, engine_of, locked, require
from runs.naming import new_folder
from runs.records import SCHEMA_VERSION, CandidateRecord, RunConfig
from vortex.errors import VortexError


class Store:
    """A run's rows. Use :meth:`create`, :meth:`open_to_write` or :meth:`open_to_read`."""

    def __init__(self, folder: Path, engine: Engine, lock: int | None) -> None:
        self.folder, self._engine, self._lock = folder, engine, lock
        self._turn = threading.Lock()

    @classmethod
    def create(cls, runs_dir: Path, config: RunConfig, environment: Mapping[str, str]) -> Store:
        """A new run in a folder of its own, locked by this process.

        Raises:
            VortexError: E604, the disk is full or cannot be written.
        """
        with disk_errors(runs_dir):
            runs_dir.mkdir(parents=True, exist_ok=True)
            folder = new_folder(runs_dir)
            lock = locked(folder)
            store = cls(folder, engine_of(folder, write=True), lock)
        try:
            store._begin(config, environment)
        except VortexError:
            store.discard()  # half a run is none
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
        require(folder)
        with disk_errors(folder, "copy the run's folder to where you may write"):
            lock = locked(folder)
        store = cls(folder, engine_of(folder, write=True), lock)
        store.check()
        store._upgrade()
        return store

    @classmethod
    def open_to_read(cls, folder: Path) -> Store:
        """Look at a run, also while another process writes it.

        Raises:
            VortexError: E601 damaged, E602 newer version, E605 no run.
        """
        require(folder)
        store = cls(folder, engine_of(folder, write=False), None)
        store.check()
        return store

    def close(self) -> None:
        """Release the run."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove a run in which nothing was begun."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def check(self) -> None:
        """Refuse what cannot be read rightly."""
        with self.read() as connection:
            version = connection.execute(select(tables.run.c.schema_version)).scalar()
        if version is None:
            raise damaged(self.folder, "it holds no run")
        if version > SCHEMA_VERSION:
            raise VortexError(
                f"run {self.folder.name} was written by a newer vortex-search (format {version}, "
                f"this one knows {SCHEMA_VERSION})",
                code="E602",
                hint="upgrade vortex-search",
            )

    def _upgrade(self) -> None:
        """Tables that a run of an older format lacks."""
        with self.write() as connection:
            tables.metadata.create_all(connection)
            connection.execute(update(tables.run).values(schema_version=SCHEMA_VERSION))

    def has_table(self, name: str) -> bool:
        """Whether the run's format knows a table: one that is only read is not upgraded."""
        with self.read() as connection:
            return bool(inspect(connection).has_table(name))

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; threads of this process take turns."""
        with self._turn, disk_errors(self.folder), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view."""
        with disk_errors(self.folder), self._engine.connect() as connection:
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
        with self.write() as connection:
            return self.add_within(
                connection, text=text, knobs=knobs, proposer=proposer, parents=parents, note=note,
                control=control, name=name,
            )  # fmt: skip

    def has(self, text: str, knobs: Mapping[str, int | float | str]) -> bool:
        """Whether a proposal is recorded already."""
        c = tables.candidates.c
        with self.read() as connection:
            query = select(c.id).where(c.identity == _identity(text, knobs))
            return connection.execute(query).scalar() is not None

    @staticmethod
    def add_within(
        connection: Connection,
        *,
        text: str,
        knobs: Mapping[str, int | float | str],
        proposer: str,
        parents: Sequence[int] = (),
        note: str = "",
        control: bool = False,
        name: str = "",
    ) -> tuple[int, bool]:
        """The same, within a transaction."""
        key = _identity(text, knobs)
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

    def forget(self, statuses: Collection[Status]) -> int:
        """Remove stages with these verdicts, so that they are done again; events keep them.

        Returns:
            How many candidates wait again.
        """
        table = tables.evaluations
        chosen = table.c.status.in_([s.value for s in statuses])
        with self.write() as connection:
            rows = connection.execute(select(table).where(chosen)).all()
            for r in rows:
                what = f"candidate {r.candidate}: {r.stage} {r.status}: {r.message}"
                connection.execute(
                    insert(tables.events).values(kind="again", message=what, created=time.time())
                )
            connection.execute(delete(table).where(chosen))
        return len({r.candidate for r in rows})

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

    def stages(self, upto: int | None = None) -> dict[int, list[StageResult]]:
        """Results of every candidate in the order in which they came, without samples.

        Args:
            upto: the last row to read.
        """
        found: dict[int, list[StageResult]] = {}
        with self.read() as connection:
            query = select(tables.evaluations).order_by(tables.evaluations.c.id)
            if upto is not None:
                query = query.where(tables.evaluations.c.id <= upto)
            for r in connection.execute(query):
                metrics = tuple(Metric.model_validate(m) for m in r.metrics)
                found.setdefault(r.candidate, []).append(
                    StageResult(
                        stage=Stage(r.stage), rung=r.rung, status=Status(r.status),
                        message=r.message, seconds=r.seconds, metrics=metrics,
                    )
                )  # fmt: skip
        return found

    def environments(self, stage: Stage) -> dict[tuple[int, int], dict[str, str]]:
        """Where a stage's results were made, by candidate and rung, oldest first."""
        e = tables.evaluations
        query = select(e.c.candidate, e.c.rung, e.c.environment).order_by(e.c.id)
        with self.read() as connection:
            found = connection.execute(query.where(e.c.stage == stage.value)).all()
        return {(int(c), int(rung)): dict(where) for c, rung, where in found}

    def samples(self, split: str = "search", upto: int | None = None) -> dict[int, list[Sample]]:
        """Raw measurements of every candidate on one split, up to a last row."""
        table = tables.samples
        found: dict[int, list[Sample]] = {}
        query = select(table).where(table.c.split == split).order_by(table.c.id)
        if upto is not None:
            query = query.where(table.c.id <= upto)
        with self.read() as connection:
            for r in connection.execute(query):
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


def _identity(text: str, knobs: Mapping[str, int | float | str]) -> str:
    return hashlib.sha256(json.dumps([text, dict(knobs)], sort_keys=True).encode()).hexdigest()
