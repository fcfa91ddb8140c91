"""Re-measures what a search found on contexts, words and texts that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass

from agent.crew import MachineFault
from agent.loop import Progress
from agent.standing import Standing, standings
from agent.workers import HANDLER, crew_for
from evals.result import Evaluation, Stage, Status
from runs.store import Store
from vortex.errors import ExitCode, VortexError

_PREFILL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Sealing:
    """What to re-measure, on how many sealed contexts."""

    contexts: int
    workers: int
    handler: str = HANDLER


def members(store: Store) -> list[Standing]:
    """The front, every seed and control that was judged on all contexts."""
    now = standings(store, store.config())
    last = len(now.config.rungs)
    chosen = {s.record.id: s for s in now.front()}
    for s in now.by_id.values():
        known = s.record.control or s.record.proposer == "seed"
        if known and s.status == Status.OK and (s.rung == last or s.record.control):
            chosen[s.record.id] = s
    return list(chosen.values())


def seal(
    store: Store, sealing: Sealing, chosen: Sequence[Standing], report: Callable[[Progress], None]
) -> None:
    """Evaluate the chosen on the sealed contexts; what is there already is not done again.

    Raises:
        VortexError: E509, the machine fails.
    """
    config = store.config()
    indices = list(range(sealing.contexts))
    maker = crew_for(config, sealing.workers, handler=sealing.handler, prefilling=True)
    try:
        prefills = [
            maker.submit([({"kind": "prefill", "split": "sealed", "index": i}, _PREFILL_SECONDS)])
            for i in indices
        ]
        for done, future in enumerate(prefills):
            report(Progress("prefill sealed", done, len(prefills), sealing.workers))
            future.result()
    except MachineFault as fault:
        raise _fault(fault) from None
    finally:
        maker.close()
    crew = crew_for(config, sealing.workers, handler=sealing.handler)
    try:
        pending = {
            crew.submit([(_request(s, indices), config.timeout * len(indices))]): s
            for s in chosen
            if not any(x.stage == Stage.SEALED for x in s.stages)
        }
        total = len(pending)
        while pending:
            report(Progress("sealed", total - len(pending), total, sealing.workers))
            done_now, _ = wait(pending, timeout=2, return_when=FIRST_COMPLETED)
            for future in done_now:
                standing = pending.pop(future)
                (answer,) = future.result()
                store.record(
                    standing.record.id, Evaluation.model_validate(answer["evaluation"]),
                    name=standing.record.name,
                )  # fmt: skip
    except MachineFault as fault:
        raise _fault(fault) from None
    finally:
        crew.close()


def _request(standing: Standing, indices: list[int]) -> dict[str, object]:
    record = standing.record
    return {
        "kind": "accuracy", "split": "sealed", "text": record.text, "knobs": record.knobs,
        "control": record.control, "contexts": indices,
    }  # fmt: skip


def _fault(fault: MachineFault) -> VortexError:
    return VortexError(
        f"evaluation failed on this machine: {fault}", code="E509",
        exit_code=ExitCode.ENVIRONMENT, hint="mend it, then run the command again",
    )  # fmt: skip
