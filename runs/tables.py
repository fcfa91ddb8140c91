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

# What language models were asked and what they said. Long texts are kept once, by their hash.
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("text", Text, nullable=False),
)

# A dialogue with one purpose; ``seen`` is the state of the run that it was begun on.
turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("agent", String, nullable=False),
    Column("seen", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("outcome", String),  # none: not ended yet
    Column("detail", Text),
    Column("candidate", ForeignKey("candidates.id")),
    Column("ended", Float),
)

# One row per attempt, written before it is sent.
requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn", ForeignKey("turns.id"), nullable=False, index=True),
    Column("step", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    Column("bound_tokens", Integer, nullable=False),
    Column("bound_dollars", Float),  # none: no price is known
    Column("price", JSON),
    Column("created", Float, nullable=False),
    UniqueConstraint("turn", "step", "attempt"),
)

# What became of a request; one without a row here is in flight, or was when its process died.
replies = Table(
    "replies",
    metadata,
    Column("request", ForeignKey("requests.id"), primary_key=True),
    Column("state", String, nullable=False),
    Column("content", JSON),
    Column("error", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("written_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("estimated", Integer, nullable=False),  # tokens were counted by us, not the provider
    Column("dollars", Float),
    Column("seconds", Float, nullable=False),
    Column("created", Float, nullable=False),
)

# What was claimed of a candidate before it was judged.
hypotheses = Table(
    "hypotheses",
    metadata,
    Column("candidate", ForeignKey("candidates.id"), primary_key=True),
    Column("turn", ForeignKey("turns.id")),
    Column("content", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

notes = Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn", ForeignKey("turns.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)
