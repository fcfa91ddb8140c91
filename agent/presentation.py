"""From a store to the board that every view shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from agent.bandit import proposer_rows
from agent.loop import controls_problem
from agent.standing import Standing, Standings, standings
from agent.targets import standin_note
from evals.engine.outcome import SPEEDUP
from evals.result import Sample
from runs.board import Board, Cell, Row
from runs.engine import EngineFigure, at, column, engine_results, latest, notes_of, said
from runs.ledger import Ledger
from runs.quality import RANKED_TASKS, Estimate, by_context, estimate, scale_of
from runs.records import RunConfig
from runs.store import Store
from runs.titles import titled


def board_of(store: Store) -> Board:
    """Read a run into its board."""
    config = store.config()
    now = standings(store, config)
    members = {s.record.id for s in now.front()}
    sealed = sealed_losses(store, now)
    results = engine_results(store)
    served = {i: latest(found) for i, found in results.items()}
    setting = column(served)
    rows = []
    for i, s in now.by_id.items():
        row = _row(s, now, i in members, sealed)
        mine = served.get(i, ())
        speedup = _in_engine(at(mine, SPEEDUP, setting))
        notes = notes_of(results.get(i, ()))
        rows.append(
            dataclasses.replace(row, engine=mine, engine_speedup=speedup, engine_notes=notes)
        )
    rows.sort(key=_order)
    proposed = [s for s in now.by_id.values() if not s.record.control]
    states = Counter(str(s.status or "waiting") for s in proposed)
    return Board(
        run=store.name,
        target=config.model,
        accuracy_model=config.accuracy_model,
        standin_note=standin_note(config.model, config.accuracy_model),
        device=config.price_for,
        workload=f"batch {config.batch}, {config.context:,} tokens, {config.kv_dtype} KV",
        budgets=_budgets(config),
        throughput_workload=f"batch {config.throughput_batch}, "
        f"{config.throughput_context:,} tokens, {config.workers} threads",
        rows=titled(rows),
        evaluated=store.evaluated(),
        statuses=dict(sorted(states.items())),
        controls_problem=controls_problem(now),
        config=config.model_dump(mode="json"),
        environment=store.environment(),
        gpu=_gpu(now),
        gpu_step_origin=_step_origin(now),
        engine=said(setting) if setting else "",
        proposers=proposer_rows(now, active_proposers(config), _paid(store, config)),
    )


def _in_engine(figure: EngineFigure | None) -> Cell:
    return Cell(None) if figure is None else Cell(figure.value, figure.error, figure.n)


def active_proposers(config: RunConfig) -> tuple[str, ...]:
    """Those that the run's next evaluations are shared among."""
    if config.strategy == "independent":
        return config.agents
    return ("evolve", "tune", "ablate", *config.agents)


def _paid(store: Store, config: RunConfig) -> dict[str, float] | None:
    return Ledger(store).dollars_by_agent() if config.agents else None


def _gpu(now: Standings) -> str:
    """Device, and the full attention that candidates were timed beside."""
    found = [m for s in now.by_id.values() if (m := s.metric("gpu_speedup"))]
    if not found:
        return ""
    rivals = sorted({m.workload.rpartition("full attention by ")[2] for m in found})
    return f"{found[0].device} (full attention by {', '.join(rivals)})"


def _step_origin(now: Standings) -> str:
    found = {m.origin for s in now.by_id.values() if (m := s.metric("gpu_speedup"))}
    return "predicted" if "predicted" in found else "measured"


def _budgets(config: RunConfig) -> str:
    share = min(1.0, config.context_tokens / config.context)
    most = f"up to {config.rungs[-1]}" if len(config.rungs) > 1 else f"{config.rungs[-1]}"
    return (
        f"{most} contexts of {config.context_tokens:,} tokens; a budget of 4,096 at "
        f"{config.context:,} tokens is {int(4096 * share):,} there"
    )


def _order(row: Row) -> tuple[bool, bool, float, int]:
    key = row.seconds if row.on_front else row.loss_gap.value
    return (row.control, not row.on_front, float("inf") if key is None else key, row.id)


def sealed_losses(store: Store, now: Standings) -> Mapping[int, Mapping[str, float]]:
    """Loss gaps on the sealed contexts, where they were measured."""
    samples = store.samples("sealed")
    full, random = (now.control(n) for n in ("Full", "RandomPages"))
    if full is None or random is None:
        return {}
    scale = scale_of(samples.get(full.record.id, ()), samples.get(random.record.id, ()))
    return {i: scale.loss(raw) for i, raw in samples.items()} if scale else {}


def _row(
    s: Standing, now: Standings, on_front: bool, sealed: Mapping[int, Mapping[str, float]]
) -> Row:
    record = s.record

    def predicted(name: str) -> float | None:
        metric = s.metric(name)
        return None if metric is None else metric.value

    def timed(name: str) -> Cell:
        metric = s.metric(name)
        return Cell(None) if metric is None else Cell(metric.value, metric.stderr, metric.n)

    worst, task = _worst(now, s.samples)
    return Row(
        id=record.id, name=record.name or "(no program)", proposer=record.proposer,
        control=record.control, on_front=on_front, status=str(s.status or "waiting"),
        knobs=record.knobs, kept_tokens=predicted("attended_tokens"),
        loss_gap=_cell(estimate(s.losses)), worst_gap=worst, worst_task=task,
        needle_nll=_of(s.samples, "needle", "nll"), needle_exact=_of(s.samples, "needle", "exact"),
        copy_nll=_of(s.samples, "copy", "nll"), copy_top1=_of(s.samples, "copy", "top1"),
        single_exact=_of(s.samples, "single", "exact"), kl=_of(s.samples, "continuation", "kl"),
        sealed_gap=_cell(estimate(sealed.get(record.id, {}))),
        cpu_speedup=timed("cpu_speedup"), cpu_tokens_per_second=timed("cpu_tokens_per_second"),
        step_seconds=predicted("step_seconds"), step_speedup=predicted("step_speedup"),
        index_bytes=predicted("index_bytes_per_token"), parents=record.parents, note=record.note,
        program=record.text, message="\n".join(x.message for x in s.stages if x.message),
        gpu_attention=timed("gpu_attention_speedup"), gpu_speedup=timed("gpu_speedup"),
        gpu_step_ms=_scaled(timed("gpu_step_seconds"), 1e3),
        gpu_tokens_per_second=timed("gpu_tokens_per_second"),
    )  # fmt: skip


def _scaled(cell: Cell, by: float) -> Cell:
    return Cell(None) if cell.value is None else Cell(cell.value * by, None, cell.n)


def _cell(found: Estimate | None) -> Cell:
    if found is None:
        return Cell(None)
    return Cell(found.value, found.error if found.n > 1 else None, found.n)


def _of(samples: Sequence[Sample], task: str, metric: str) -> Cell:
    return _cell(estimate(by_context(samples, task, metric)))


def _worst(now: Standings, samples: Sequence[Sample]) -> tuple[Cell, str]:
    if now.scale is None:
        return Cell(None), ""
    found = {t: estimate(now.scale.gaps(samples, t)) for t in RANKED_TASKS}
    known = {t: e for t, e in found.items() if e is not None}
    if not known:
        return Cell(None), ""
    task = max(known, key=lambda t: known[t].value)
    return _cell(known[task]), task
