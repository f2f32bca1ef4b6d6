"""Which trials an interrupted sweep runs again, and which it leaves alone."""

import dataclasses
import math
from functools import cache

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from tuning.run.pruner import PruningRule
from tuning.run.trial_kind import TrialRecord
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_plan import Trial, TrialConfig

NEW = TrialRecord([], None, None)


@cache
def experiment() -> ExperimentConfig:
    return compose([])


def trial(label: str, seed: int = 0) -> Trial:
    named = dataclasses.replace(experiment(), run_name=f"{label}-{seed}", seed=seed)
    return Trial(TrialConfig(label, ()), seed, named)


def table(rule: PruningRule, *records: tuple[str, int, TrialRecord]) -> TrialTable:
    made = TrialTable(rule)
    for label, seed, record in records:
        made.add(trial(label, seed), record)
    return made


def begun(*scores: float) -> TrialRecord:
    return TrialRecord(list(scores), None, None)


def finished(*scores: float) -> TrialRecord:
    return TrialRecord(list(scores), {"tasks": ["x"] * len(scores)}, None)


def test_finished_trials_are_not_run_again_and_begun_ones_go_on() -> None:
    made = table(
        PruningRule("none", 1, 2, 2),
        ("a", 0, finished(1, 2)),
        ("b", 0, begun(1)),
        ("c", 0, NEW),
    )
    assert [each.name for each in made.to_run()] == ["b-0", "c-0"]
    assert made.statuses() == {"a-0": "finished", "b-0": "pending", "c-0": "pending"}


def test_a_stopped_trial_stays_stopped() -> None:
    """Or every start would learn one more task of a stopped trial."""
    made = table(PruningRule("asha", 1, 2, 4), ("a", 0, finished(9, 9, 9, 9)), ("b", 0, begun(5)))
    assert list(made.to_run()) == []
    assert made.statuses()["b-0"] == "stopped"


def test_a_failed_trial_is_tried_again() -> None:
    made = table(PruningRule("none", 1, 2, 2), ("a", 0, TrialRecord([1.0], None, "disk full")))
    assert [each.name for each in made.to_run()] == ["a-0"]


def test_a_late_decision_stops_a_finished_trial_too() -> None:
    """The set of finished trials must not depend on which of two trials was faster."""
    made = table(PruningRule("asha", 1, 2, 2), ("slow", 0, NEW), ("fast", 0, finished(5, 5)))
    assert made.statuses()["fast-0"] == "finished"
    made.report("slow-0", 1, 9.0)
    assert made.statuses()["fast-0"] == "stopped"
    assert made.stops() == {"fast-0": 1}


def test_a_config_stopped_with_one_seed_is_not_tried_with_the_next() -> None:
    made = table(
        PruningRule("asha", 1, 2, 2),
        ("a", 0, finished(9, 9)),
        ("b", 0, begun(5)),
        ("a", 1, NEW),
        ("b", 1, NEW),
    )
    assert [each.name for each in made.to_run()] == ["a-1"]
    assert made.stops() == {"b-0": 1, "b-1": 0}


def test_seeds_are_not_compared_with_each_other() -> None:
    """A harder draw of the data does not make a trial config worse."""
    made = table(PruningRule("asha", 1, 2, 2), ("a", 0, finished(9, 9)), ("a", 1, begun(5)))
    assert made.stops() == {}


def test_reports_are_entered_once_and_in_order() -> None:
    """A trial that goes on reports the tasks before again."""
    made = table(PruningRule("none", 1, 2, 3), ("a", 0, begun(1, 2)))
    for task, score in ((1, 1.0), (2, 2.0), (3, math.nan)):
        made.report("a-0", task, score)
    assert made.entries["a-0"].curve.scores == [1, 2, None]


def test_how_a_trial_ends() -> None:
    made = table(
        PruningRule("asha", 1, 2, 2), ("a", 0, NEW), ("b", 0, NEW), ("c", 0, NEW), ("d", 0, NEW)
    )
    for name, scores in (("a-0", (9, 9)), ("b-0", (5,)), ("c-0", (9,)), ("d-0", ())):
        made.start(name)
        for task, score in enumerate(scores):
            made.report(name, task + 1, score)
        made.end(name, failed=name == "d-0")
    # c ended before its last task without being stopped: its process died.
    assert made.statuses() == {
        "a-0": "finished",
        "b-0": "stopped",
        "c-0": "failed",
        "d-0": "failed",
    }
    assert list(made.to_run()) == []


def test_a_table_of_a_part_ends_there() -> None:
    """A trial of a population that went on while the driver was killed is not run again."""
    made = TrialTable(PruningRule("none", 1, 2, 2), part=True)
    for label, record in (("a", begun(1, 2, 3)), ("b", begun(1, 2)), ("c", begun(1)), ("d", NEW)):
        made.add(trial(label), record)
    assert [each.name for each in made.to_run()] == ["c-0", "d-0"]
    assert made.entries["a-0"].curve.scores == [1, 2]
    whole = table(PruningRule("none", 1, 2, 2), ("b", 0, begun(1, 2)))
    assert [each.name for each in whole.to_run()] == ["b-0"], "its files are not all there"


def test_trials_stopped_or_abandoned_from_outside_stay_so() -> None:
    made = table(PruningRule("none", 1, 2, 2), ("a", 0, begun(1)), ("b", 0, NEW), ("c", 0, NEW))
    made.stop("a-0", 1)
    made.abandon("b-0", "gone")
    assert made.stops() == {"a-0": 1}
    assert made.statuses() == {"a-0": "stopped", "b-0": "failed", "c-0": "pending"}
    assert [each.name for each in made.to_run()] == ["c-0"]
    assert made.entries["b-0"].reason == "gone"
