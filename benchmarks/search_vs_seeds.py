"""Does a search find more than the known algorithms? Several runs, judged on sealed contexts.

    python benchmarks/search_vs_seeds.py --out results --evaluations 300 --run-seeds 1 2 3

Each run judges all seeds swept over budgets, then searches. From each run one candidate is picked
on the contexts that the search saw: the one that dominates most members of the known programs'
front (predicted no slower, and less lossy by more than 1.64 standard errors of the paired
difference). That one is then compared with the same members on sealed contexts (other texts, other
words). Stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

from agent.crew import Crew
from agent.sealing import Sealing, seal
from agent.standing import Standing, standings
from agent.workers import worker_config
from evals.evaluator import EVALUATOR_VERSION
from evals.models.fetch import cache_dir
from evals.result import Evaluation, Stage, Status
from runs.archive import Entry, front, paired
from runs.naming import list_runs
from runs.quality import scale_of
from runs.records import RunConfig
from runs.store import Store

CERTAIN = 1.64
SWEEP = "1024,1448,2048,2896,5793,8192"


def main() -> None:
    """Run or go on with all runs, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--sealed", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="of all runs together")
    parser.add_argument("--run-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop in order after this")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    prefill(args.workers, args.contexts, args.sealed)
    finished = search(args, deadline)
    for number in args.run_seeds:
        store = Store.open_to_write(folder_of(args.out, number))
        if finished or time.monotonic() < deadline:
            sealing = Sealing(contexts=args.sealed, workers=args.workers)
            if finished:
                for earlier in args.run_seeds[: args.run_seeds.index(number)]:
                    share_sealed(folder_of(args.out, earlier), store)
                seal(store, sealing, wanted(store), lambda p: print(p, file=sys.stderr))
        verdict = compare(store)
        (args.out / f"verdict-{number}.json").write_text(json.dumps(verdict, indent=2))
        print(json.dumps(verdict, indent=2))
        store.close()


def prefill(workers: int, contexts: int, sealed: int) -> None:
    """All contexts once, for all runs."""
    cache = (cache_dir(),)
    crew = Crew("evals.evaluator:Evaluator", worker_config(RunConfig()), size=workers,
                readable=cache, writable=cache)  # fmt: skip
    wanted = [("search", i) for i in range(contexts)] + [("sealed", i) for i in range(sealed)]
    try:
        for future in [
            crew.submit([({"kind": "prefill", "split": s, "index": i}, 600.0)]) for s, i in wanted
        ]:
            future.result()
    finally:
        crew.close()


def folder_of(out: Path, number: int) -> Path:
    """The run of a seed."""
    runs_dir = out / f"seed-{number}"
    return runs_dir / list_runs(runs_dir)[0]


def search(args: argparse.Namespace, deadline: float) -> bool:
    """All searches at once; True when each has spent its budget."""
    share = max(1, args.workers // len(args.run_seeds))
    processes = []
    for number in args.run_seeds:
        runs_dir = args.out / f"seed-{number}"
        if list_runs(runs_dir):
            words = ["resume", list_runs(runs_dir)[0], "--workers", str(share)]
        else:
            words = ["start", "--seed", str(number), "--evaluations", str(args.evaluations),
                     "--contexts", str(args.contexts), "--sweep", SWEEP, "--workers", str(share),
                     "--no-throughput"]  # fmt: skip
        command = [sys.executable, "-m", "agent.cli", *words, "--runs-dir", str(runs_dir)]
        log = (args.out / f"seed-{number}.log").open("a")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    ended = []
    for process in processes:
        try:
            ended.append(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.send_signal(2)
            ended.append(process.wait(60))
    return all(code == 0 for code in ended)


def share_sealed(folder: Path, store: Store) -> None:
    """Take over what another run measured of the same candidates: evaluation is deterministic."""
    other = Store.open_to_read(folder)
    samples, stages = other.samples("sealed"), other.stages()
    ids = {r.candidate_hash: r for r in other.candidates() if r.id in samples}
    for record in store.candidates():
        twin = ids.get(record.candidate_hash)
        if twin is None or record.candidate_hash is None:
            continue
        kept = [s for s in stages[twin.id] if s.stage == Stage.SEALED]
        stage = kept[0].model_copy(update={"samples": tuple(samples[twin.id])})
        store.record(
            record.id,
            Evaluation(
                evaluator_version=EVALUATOR_VERSION, structure_hash=record.structure_hash,
                candidate_hash=record.candidate_hash, stages=(stage,),
            ),
            name=record.name,
        )  # fmt: skip
    other.close()


def wanted(store: Store) -> list[Standing]:
    """The picked candidate, the known programs that saw every context, and the controls."""
    now = standings(store, store.config())
    last = [s for s in now.at_rung(len(now.config.rungs)) if s.status == Status.OK]
    picked = compare(store).get("candidate")
    chosen = [s for s in now.by_id.values() if s.record.control and s.samples]
    chosen += [s for s in last if s.record.proposer == "seed"]
    if isinstance(picked, dict):
        chosen.append(now.by_id[int(picked["id"])])
    return chosen


def compare(store: Store) -> dict[str, object]:
    """The picked candidate against the known programs, on both splits."""
    config = store.config()
    now = standings(store, config)
    last = [s for s in now.at_rung(len(config.rungs)) if s.status == Status.OK]
    known = [s for s in last if s.record.proposer == "seed"]
    found = [s for s in last if s.record.proposer != "seed"]
    seen = {s.record.id: s.entry() for s in last}
    verdict: dict[str, object] = {
        "run": store.name, "judged": store.evaluated(), "last_rung": len(last),
        "known": len(known), "found": len(found),
    }  # fmt: skip
    if not found or not known:
        return verdict
    places = [seen[k.record.id] for k in known]
    best = max(found, key=lambda f: strength(seen[f.record.id], places))
    verdict |= {
        "candidate": describe(best),
        "search_split": dominance(seen[best.record.id], places),
    }
    sealed = sealed_entries(store, [best, *known])
    if sealed and best.record.id in sealed:
        others = [sealed[k.record.id] for k in known if k.record.id in sealed]
        ids = [int(d["id"]) for d in verdict["search_split"]["dominated"]]  # type: ignore[index]
        verdict["sealed_split"] = dominance(sealed[best.record.id], others, among=ids)
    return verdict


def dominance(
    entry: Entry, known: list[Entry], among: list[int] | None = None
) -> dict[str, object]:
    """Members of the known programs' front that are predicted to be no faster than the candidate
    and lose more: their paired differences (negative: the candidate loses less).

    Args:
        among: look at these known programs instead of at those that are dominated here.
    """
    members = front(known)
    rivals = [k for k in members if k.seconds >= entry.seconds * (1 - 1e-9)]
    if among is not None:
        rivals = [k for k in known if k.id in among]
    listed = []
    for rival in rivals:
        gap = paired(entry.losses, rival.losses)
        if among is not None or gap.z < -CERTAIN:
            listed.append(
                {"id": rival.id, "difference": gap.value, "error": gap.error, "z": gap.z,
                 "n": gap.n, "loss": rival.loss, "step_seconds": rival.seconds}
            )  # fmt: skip
    return {
        "loss": entry.loss, "step_seconds": entry.seconds, "front_of_known": len(members),
        "no_faster": len(rivals), "dominated": listed,
    }  # fmt: skip


def strength(entry: Entry, known: list[Entry]) -> tuple[int, float]:
    """How many members of the known front a candidate dominates, and how surely the surest."""
    listed = dominance(entry, known)["dominated"]
    assert isinstance(listed, list)
    return len(listed), max((-float(d["z"]) for d in listed), default=0.0)


def sealed_entries(store: Store, chosen: list[Standing]) -> dict[int, Entry]:
    """Places on the sealed contexts, normalised by the sealed controls."""
    samples = store.samples("sealed")
    ids = {r.name: r.id for r in store.candidates() if r.control}
    scale = scale_of(samples.get(ids["Full"], ()), samples.get(ids["RandomPages"], ()))
    if scale is None:
        return {}
    return {
        s.record.id: Entry(s.record.id, scale.loss(samples[s.record.id]), s.seconds)
        for s in chosen
        if s.record.id in samples and any(x.stage == Stage.SEALED for x in s.stages)
    }


def describe(standing: Standing) -> dict[str, object]:
    """A candidate for the record."""
    record = standing.record
    return {
        "id": record.id, "name": record.name, "knobs": record.knobs, "parents": record.parents,
        "note": record.note, "predicted_step_seconds": standing.seconds, "program": record.text,
    }  # fmt: skip


if __name__ == "__main__":
    main()
