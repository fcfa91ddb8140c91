"""Tables of a run's database."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("config", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("environment", JSON, nullable=False),
)

candidates = Table(
    "candidates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity", String, nullable=False, unique=True),  # proposal text and knobs
    Column("name", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("knobs", JSON, nullable=False),
    Column("structure_hash", String),
    Column("candidate_hash", String, index=True),
    Column("proposer", String, nullable=False),
    Column("parents", JSON, nullable=False),
    Column("note", Text, nullable=False),
    Column("control", Integer, nullable=False),
    Column("created", Float, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("candidate", ForeignKey("candidates.id"), nullable=False, index=True),
    Column("stage", String, nullable=False),
    Column("rung", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("evaluator_version", String, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("candidate", "stage", "rung"),
)

samples = Table(
    "samples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("candidate", ForeignKey("candidates.id"), nullable=False, index=True),
    Column("split", String, nullable=False),
    Column("context", String, nullable=False),
    Column("task", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("n", Integer, nullable=False),
    UniqueConstraint("candidate", "context", "task", "metric"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", Float, nullable=False),
)
