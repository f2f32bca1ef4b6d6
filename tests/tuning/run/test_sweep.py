"""The course of a sweep without Ray: not started needlessly; Ctrl-C leaves the results so far."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.integration.small_stream import overrides, prepare_small_stream
from tests.tuning.run.test_trial_table import finished
from tuning.report.sweep_progress import SweepProgress
from tuning.run.sweep import Sweep, run_sweep
from tuning.run.tune_run import Packing
from tuning.search.sweep_plan import SweepPlan

TUNE = "+tune={space:{method:{rank:{grid:[1,2]}}}}"


def test_a_finished_sweep_connects_to_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting it again for its page alone must not take a minute."""
    plan = SweepPlan.compose(overrides(tmp_path, "s", TUNE))

    def connect(_: Sweep) -> NoReturn:
        raise AssertionError("connected")

    monkeypatch.setattr(Sweep, "connect", connect)
    tasks = ("a", "b", "c")
    with ExitStack() as opened, SweepProgress(Console(quiet=True), plan.metric(tasks)) as progress:
        sweep = Sweep(plan, tasks, progress, opened)
        for trial in plan.trials(plan.trial_configs(plan.bases)):
            sweep.table.add(trial, finished(1.0, 2.0, 3.0))
        sweep.run(sweep.table, "trials")
        sweep.table.entries[trial.name].state = "pending"
        with pytest.raises(AssertionError, match="connected"):
            sweep.run(sweep.table, "trials")


def test_an_interrupted_sweep_leaves_the_results_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_small_stream(tmp_path)
    plan = SweepPlan.compose(overrides(tmp_path, "s", TUNE))

    def interrupted(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "connect", lambda _: (Packing(1, {}), None))
    monkeypatch.setattr("tuning.run.sweep.run_trials", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, Console(quiet=True))
    folder = Path(plan.folder.uri)
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [(row["trial"], row["status"]) for row in rows] == [
        ("s-lpi-000-seed0", "pending"),
        ("s-lpi-001-seed0", "pending"),
    ]
    assert (folder / "report.html").exists()
    assert not (folder / "best.yaml").exists()
