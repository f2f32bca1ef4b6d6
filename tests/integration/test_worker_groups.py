"""One Ray Train run for the whole stream: the same figures for any number of workers."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from tests.integration.small_stream import TASKS, adapters, figures, small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def _run(root: Path, name: str, workers: int) -> None:
    carry_out(small_experiment(root, name, f"cluster.workers={workers}"), Console(quiet=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_figures_and_prompts_do_not_depend_on_the_number_of_workers(
    small_stream: Path, workers: int
) -> None:
    """Else a result could not be compared with one from another machine."""
    name = f"workers-{workers}"
    _run(small_stream, name, workers)
    assert adapters(small_stream, name) == adapters(small_stream, "reference")
    assert figures(small_stream, name) == figures(small_stream, "reference")
    assert len(figures(small_stream, name)) == 3 * 8 + 3 * 3 * 10


def test_a_run_leaves_what_the_design_promises(small_stream: Path) -> None:
    """The run directory is what reports, sweeps and users read."""
    run = small_stream / "runs" / "reference"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["tasks"] == list(TASKS)
    assert metrics["replayed_rows"] == 0
    assert metrics["trainable_parameters"] == 3 * 4 * (3 + 2 * 4 + 32 + 24)
    assert set(metrics["average"]) == set(metrics["zero_shot"]["average"])
    for name in ("config.yaml", "report.html", "access_log.parquet", "examples.parquet"):
        assert (run / name).stat().st_size > 0
    log = pq.read_table(run / "access_log.parquet").to_pylist()
    trained = [row["task"] for row in log if row["split"] == "train"]
    assert trained == sorted(trained, key=TASKS.index), "a past task's training split was opened"


def test_a_finished_run_is_not_run_again(small_stream: Path) -> None:
    """The same command twice must cost nothing and change nothing."""
    run = small_stream / "runs" / "reference"
    before = (run / "accuracy_matrix.parquet").read_bytes()
    log_before = pq.read_table(run / "training_log.parquet")
    carry_out(small_experiment(small_stream, "reference", "cluster.workers=0"), Console(quiet=True))
    assert (run / "accuracy_matrix.parquet").read_bytes() == before
    assert pq.read_table(run / "training_log.parquet").equals(log_before)


def test_evaluate_gives_the_runs_own_last_row(small_stream: Path) -> None:
    """Saved adapters are worth what the run reported."""
    from system.stream.evaluate_adapters import evaluate_adapters
    from system.stream.preflight import prepared

    experiment = small_experiment(small_stream, "reference", "cluster.workers=0")
    matrix = evaluate_adapters(experiment, prepared(experiment))
    known = figures(small_stream, "reference")
    assert len(matrix.rows) == 3 * 8 + 3 * 10
    for row in matrix.rows:
        assert known[row.trained_index, row.evaluated_index, row.metric] == row.value
