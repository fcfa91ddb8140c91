"""The doors for agents outside: what they hand in is taken and judged by the rules of the run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.llm.brief import Brief, Mode
from agent.llm.desk import Answer, Desk
from agent.llm.hypotheses import Judged, judge
from agent.llm.quoting import one_line, program_text
from agent.llm.submission import Submission
from agent.llm.turns import claim_of, submission_of
from agent.loop import Progress, Search, fault_head
from agent.presentation import board_of
from agent.providers.records import ToolCall
from agent.standing import Standings, standings
from agent.workers import HANDLER
from evals.result import Status
from runs.board import Board, Cell, Row, finite
from runs.ledger import Ledger
from runs.store import Store
from vortex.errors import ExitCode, VortexError, printable

OUTSIDE = "outside"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate from outside after its evaluation.

    Attributes:
        row: as the leaderboard has it; ``judged``: its hypothesis held against the result.
        left: evaluations that the run has left.
    """

    row: Row
    judged: Judged | None
    left: int

    @property
    def ok(self) -> bool:
        """Whether no stage failed."""
        return self.row.status == str(Status.OK)


def source_of(name: str) -> str:
    """The proposer that is recorded for an outside agent of this name: it can be no other's.

    Raises:
        VortexError: E303, not a short plain name.
    """
    if not _NAME.fullmatch(name):
        raise VortexError(
            f"'{printable(name, limit=40)}' is no name for an agent", code="E303",
            hint="up to 40 letters, digits, dots, dashes and underscores",
        )  # fmt: skip
    return OUTSIDE if name == OUTSIDE else f"{OUTSIDE}:{name}"


def desk_for(store: Store) -> tuple[Desk, Standings]:
    """A desk at the run as it is now; no tuner stands beside an outside agent, so other knobs of
    a known structure are taken."""
    config = store.config()
    now = standings(store, config)
    return Desk(config, now, Brief(Mode.NEW, None, ()), tuned=False), now


def left_of(store: Store) -> int:
    """Evaluations that the run has left: what waits for its own has a claim to it."""
    judged = store.stages()
    waiting = sum(not c.control and c.id not in judged for c in store.candidates())
    return max(0, store.config().evaluations - store.evaluated() - waiting)


def require_room(store: Store) -> int:
    """What :func:`left_of` says.

    Raises:
        VortexError: E706, none.
    """
    left = left_of(store)
    if not left:
        budget, done = store.config().evaluations, store.evaluated()
        waiting = f", and others wait for {budget - done}" if done < budget else ""
        raise VortexError(
            f"run {store.name} has no evaluation left: {done} of {budget} are used{waiting}",
            code="E706",
            hint=f"vortex-search resume {store.name} judges what waits; --evaluations N allows "
            "more, there and for mcp --run",
            exit_code=ExitCode.FAILED,
        )
    return left


def hand_in(store: Store, arguments: Mapping[str, Any], source: str) -> tuple[Answer, int | None]:
    """Take a submission into the record, or say why not; nothing is evaluated yet.

    Args:
        arguments: of the tool ``submit_program``.
        source: see :func:`source_of`.

    Returns:
        The desk's answer, and the candidate's number if it was taken.

    Raises:
        VortexError: E706, the budget is used up.
    """
    desk, _ = desk_for(store)
    answer = desk.answer(ToolCall("", "submit_program", arguments, ""))
    if answer.submission is None:
        return answer, None  # what the record knows, or what is wrong, takes no room
    require_room(store)
    return answer, _kept(store, answer.submission, source)


def _kept(store: Store, said: Submission, source: str) -> int:
    """The candidate, and what is claimed of it before it is measured."""
    parents = () if said.compared_to is None else (said.compared_to,)
    candidate, _ = Ledger(store).submit(
        None, text=said.text, knobs=said.knobs, proposer=source, parents=parents,
        note=said.hypothesis, claim=claim_of(said),
    )  # fmt: skip
    return candidate


def claims(store: Store) -> dict[int, Submission]:
    """What was claimed of candidates, by number."""
    return {i: submission_of(claim) for i, claim in Ledger(store).claims().items()}


def waits(store: Store) -> bool:
    """Whether a run's known algorithms, or anything handed in, are not judged yet."""
    now = standings(store, store.config())
    return now.scale is None or any(not s.stages for s in now.by_id.values())


def judge_pending(
    store: Store,
    *,
    handler: str = HANDLER,
    report: Callable[[Progress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Judge what waits, promotions included, by the search's own machinery; propose nothing.

    Throughput on this CPU is left to ``resume``: it would keep an agent waiting.

    Raises:
        VortexError: E509 and E608, as :meth:`Search.run`.
    """
    Search(store, (), report, interrupted, handler=handler, measures=False).run()


def outcome_of(store: Store, candidate: int) -> Outcome:
    """What became of a candidate."""
    board = board_of(store)
    row = next(r for r in board.rows if r.id == candidate)
    said = claims(store)
    now = standings(store, store.config())
    judged = judge(now, {candidate: said[candidate]}) if candidate in said else []
    return Outcome(row, judged[0] if judged else None, left_of(store))


def fault_of(store: Store, candidate: int) -> str:
    """Why the machine could not judge a candidate, by the last fault in the record."""
    head = f"{fault_head(candidate)} "
    found = [m for kind, m, _ in store.events() if kind == "infra_error" and m.startswith(head)]
    why = f": {printable(found[-1][len(head) :], limit=300)}" if found else ""
    return f"the machine could not judge it{why}"


def outcome_facts(outcome: Outcome) -> dict[str, object]:
    """An outcome as JSON's values."""
    judged = None if outcome.judged is None else dataclasses.asdict(outcome.judged)
    facts = {**row_facts(outcome.row), "message": outcome.row.message, "hypothesis": judged,
             "evaluations_left": outcome.left}  # fmt: skip
    found = finite(facts)
    assert isinstance(found, dict)
    return found


def outcome_text(outcome: Outcome) -> str:
    """An outcome as lines to read."""
    row = outcome.row
    lines = [f"candidate {row.id} {printable(row.called, limit=60)}: {row.status}"
             + (", on the front" if row.on_front else "")]  # fmt: skip
    lines.append(f"  {_numbers(row)}")
    lines += [f"  {printable(line)}" for line in row.message.splitlines()[:20]]
    if outcome.judged is not None:
        lines.append(f"  hypothesis {outcome.judged.verdict}: {printable(outcome.judged.detail)}")
    lines.append(f"  evaluations left in this run: {outcome.left}")
    return "\n".join(lines)


def row_facts(row: Row) -> dict[str, object]:
    """A candidate's numbers; measured ones with their error."""
    return {
        "id": row.id, "name": one_line(row.name, 60), "proposer": row.proposer,
        "status": row.status, "on_front": row.on_front, "knobs": dict(row.knobs),
        "loss_gap": _measured(row.loss_gap), "worst_gap": _measured(row.worst_gap),
        "worst_task": row.worst_task, "predicted_step_seconds": row.step_seconds,
        "predicted_speedup": row.step_speedup, "index_bytes_per_token": row.index_bytes,
        "attended_tokens": row.kept_tokens, "gpu_speedup": _measured(row.gpu_speedup),
        "gpu_step_ms": _measured(row.gpu_step_ms),
        "engine_speedup": _measured(row.engine_speedup), "parents": list(row.parents),
    }  # fmt: skip


def _measured(cell: Cell) -> dict[str, object] | None:
    return None if cell.value is None else dataclasses.asdict(cell)


def front_facts(board: Board) -> dict[str, object]:
    """The front, fastest first, with what its numbers are of.

    Programs are printed anew, without what their authors wrote around them: an agent reads this.
    """
    members = [r for r in board.rows if r.on_front and not r.control]
    facts = {
        "run": board.run, "target": board.target, "accuracy_model": board.accuracy_model,
        "standin_note": board.standin_note, "device": board.device, "workload": board.workload,
        "contexts": board.budgets, "evaluated": board.evaluated,
        "evaluations": board.config.get("evaluations"), "gpu": board.gpu,
        "engine": board.engine,
        "front": [{**row_facts(r), "program": program_text(r.program)} for r in members],
    }  # fmt: skip
    found = finite(facts)
    assert isinstance(found, dict)
    return found


def front_text(board: Board) -> str:
    """The front as lines to read, fastest first."""
    members = [r for r in board.rows if r.on_front and not r.control]
    head = (
        f"run {board.run}: {board.evaluated} of {board.config.get('evaluations')} evaluations used;"
        f" {len(members)} on the front (loss gap measured: 0 = full attention, 1 = random pages)"
    )
    note = [f"STAND-IN: {printable(board.standin_note, limit=300)}"] if board.standin_note else []
    lines = [
        f"{r.id:>5} {printable(r.called, limit=32):32} {_numbers(r)}; "
        f"from {printable(r.proposer, limit=48)}"
        for r in members
    ]
    return "\n".join([head, *note, *lines])


def _numbers(row: Row) -> str:
    gap, parts = row.loss_gap, []
    if gap.value is not None:
        error = "" if gap.error is None else f" ± {gap.error:.3f}"
        parts.append(f"loss gap {gap.value:.3f}{error} (measured, n = {gap.n})")
    if row.gpu_speedup.value is not None:
        parts.append(f"{row.gpu_speedup.value:.2f}x full attention on the GPU")
    if row.engine_speedup.value is not None:
        parts.append(f"{row.engine_speedup.value:.2f}x full attention in an engine (measured)")
    if row.step_seconds is not None:
        faster = "" if row.step_speedup is None else f", {row.step_speedup:.2f}x full attention"
        parts.append(f"step {row.step_seconds * 1e3:.3f} ms{faster} (predicted)")
    return "; ".join(parts) or "nothing was measured"
