"""Optuna on the knobs of a promising structure; its study is rebuilt from the records each time."""

from __future__ import annotations

import random
from collections.abc import Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from agent.proposers.base import Elite, Proposal, SearchContext
from vortex.compile import bind, parse
from vortex.errors import VortexError
from vortex.knobs import Choice, Integer, Knob, KnobValue

_TRIES = 20


class Tune:
    """Multi-objective tree-structured Parzen estimation over (loss, predicted step time)."""

    name = "tune"

    def propose(self, context: SearchContext, n: int) -> list[Proposal]:
        """See Proposer."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        rng = random.Random(f"tune/{context.seed}")
        group = _structure(context.elites, rng)
        if not group:
            return []
        best = min(group, key=lambda e: e.loss)
        try:
            program = parse(best.text)
        except VortexError:  # it was accepted by an older language
            return []
        space = {k: _distribution(v) for k, v in program.knobs.items() if _is_free(v)}
        if not space:
            return []
        study = _study(group, space, program.knobs, seed=rng.randrange(1 << 30))
        taken = set(context.tried)
        found: list[Proposal] = []
        for _ in range(_TRIES * n):
            if len(found) == n:
                break
            trial = study.ask(space)
            knobs = {**dict(best.knobs), **{k: _tidy(v) for k, v in trial.params.items()}}
            try:
                candidate = bind(program, knobs)
            except VortexError:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            if not context.fits(candidate):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            if candidate.candidate_hash not in taken:
                taken.add(candidate.candidate_hash)
                moved = [f"{k} = {v}" for k, v in candidate.knobs.items() if best.knobs.get(k) != v]
                note = "tuned: " + (", ".join(moved) or "defaults")
                found.append(
                    Proposal(
                        best.text, dict(candidate.knobs), self.name, (best.candidate_id,), note
                    )
                )
        return found


def _structure(elites: tuple[Elite, ...], rng: random.Random) -> list[Elite]:
    """The candidates of one structure, drawn among those on the front."""
    members = [e for e in elites if e.on_front] or list(elites)
    if not members:
        return []
    chosen = rng.choice(members).structure_hash
    return [e for e in elites if e.structure_hash == chosen]


def _is_free(knob: Knob) -> bool:
    return not (isinstance(knob, Choice) and len(knob.options) == 1)


def _distribution(knob: Knob) -> BaseDistribution:
    if isinstance(knob, Choice):
        return CategoricalDistribution(list(knob.options))
    if isinstance(knob, Integer):
        return IntDistribution(knob.low, knob.high, log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _tidy(value: KnobValue) -> KnobValue:
    """Three significant digits: finer settings are not told apart."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _study(
    group: list[Elite],
    space: Mapping[str, BaseDistribution],
    knobs: Mapping[str, Knob],
    *,
    seed: int,
) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=True)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for elite in group:
        params = {k: elite.knobs.get(k, knobs[k].default) for k in space}
        if all(knobs[k].check(v) is not None for k, v in params.items()):
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=dict(space),
                    values=[elite.loss, elite.step_seconds],
                )
            )  # fmt: skip
    return study
