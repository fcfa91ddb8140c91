"""Re-measures what a search found on contexts, words and texts that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Any

from agent.crew import Crew, MachineFault
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
    store: Store,
    sealing: Sealing,
    chosen: Sequence[Standing],
    report: Callable[[Progress], None],
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Evaluate the chosen on the sealed contexts; what is there already is not done again.

    Args:
        interrupted: begins nothing more once it is true; what runs comes back and is kept.

    Raises:
        VortexError: E509, the machine fails.
    """
    config = store.config()
    indices = list(range(sealing.contexts))
    prefills = {i: [({"kind": "prefill", "split": "sealed", "index": i}, _PREFILL_SECONDS)]
                for i in indices}  # fmt: skip
    maker = crew_for(config, sealing.workers, handler=sealing.handler, prefilling=True)
    for _ in _answers(maker, prefills, "prefill sealed", sealing.workers, report, interrupted):
        pass
    if interrupted():
        return
    waiting = {s.record.id: s for s in chosen if not any(x.stage == Stage.SEALED for x in s.stages)}
    asked = {i: [(_request(s, indices), config.timeout * len(indices))]
             for i, s in waiting.items()}  # fmt: skip
    crew = crew_for(config, sealing.workers, handler=sealing.handler)
    for i, answer in _answers(crew, asked, "sealed", sealing.workers, report, interrupted):
        found = Evaluation.model_validate(answer["evaluation"])
        store.record(i, found, name=waiting[i].record.name)


def _answers(
    crew: Crew,
    asked: Mapping[int, Sequence[tuple[Mapping[str, object], float]]],
    phase: str,
    workers: int,
    report: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> Iterator[tuple[int, Any]]:
    """(whose, answer) as they come; the crew is dismissed at the end.

    Raises:
        VortexError: E509, the machine fails.
    """
    try:
        pending = {crew.submit(requests): i for i, requests in asked.items()}
        while pending:
            if interrupted():
                pending = {f: i for f, i in pending.items() if not f.cancel()}
            report(Progress(phase, len(asked) - len(pending), len(asked), workers))
            done, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                (answer,) = future.result()
                yield pending.pop(future), answer
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
