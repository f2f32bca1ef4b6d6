"""Choice of each method's learning rate on the validation split of the stream's first tasks.

A short run learns these tasks in sequence, as the experiment does, and is scored by the mean over
them after the last one: a rate that learns one task well and ruins it with the next is not chosen.
When the best of the rates is the smallest or the largest of them, the list goes on at that end, by
a factor of about three and a bounded number of times, so that no method is judged by a list that
was drawn up for another.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
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
FACTOR = 3.0  # from the end of a list to the next rate
Run = Callable[[TrialTable, str], None]  # runs a table's trials, with a title for the display


@dataclass(frozen=True)
class RateTrials:
    """The short runs of one method, by rate: those of its list, and those added at its ends."""

    plan: SweepPlan
    base: TrialConfig
    choice: RateChoice
    trials: dict[float, Trial] = field(default_factory=dict)
    added: list[float] = field(default_factory=list)

    def add(self, rate: float) -> Trial:
        """The short run with one more rate. Raises ConfigError."""
        config = TrialConfig(f"{self.base.label}-rate{rate:g}", self.base.overrides)
        more = [override("benchmark.tasks", list(self.choice.tasks)), *self.choice.overrides]
        seed = self.plan.config.seeds[0]
        trial = self.plan.trial(config.with_value(LEARNING_RATE, rate), seed, LEARNING_RATES, *more)
        self.trials[rate] = trial
        return trial

    def scores(self, table: TrialTable) -> dict[float, float | None]:
        """The score of each rate after the last task; None of a run that did not get there."""
        found = {}
        for rate, trial in self.trials.items():
            scores = table.entries[trial.name].curve.scores
            found[rate] = scores[-1] if len(scores) == table.rule.tasks else None
        return found


def rate_trials(plan: SweepPlan) -> list[RateTrials]:
    """The short runs of all methods that train and have rates to choose from.

    Raises ConfigError.
    """
    config, found = plan.config, []
    for base in plan.bases if config.learning_rates else ():
        trial = plan.trial(base, config.seeds[0])
        name = trial.experiment.to_dict()["method"]["name"]
        rates = config.rates_for(base.label, name)
        choice = trial.kind.rate_choice(trial.experiment, config.rate_tasks) if rates else None
        if choice is None:
            continue
        entry = RateTrials(plan, base, choice)
        for rate in rates:
            entry.add(rate)
        found.append(entry)
    return found


def choose_learning_rates(
    plan: SweepPlan, candidates: list[RateTrials], run: Run
) -> list[TrialConfig]:
    """Run the candidates and set each base's best rate; bases without candidates stay unchanged.

    Writes learning_rates.json: the choice and its scores. What was run before is not run again, and
    leads to the same rates. Raises ConfigError when no rate of a method gave a score.
    """
    if not candidates:
        return plan.bases
    # Joined tasks are evaluated once, behind all of them.
    evaluated = 1 if candidates[0].choice.joined else plan.config.rate_tasks
    table = TrialTable(PruningRule("none", 1, 2, tasks=evaluated))

    def enter(trial: Trial) -> None:
        RunDirectory.of(trial.experiment).claim(trial.experiment, contents_of(trial.experiment))
        table.add(trial, trial.record(plan.config.metric))

    for entry in candidates:
        for trial in entry.trials.values():
            enter(trial)
    run(table, "learning rates")
    for _ in range(plan.config.rate_widenings):
        wider = [(entry, next_rate(entry.scores(table))) for entry in candidates]
        new = [(entry, rate) for entry, rate in wider if rate is not None]
        if not new:
            break
        for entry, rate in new:
            entry.added.append(rate)
            enter(entry.add(rate))
        run(table, "learning rates beyond the ends of the lists")
    return _chosen(plan, candidates, table)


def _chosen(plan: SweepPlan, candidates: list[RateTrials], table: TrialTable) -> list[TrialConfig]:
    """The bases with the best rates, which learning_rates.json tells."""
    chosen: dict[str, Any] = {}
    for entry in candidates:
        scores = entry.scores(table)
        best = best_rate(scores)
        if best is None:
            raise ConfigError(
                f"none of the learning rates {list(entry.trials)} of {entry.base.label!r} gave a "
                f"score; give others under tune.learning_rates.{entry.base.label}"
            )
        chosen[entry.base.label] = {
            "chosen": best,
            "tasks": list(entry.choice.tasks),
            "recall": {str(rate): scores[rate] for rate in sorted(scores)},
            "added": entry.added,
            "at_the_end": next_rate(scores) is not None,
        }
    plan.folder.write_json(
        f"{LEARNING_RATES}.json",
        {
            "split": "val",
            "metric": list(plan.config.metric),
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


def next_rate(scores: Mapping[float, float | None]) -> float | None:
    """The rate to try beyond the list if its best one is an end of it; else None.

    A rate that was tried without a score, as one that diverges, is no end to go beyond. A single
    rate is a choice already.
    """
    best = best_rate(scores)
    if best is None or len(scores) < 2 or min(scores) < best < max(scores):
        return None
    return _rounded(best * FACTOR if best == max(scores) else best / FACTOR, scores)


def _rounded(rate: float, tried: Collection[float]) -> float:
    """To one digit, as lists are written, unless that one was tried."""
    short = float(f"{rate:.0e}")
    return rate if short in tried else short
