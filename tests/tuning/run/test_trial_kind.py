"""Contract of every kind of trial: its stored state is read back by a sweep that continues."""

from pathlib import Path

import pytest

from system.storage.run_directory import RunDirectory
from tests.integration.small_stream import overrides
from tuning.run.trial_kind import FAILURE, TrialRecord
from tuning.search.sweep_plan import SweepPlan, Trial

KINDS = ["stream", "model"]


def trial_of(kind: str, root: Path) -> Trial:
    if kind == "stream":
        plan = SweepPlan.compose(overrides(root, "s", "+tune={space:{method:{rank:{grid:[1]}}}}"))
    else:
        plan = SweepPlan.compose(["tune=mask_vae", f"storage_path={root / 'runs'}"])
    (trial, *_) = plan.trials(plan.trial_configs(plan.bases))
    assert trial.kind.name == plan.kind.name == kind
    return trial


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_never_started_has_an_empty_record(tmp_path: Path, kind: str) -> None:
    record = trial_of(kind, tmp_path).record(("t2i_r1",))
    assert record == TrialRecord([], None, None)
    assert not record.finished


@pytest.mark.parametrize("kind", KINDS)
def test_why_a_trial_failed_is_read_back(tmp_path: Path, kind: str) -> None:
    """Else the sweep's table would say that its process died."""
    trial = trial_of(kind, tmp_path)
    RunDirectory.of(trial.experiment).folder.write_json(FAILURE, {"message": "disk full"})
    assert trial.record(("t2i_r1",)) == TrialRecord([], None, "disk full")


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_a_trial_that_never_started_name_its_method(tmp_path: Path, kind: str) -> None:
    trial = trial_of(kind, tmp_path)
    columns = trial.kind.columns(trial.experiment, trial.record(("t2i_r1",)))
    assert columns["method"] == trial.kind.label(trial.experiment)
    assert columns.get("seconds") is None
