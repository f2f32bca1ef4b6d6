"""Progress of a sweep: one line per trial that ends, in words a user can act on."""

import io

from rich.console import Console

from tests.tuning.run.test_trial_table import NEW, begun, finished, trial
from tuning.report.sweep_progress import SweepProgress, tasks_done
from tuning.run.pruner import PruningRule
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_config import SweepMetric

RECALL = SweepMetric("stream", "average recall", "%", 4)


def asha_table() -> TrialTable:
    table = TrialTable(PruningRule("asha", 1, 2, 4))
    table.add(trial("a"), finished(9, 9, 9, 9))
    for label in ("b", "c", "d"):
        table.add(trial(label), NEW)
    return table


def lines(table: TrialTable, *steps: tuple[str, list[float], bool]) -> list[str]:
    """The lines of a log file while trials end with scores, failing or not."""
    file = io.StringIO()
    with SweepProgress(Console(file=file, width=200), RECALL) as progress:
        progress.begin("trials", table)
        for name, scores, failed in steps:
            table.start(name)
            for done, score in enumerate(scores, 1):
                table.report(name, done, score)
            table.end(name, failed)
            progress.refresh(table)
            progress.refresh(table)  # nothing changed
    return file.getvalue().splitlines()


def test_each_trial_that_ends_has_one_line() -> None:
    """Repeated or missing lines would make a log that nobody can count by."""
    found = lines(
        asha_table(), ("b-0", [5.0], False), ("c-0", [10.0] * 4, False), ("d-0", [], True)
    )
    assert found == [
        "trials: 1 finished, 3 waiting before",
        "b-0: stopped after 1 of 4 tasks, average recall 5.00 %",
        "c-0: finished, average recall 10.00 %",
        "d-0: failed after 0 of 4 tasks",
    ]


def test_a_round_of_a_population_says_how_far_its_trials_came() -> None:
    table = TrialTable(PruningRule("none", 1, 2, 2), part=True)
    table.add(trial("a"), begun(1))
    assert lines(table, ("a-0", [1.0, 2.0], False)) == [
        "a-0: has learned 2 tasks, average recall 2.00 %"
    ]


def test_tasks_of_trials_that_ended_early_are_not_waited_for() -> None:
    table = asha_table()
    assert tasks_done(table, table.statuses()) == (4, 16)
    table.start("b-0")
    table.report("b-0", 1, 5.0)  # stopped
    assert tasks_done(table, table.statuses()) == (5, 13)
