"""What was asked of language models, what came back and what it cost: written before it is used."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from runs import tables
from runs.store import Store


class State(StrEnum):
    """What became of a request."""

    FLYING = "in flight"  # no outcome yet: also what a killed process leaves behind
    ANSWERED = "answered"
    FAILED = "failed"  # no reply, and nothing to pay
    UNKNOWN = "unknown"  # the provider may have worked on it; its bound is booked


@dataclass(frozen=True, slots=True)
class Seen:
    """A state of a run: the last rows that a turn could know of."""

    candidate: int
    evaluation: int
    sample: int
    note: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A dialogue; ``outcome`` None: it was not ended."""

    id: int
    purpose: str
    agent: str
    seen: Seen
    outcome: str | None
    detail: str
    candidate: int | None


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of a reply and their price in dollars (None: no price is known).

    Attributes:
        prompt: all tokens sent; of them ``cached`` were read from a cache, ``written`` kept in one.
        estimated: the provider did not say; these are bounds of ours.
    """

    prompt: int = 0
    cached: int = 0
    written: int = 0
    completion: int = 0
    dollars: float | None = 0.0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One request with what became of it. ``content``: see :meth:`Ledger.intend`."""

    id: int
    turn: int
    step: int
    attempt: int
    content: Mapping[str, Any]
    state: State
    reply: Mapping[str, Any] | None
    error: str
    count: Count
    seconds: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and dollars so far, what is in flight counted at its bound.

    Attributes:
        unpriced: requests whose price is not known.
    """

    tokens: int
    dollars: float
    unpriced: int


class Ledger:
    """The rows about language models of one run."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def seen(self) -> Seen:
        """The state of the run now."""
        t = tables
        columns = (t.candidates.c.id, t.evaluations.c.id, t.samples.c.id, t.notes.c.id)
        with self.store.read() as connection:
            last = (connection.execute(select(func.max(c))).scalar() or 0 for c in columns)
            return Seen(*map(int, last))

    def open_turn(self, purpose: str, agent: str, seen: Seen) -> int:
        """Begin a turn; returns its number."""
        with self.store.write() as connection:
            done = connection.execute(
                insert(tables.turns).values(
                    purpose=purpose, agent=agent, seen=asdict(seen), created=time.time()
                )
            )
            assert done.inserted_primary_key is not None
            return int(done.inserted_primary_key[0])

    def close_turn(self, turn: int, outcome: str, detail: str = "") -> None:
        """End a turn without a candidate."""
        with self.store.write() as connection:
            _close(connection, turn, outcome, detail, None)

    def submit(
        self,
        turn: int | None,
        *,
        text: str,
        knobs: Mapping[str, int | float | str],
        proposer: str,
        parents: Sequence[int],
        note: str,
        claim: Mapping[str, Any],
    ) -> tuple[int, bool]:
        """A candidate, what is claimed of it, and the end of its turn, in one transaction.

        Returns:
            (its number, whether it is new).
        """
        with self.store.write() as connection:
            candidate, new = self.store.add_within(
                connection, text=text, knobs=knobs, proposer=proposer, parents=parents, note=note
            )
            if new:
                connection.execute(
                    insert(tables.hypotheses).values(
                        candidate=candidate, turn=turn, content=dict(claim), created=time.time()
                    )
                )
            if turn is not None:
                outcome = "submitted" if new else "repeated"
                _close(connection, turn, outcome, "", candidate)
        return candidate, new

    def claims(self, seen: Seen | None = None) -> dict[int, dict[str, Any]]:
        """What was claimed, by candidate."""
        t = tables.hypotheses
        query = select(t.c.candidate, t.c.content).order_by(t.c.candidate)
        if seen is not None:
            query = query.where(t.c.candidate <= seen.candidate)
        return {int(c): dict(content) for c, content in self._rows(query)}

    def write_notes(self, turn: int, text: str) -> None:
        """New notes, and the end of the turn that wrote them."""
        with self.store.write() as connection:
            connection.execute(
                insert(tables.notes).values(turn=turn, text=text, created=time.time())
            )
            _close(connection, turn, "noted", "", None)

    def notes(self, seen: Seen | None = None) -> tuple[str, int]:
        """The latest notes, and how many candidates had been proposed when they were begun."""
        t = tables.notes
        query = select(t.c.text, tables.turns.c.seen).join(
            tables.turns, tables.turns.c.id == t.c.turn
        )
        if seen is not None:
            query = query.where(t.c.id <= seen.note)
        rows = self._rows(query.order_by(t.c.id.desc()).limit(1))
        return (str(rows[0][0]), int(rows[0][1]["candidate"])) if rows else ("", 0)

    def turns(self) -> list[Turn]:
        """All turns, oldest first."""
        return [
            Turn(r.id, r.purpose, r.agent, Seen(**r.seen), r.outcome, r.detail or "", r.candidate)
            for r in self._rows(select(tables.turns).order_by(tables.turns.c.id))
        ]

    def intend(
        self,
        turn: int,
        step: int,
        content: Mapping[str, Any],
        *,
        bound: Count,
        price: Mapping[str, Any] | None,
        max_tokens: int | None = None,
        max_dollars: float | None = None,
    ) -> int | None:
        """Record that a request is about to be sent.

        Args:
            step: counts the requests of a turn; asking again is another attempt at a step.
            content: JSON; strings of its lists ``texts`` and ``messages`` are kept once by hash.
            bound: the most tokens that it can take, and their price.
            max_tokens, max_dollars: caps of the run, what is in flight included.

        Returns:
            Its number; None if a cap would be passed, and then nothing is recorded.
        """
        with self.store.write() as connection:
            spent = _spent(connection)
            tokens = bound.prompt + bound.completion
            if max_tokens is not None and spent.tokens + tokens > max_tokens:
                return None
            if max_dollars is not None and spent.dollars + (bound.dollars or 0.0) > max_dollars:
                return None
            t = tables.requests
            mine = (t.c.turn == turn) & (t.c.step == step)
            attempt = connection.execute(
                select(func.count()).select_from(t).where(mine)
            ).scalar_one()
            done = connection.execute(
                insert(t).values(
                    turn=turn, step=step, attempt=attempt, content=_folded(connection, content),
                    bound_tokens=tokens, bound_dollars=bound.dollars, price=price,
                    created=time.time(),
                )
            )  # fmt: skip
            assert done.inserted_primary_key is not None
            return int(done.inserted_primary_key[0])

    def settle(
        self,
        request: int,
        state: State,
        count: Count,
        *,
        reply: Mapping[str, Any] | None = None,
        error: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Record what became of a request."""
        with self.store.write() as connection:
            connection.execute(
                insert(tables.replies).values(
                    request=request, state=state.value, content=reply, error=error,
                    prompt_tokens=count.prompt, cached_tokens=count.cached,
                    written_tokens=count.written, completion_tokens=count.completion,
                    estimated=int(count.estimated), dollars=count.dollars, seconds=seconds,
                    created=time.time(),
                )
            )  # fmt: skip

    def book_unknown(self) -> list[int]:
        """Requests in flight when their process died: booked at their bound, never asked again."""
        t, r = tables.requests, tables.replies
        query = (
            select(t.c.id, t.c.bound_tokens, t.c.bound_dollars)
            .join(r, r.c.request == t.c.id, isouter=True)
            .where(r.c.request.is_(None))
        )
        lost = self._rows(query)
        for row in lost:
            count = Count(prompt=row.bound_tokens, dollars=row.bound_dollars, estimated=True)
            self.settle(row.id, State.UNKNOWN, count, error="the process ended before a reply came")
        return [int(row.id) for row in lost]

    def entries(self, turn: int | None = None) -> list[Entry]:
        """Requests in the order in which they were sent, with their texts."""
        t, r = tables.requests, tables.replies
        query = select(t, r).join(r, r.c.request == t.c.id, isouter=True).order_by(t.c.id)
        if turn is not None:
            query = query.where(t.c.turn == turn)
        rows = self._rows(query)
        blobs = select(tables.blobs)
        if turn is not None:
            keys = {
                k for r in rows for n in ("texts", "messages") for k in r._mapping[t.c.content][n]
            }
            blobs = blobs.where(tables.blobs.c.sha256.in_(keys))
        texts = {b.sha256: b.text for b in self._rows(blobs)}
        return [_entry(row._mapping, texts) for row in rows]

    def spent(self) -> Spent:
        """Tokens and dollars so far."""
        if not self._there():
            return Spent(0, 0.0, 0)
        with self.store.read() as connection:
            return _spent(connection)

    def dollars_by_agent(self) -> dict[str, float]:
        """What each agent cost so far; what is in flight at its bound."""
        found: dict[str, float] = {}
        paid = self.dollars_by_turn()
        for turn in self.turns():
            found[turn.agent] = found.get(turn.agent, 0.0) + paid.get(turn.id, 0.0)
        return found

    def dollars_by_turn(self) -> dict[int, float]:
        """What each turn cost so far; what is in flight at its bound."""
        q, r = tables.requests, tables.replies
        paid = func.iif(r.c.request.is_(None), q.c.bound_dollars, r.c.dollars)
        query = (
            select(q.c.turn, func.sum(func.coalesce(paid, 0.0)))
            .select_from(q.join(r, r.c.request == q.c.id, isouter=True))
            .group_by(q.c.turn)
        )
        return {int(turn): float(dollars) for turn, dollars in self._rows(query)}

    def _there(self) -> bool:
        return self.store.has_table("requests")

    def _rows(self, query: Any) -> Sequence[Any]:
        if not self._there():
            return []
        with self.store.read() as connection:
            return connection.execute(query).all()


def _close(
    connection: Connection, turn: int, outcome: str, detail: str, candidate: int | None
) -> None:
    connection.execute(
        update(tables.turns)
        .where(tables.turns.c.id == turn)
        .values(outcome=outcome, detail=detail, candidate=candidate, ended=time.time())
    )


def _spent(connection: Connection) -> Spent:
    t, r = tables.requests, tables.replies
    joined = select(
        func.sum(func.coalesce(r.c.prompt_tokens + r.c.completion_tokens, t.c.bound_tokens)),
        func.sum(
            func.coalesce(func.iif(r.c.request.is_(None), t.c.bound_dollars, r.c.dollars), 0.0)
        ),
        func.sum(func.iif(t.c.bound_dollars.is_(None), 1, 0)),
    ).select_from(t.join(r, r.c.request == t.c.id, isouter=True))
    tokens, dollars, unpriced = connection.execute(joined).one()
    return Spent(int(tokens or 0), float(dollars or 0.0), int(unpriced or 0))


def _folded(connection: Connection, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its long texts replaced by their hashes."""
    done: dict[str, Any] = dict(content)
    for name in ("texts", "messages"):
        hashes = []
        for item in content.get(name, ()):
            text = item if isinstance(item, str) else json.dumps(item, sort_keys=True)
            key = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
            connection.execute(
                insert(tables.blobs).prefix_with("OR IGNORE").values(sha256=key, text=text)
            )
            hashes.append(key)
        done[name] = hashes
    return done


def _entry(row: Mapping[Any, Any], texts: Mapping[str, str]) -> Entry:
    t, r = tables.requests.c, tables.replies.c
    content = dict(row[t.content])
    for name in ("texts", "messages"):
        content[name] = [texts[key] for key in content.get(name, ())]
    state = State.FLYING if row[r.state] is None else State(row[r.state])
    count = Count(
        prompt=row[r.prompt_tokens] or 0, cached=row[r.cached_tokens] or 0,
        written=row[r.written_tokens] or 0, completion=row[r.completion_tokens] or 0,
        dollars=row[r.dollars], estimated=bool(row[r.estimated]),
    )  # fmt: skip
    return Entry(
        id=row[t.id], turn=row[t.turn], step=row[t.step], attempt=row[t.attempt], content=content,
        state=state, reply=row[r.content], error=row[r.error] or "", count=count,
        seconds=row[r.seconds] or 0.0,
    )  # fmt: skip
