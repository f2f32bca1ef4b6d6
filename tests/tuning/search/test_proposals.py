"""Optuna's proposals and their scores survive the driver."""

import dataclasses
from pathlib import Path

import pytest

from system.config.compose import compose
from system.errors import ConfigError
from system.storage.files import Folder
from tuning.report.charts.cost_charts import pareto_front
from tuning.run.pruner import PruningRule
from tuning.run.trial_kind import TrialRecord
from tuning.run.trial_table import TrialTable
from tuning.search.proposals import Parameters, Proposals
from tuning.search.space import Space, parse_space
from tuning.search.sweep_plan import Trial, TrialConfig

pytest.importorskip("optuna")

SPACE = parse_space(
    {
        "x": {"uniform": [-1, 1]},
        "rank": {"randint": [1, 8]},
        "tasks": {"choice": [["a", "b"], None]},
        "rate": {"loguniform": [0.01, 1], "when": {"tasks": None}},
    }
)
DONE = {"tasks": ["a"]}


class Study:
    """A sweep of one task whose trials end at once with the score 10 - x squared."""

    def __init__(
        self,
        folder: Path,
        records: dict[str, TrialRecord] | None = None,
        parameters: Parameters | None = None,
        space: Space = SPACE,
    ) -> None:
        self.records = records or {}
        self.table = TrialTable(PruningRule("none", 1, 2, 1))
        base = TrialConfig("lpi", ())
        self.proposals = Proposals(space, base, 6, 0, Folder.of(folder), self.table, parameters)
        self.experiment = compose([])
        self.entered: list[TrialConfig] = []
        self.proposals.restore(self.enter)

    def enter(self, config: TrialConfig) -> list[Trial]:
        self.entered.append(config)
        trial = Trial(config, 0, dataclasses.replace(self.experiment, run_name=config.label))
        self.table.add(trial, self.records.get(trial.name, TrialRecord([], None, None)))
        return [trial]

    def run(self, most: int) -> dict[str, TrialRecord]:
        ended: dict[str, TrialRecord] = {}
        while len(ended) < most:
            trial = next(self.table.to_run(), None) or self.proposals.propose(self.enter)
            if trial is None:
                break
            score = 10 - trial.config.values["x"] ** 2
            self.table.start(trial.name)
            self.table.report(trial.name, 1, score)
            self.table.end(trial.name, failed=False)
            self.proposals.settled(trial)
            ended[trial.name] = TrialRecord([score], DONE, None)
        return ended


def test_proposals_fill_the_space_and_end(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert len(study.run(100)) == 6
    for config in study.entered:
        assert set(config.values) >= {"x", "rank", "tasks"}
        assert ("rate" in config.values) == (config.values["tasks"] is None)
    assert len({str(config.values) for config in study.entered}) == 6


def test_a_study_that_is_started_again_knows_the_scores_of_its_proposals(tmp_path: Path) -> None:
    """Else it would propose blindly, or the same trial configs once more."""
    whole = Study(tmp_path / "whole")
    whole.run(100)
    first = Study(tmp_path / "twice")
    records = first.run(4)
    again = Study(tmp_path / "twice", records)
    assert [config.values for config in again.entered] == [s.values for s in first.entered]
    assert [trial.value for trial in again.proposals.study.trials] == [
        trial.value for trial in first.proposals.study.trials
    ]
    again.run(100)
    assert [s.values for s in again.entered] == [s.values for s in whole.entered]


def test_a_proposal_whose_trial_was_interrupted_goes_on(tmp_path: Path) -> None:
    first = Study(tmp_path)
    first.run(1)
    interrupted = first.proposals.propose(first.enter)
    assert interrupted is not None
    again = Study(tmp_path, {first.entered[0].label: TrialRecord([9.0], DONE, None)})
    waiting = list(again.table.to_run())
    assert [trial.config.values for trial in waiting] == [interrupted.config.values]


def rank(trial: Trial) -> float:
    return float(trial.config.values["rank"])


def test_with_two_objectives_the_study_knows_both_and_its_front(tmp_path: Path) -> None:
    """Else a small method that is nearly as good would never be looked for."""
    study = Study(tmp_path / "two", parameters=rank)
    records = study.run(100)
    known = [(trial.values[0], trial.values[1]) for trial in study.proposals.study.trials]
    assert known == [
        (10 - config.values["x"] ** 2, config.values["rank"]) for config in study.entered
    ]
    front = pareto_front([(parameters, score) for score, parameters in known])
    best = {trial.number for trial in study.proposals.study.best_trials}
    assert set(front) <= best  # Optuna names equals too
    again = Study(tmp_path / "two", records, parameters=rank)
    assert [(t.values[0], t.values[1]) for t in again.proposals.study.trials] == known


def test_what_was_entered_is_on_storage_before(tmp_path: Path) -> None:
    """A driver killed in between would propose other values for a directory that has its config."""
    first = Study(tmp_path)
    first.run(1)

    def killed(config: TrialConfig) -> list[Trial]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.proposals.propose(killed)
    again = Study(tmp_path, {first.entered[0].label: TrialRecord([9.0], DONE, None)})
    assert [config.label for config in again.entered] == ["lpi-000", "lpi-001"]


def test_proposals_of_another_space_are_refused(tmp_path: Path) -> None:
    """Optuna would end in a traceback, or hand out values that the space has not."""
    Study(tmp_path).run(2)
    with pytest.raises(ConfigError, match=r"proposals\.json was proposed from another tune\.space"):
        Study(tmp_path, space=parse_space({"x": {"uniform": [0, 1]}}))
