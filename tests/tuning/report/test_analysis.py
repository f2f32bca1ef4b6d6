"""Rows of trials.parquet, and whether a sweep succeeded."""

from pathlib import Path

import pyarrow as pa
import pytest

from system.errors import TrialsFailedError
from system.storage.files import Folder
from tests.tuning.report.sweep_rows import RECALL, compared
from tests.tuning.run.test_trial_table import begun, trial
from tuning.report.analysis import Outcome, plain, trial_row
from tuning.run.trial_kind import TrialRecord
from tuning.search.sweep_plan import Origin, Trial, TrialConfig


def test_a_trial_stopped_after_it_finished_has_no_final_score() -> None:
    """Else what a table shows of it would depend on how fast it was."""
    record = TrialRecord([5.0, 6.0], {"tasks": ["x", "y"]}, None)
    row = trial_row(trial("a"), record, "stopped", 1, None)
    assert (row["figure"], row["figure_by_task"]) == (None, [5.0])
    assert (row["tasks_done"], row["stopped_after"]) == (1, 1)
    assert "trainable_parameters" not in row


def test_a_fork_names_its_parent() -> None:
    config = TrialConfig("b", ("k=[1,2]",), {"k": [1, 2]}, Origin("a", 1))
    row = trial_row(Trial(config, 0, trial("b").experiment), begun(5.0), "running", None, None)
    assert (row["parent"], row["forked_after"], row["values"]) == ("a", 1, '{"k": [1, 2]}')
    assert trial_row(trial("a"), begun(5.0), "running", None, None)["parent"] is None


@pytest.mark.parametrize(
    ("statuses", "failed"),
    [(["finished", "stopped"], 0), (["finished", "failed"], 1), (["pending", "failed"], 2)],
)
def test_a_sweep_with_failed_trials_ends_with_an_error(
    tmp_path: Path, statuses: list[str], failed: int
) -> None:
    outcome = Outcome(pa.table({"status": statuses}), compared([]), RECALL, Folder.of(tmp_path))
    if failed:
        with pytest.raises(TrialsFailedError, match=f"{failed} of 2 trials failed"):
            outcome.require_success()
    else:
        outcome.require_success()


def test_a_config_is_written_as_yaml_reads_it_back() -> None:
    assert plain({"a": ("x", ("y",)), 1: None}) == {"a": ["x", ["y"]], "1": None}
