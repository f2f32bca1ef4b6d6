"""Choice of each method's learning rate on the validation split of the first task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from system.config.overrides import override
from system.engine.contents import contents_of
from system.errors import ConfigError
from system.storage.run_directory import RunDirectory
from tuning.run.pruner import PruningRule
from tuning.run.trial_kind import RateChoice
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_config import LEARNING_RATE
from tuning.search.sweep_plan import SweepPlan, Trial, TrialConfig

LEARNING_RATES = "learning_rates"  # folder of the short runs, and with .json the file of the choice
Run = Callable[[TrialTable, str], None]  # runs a table's trials, with a title for the display


@dataclass(frozen=True)
class RateTrials:
    """The short runs of one method, by candidate rate."""

    base: TrialConfig
    choice: RateChoice
    trials: Mapping[float, Trial]


def rate_trials(plan: SweepPlan) -> list[RateTrials]:
    """The short runs of all methods that train and have rates to choose from.

    Raises ConfigError.
    """
    seed = plan.config.seeds[0]
    found = []
    for base in plan.bases if plan.config.learning_rates else ():
        trial = plan.trial(base, seed)
        name = trial.experiment.to_dict()["method"]["name"]
        rates = plan.config.rates_for(base.label, name)
        choice = trial.kind.rate_choice(trial.experiment) if rates else None
        if choice is None:
            continue
        more = [override("benchmark.tasks", [choice.task]), *choice.overrides]
        trials = {
            rate: plan.trial(_at_rate(base, rate), seed, LEARNING_RATES, *more) for rate in rates
        }
        found.append(RateTrials(base, choice, trials))
    return found


def choose_learning_rates(
    plan: SweepPlan, candidates: list[RateTrials], run: Run
) -> list[TrialConfig]:
    """Run the candidates and set each base's best rate; bases without candidates stay unchanged.

    Writes learning_rates.json: the choice and its scores. Raises ConfigError when no rate of a
    method gave a score.
    """
    if not candidates:
        return plan.bases
    table = TrialTable(PruningRule("none", 1, 2, tasks=1))
    metric = plan.config.metric
    for entry in candidates:
        for trial in entry.trials.values():
            RunDirectory.of(trial.experiment).claim(trial.experiment, contents_of(trial.experiment))
            table.add(trial, trial.record(metric))
    run(table, "learning rates")
    chosen: dict[str, Any] = {}
    for entry in candidates:
        scores = {
            rate: score
            for rate, trial in entry.trials.items()
            for score in table.entries[trial.name].curve.scores[:1]
        }
        best = best_rate(scores)
        if best is None:
            raise ConfigError(
                f"none of the learning rates {list(entry.trials)} of {entry.base.label!r} gave a "
                f"score; give others under tune.learning_rates.{entry.base.label}"
            )
        chosen[entry.base.label] = {
            "chosen": best,
            "task": entry.choice.task,
            "recall": {str(rate): scores.get(rate) for rate in entry.trials},
        }
    plan.folder.write_json(
        f"{LEARNING_RATES}.json",
        {
            "split": "val",
            "metric": list(metric),
            "seed": plan.config.seeds[0],
            "methods": chosen,
        },
    )
    return [
        base.with_value(LEARNING_RATE, chosen[base.label]["chosen"])
        if base.label in chosen
        else base
        for base in plan.bases
    ]


def best_rate(scores: Mapping[float, float | None]) -> float | None:
    """The rate with the largest score, the smaller of equals; None if none has a score."""
    known = [(score, -rate) for rate, score in scores.items() if score is not None]
    return -max(known)[1] if known else None


def _at_rate(base: TrialConfig, rate: float) -> TrialConfig:
    named = TrialConfig(f"{base.label}-rate{rate:g}", base.overrides)
    return named.with_value(LEARNING_RATE, rate)
