"""Learning rates: which rate is chosen, from what, and when the list goes on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from tuning.run.learning_rates import (
    RateTrials,
    best_rate,
    choose_learning_rates,
    next_rate,
)
from tuning.run.trial_kind import RateChoice
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_plan import SweepPlan


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ({0.01: 20.0, 0.1: 25.0, 1.0: 3.0}, 0.1),
        ({0.1: 25.0, 0.01: 25.0}, 0.01),  # of equals the smaller one: it is the safer one
        ({0.01: None, 0.1: 4.0}, 0.1),  # 0.01 diverged
        ({0.01: None}, None),
        ({}, None),
    ],
)
def test_the_best_rate(figures: dict[float, float | None], best: float | None) -> None:
    assert best_rate(figures) == best


@pytest.mark.parametrize(
    ("figures", "rate"),
    [
        ({0.01: 20.0, 0.1: 25.0, 1.0: 3.0}, None),
        ({0.01: 30.0, 0.1: 25.0, 1.0: 3.0}, 0.003),
        ({0.01: 20.0, 0.1: 25.0, 0.3: 26.0}, 0.9),
        ({0.01: 20.0, 0.1: 25.0, 0.3: None}, None),  # beyond one that diverged there is nothing
        ({0.01: None, 0.1: None}, None),
        ({0.1: 4.0}, None),  # one rate is a choice, not a list
    ],
)
def test_a_list_goes_on_beyond_an_end_that_was_the_best(
    figures: dict[float, float | None], rate: float | None
) -> None:
    """Methods with a list that happens to fit them would look better than the others."""
    assert next_rate(figures) == rate


def sweep_of(root: Path, *more: str) -> SweepPlan:
    return SweepPlan.compose(
        [
            "experiment=compare",
            f"storage_path={root}",
            "tune.only=[lpi,maple]",
            "tune.seeds=[4,5]",
            "tune.learning_rates={lpi:[0.1,0.3],maple:[0.01,0.03,0.1]}",
            *more,
        ]
    )


def candidates_of(plan: SweepPlan) -> list[RateTrials]:
    """As `rate_trials` makes them, without data to check."""
    found = []
    for base in plan.bases:
        choice = RateChoice(("appliance", "sports"), ("evaluation.split=val",))
        entry = RateTrials(plan, base, choice)
        for rate in plan.config.rates_for(base.label, base.label):
            entry.add(rate)
        found.append(entry)
    return found


class Judge:
    """Runs trials: the score after each task is given by method and rate."""

    def __init__(self, score: Callable[[str, float, int], float | None]) -> None:
        self.score = score
        self.runs: list[tuple[str, float]] = []

    def __call__(self, table: TrialTable, title: str) -> None:
        for trial in list(table.to_run()):
            experiment = trial.experiment
            assert isinstance(experiment, ExperimentConfig)
            assert experiment.seed == 4
            assert experiment.evaluation.splits == ("val",)
            assert tuple(experiment.benchmark.tasks or ()) == ("appliance", "sports")
            label, rate = trial.config.label.split("-")[0], experiment.stage.optimiser.learning_rate
            self.runs.append((label, rate))
            table.start(trial.name)
            for task in range(2):
                score = self.score(label, rate, task)
                if score is not None:
                    table.report(trial.name, task + 1, score)
            table.end(trial.name, failed=self.score(label, rate, 1) is None)


def chosen_in(
    plan: SweepPlan, judge: Judge
) -> tuple[dict[str, float], Mapping[str, dict[str, object]]]:
    """The rate of each base, and what learning_rates.json says."""
    bases = choose_learning_rates(plan, candidates_of(plan), judge)
    rates = {}
    for base in bases:
        experiment = plan.trial(base, 0).experiment
        assert isinstance(experiment, ExperimentConfig)
        rates[base.label] = experiment.stage.optimiser.learning_rate
    file = Path(plan.folder.uri.removeprefix("file://")) / "learning_rates.json"
    return rates, json.loads(file.read_text())["methods"]


def test_the_score_is_that_after_both_tasks(tmp_path: Path) -> None:
    """A rate that is best on the first task and ruins it with the second must not be chosen."""

    def score(label: str, rate: float, task: int) -> float:
        return 10 + 100 * rate if task == 0 else 50 - 100 * abs(rate - 0.03)

    plan = sweep_of(tmp_path, "tune.rate_widenings=0")
    rates, methods = chosen_in(plan, Judge(score))
    assert rates == {"lpi": 0.1, "maple": 0.03}
    assert methods["maple"]["recall"] == {"0.01": 48.0, "0.03": 50.0, "0.1": 43.0}
    assert methods["maple"]["tasks"] == ["appliance", "sports"]
    assert (methods["lpi"]["at_the_end"], methods["maple"]["at_the_end"]) == (True, False)


def test_a_list_goes_on_until_the_best_is_inside_or_often_enough(tmp_path: Path) -> None:
    """Of LPI the best rate is far below its list, of MaPLe inside; a run is never repeated."""

    def score(label: str, rate: float, task: int) -> float:
        return 50 - 10 * abs(rate - (0.001 if label == "lpi" else 0.03))

    judge = Judge(score)
    rates, methods = chosen_in(sweep_of(tmp_path), judge)
    assert rates == {"lpi": 0.01, "maple": 0.03}
    assert methods["lpi"]["added"] == [0.03, 0.01]
    assert methods["lpi"]["at_the_end"] is True
    assert methods["maple"]["added"] == []
    assert len(judge.runs) == len(set(judge.runs)) == 2 + 3 + 2
    more, found = chosen_in(sweep_of(tmp_path, "tune.rate_widenings=5"), Judge(score))
    assert more["lpi"] == 0.001
    assert found["lpi"]["added"] == [0.03, 0.01, 0.003, 0.001, 0.0003]
    assert found["lpi"]["at_the_end"] is False


def test_a_rate_that_did_not_get_to_the_last_task_has_no_score(tmp_path: Path) -> None:
    """Its score after one task would be compared with others' after two."""

    def score(label: str, rate: float, task: int) -> float | None:
        return (90.0 if rate < 0.3 else 95.0) if task == 0 or rate < 0.3 else None

    rates, methods = chosen_in(sweep_of(tmp_path, "tune.rate_widenings=0"), Judge(score))
    assert rates["lpi"] == 0.1
    assert methods["lpi"]["recall"] == {"0.1": 90.0, "0.3": None}


def test_no_score_at_all_names_the_method_and_the_remedy(tmp_path: Path) -> None:
    message = r"\[0\.01, 0\.03, 0\.1\] of 'maple' .*tune\.learning_rates\.maple"
    with pytest.raises(ConfigError, match=message):
        chosen_in(sweep_of(tmp_path), Judge(lambda *_: None))
