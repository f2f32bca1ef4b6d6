"""metrics.json and its tables say what the run did: no more, and nothing undefined as a figure."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ReplayRefusedError
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.recall import METRICS as RECALLS
from system.results.stream_metrics import AVERAGE, STREAM_METRICS
from system.storage.files import Folder
from system.storage.run_directory import (
    ACCESS_LOG,
    ACCURACY_MATRIX,
    METRICS,
    TRAINING_LOG,
    RunDirectory,
    matrix_columns,
)
from system.stream.run_results import finish_run
from tests.stream.run_records import (
    TASKS,
    access_log,
    leave_outcome,
    opened,
    outcome,
    payloads,
    row,
    value_of,
)


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentConfig:
    return compose([f"storage_path={tmp_path}", "run_name=one", "seed=4", "evaluation.gallery=all"])


def finish(
    experiment: ExperimentConfig, committed: list[dict[str, Any]] | None = None, log: Any = None
) -> dict[str, Any]:
    metrics, _ = finish_run(
        experiment,
        {"name": "openmoji", "fingerprint": "b" * 64, "source": {"split_by": "unc"}},
        TASKS,
        payloads() if committed is None else committed,
        access_log() if log is None else log,
        {"start": 0.25, "evaluate": 0.125},
    )
    return metrics


def run_folder(experiment: ExperimentConfig) -> Path:
    return Path(RunDirectory.of(experiment).folder.path)


def test_summaries_are_the_matrix_s(experiment: ExperimentConfig) -> None:
    """The table on the screen, the report and metrics.json must not disagree."""
    leave_outcome(experiment)
    metrics = finish(experiment)
    matrix = AccuracyMatrix(TASKS, [MatrixRow(**r) for p in payloads() for r in p["rows"]])
    for metric in RECALLS:
        for summary in STREAM_METRICS:
            assert metrics[summary.name][metric] == summary.of(matrix, metric).value, summary.name
        zero = [value_of(metric, -1, j) for j in range(3)]
        assert metrics["zero_shot"]["average"][metric] == pytest.approx(sum(zero) / 3)
        last = [value_of(metric, 2, j) for j in range(3)]
        assert metrics["average"][metric] == pytest.approx(sum(last) / 3)
        assert metrics["oracle"]["average"][metric] == pytest.approx(sum(last) / 3)
        assert metrics["zero_shot"]["per_task"]["food"][metric] == value_of(metric, -1, 1)
    assert metrics["routing"]["image"] == {
        task: value_of("route_image", 2, j) for j, task in enumerate(TASKS)
    }
    assert metrics["routing"]["text_average"] == AVERAGE.of(matrix, "route_text").value
    six = [metrics["average"][f"{way}_r{k}"] for way in ("t2i", "i2t") for k in (1, 5, 10)]
    assert metrics["rsum"]["average"] == pytest.approx(sum(six))
    assert metrics["r_mean"]["average"] == pytest.approx(sum(six) / 6)
    assert metrics["undefined"] == {}


def test_metrics_say_under_which_conditions_they_hold(experiment: ExperimentConfig) -> None:
    leave_outcome(experiment)
    metrics = finish(experiment)
    assert (metrics["run"], metrics["method"], metrics["seed"]) == ("one", "lpi", 4)
    assert (metrics["protocol"], metrics["tasks"]) == ("corrected", list(TASKS))
    assert metrics["backbone"]["fingerprint"] == "f" * 64
    assert metrics["benchmark"] == {
        "name": "openmoji",
        "fingerprint": "b" * 64,
        "source": {"split_by": "unc"},
        "order": "given",
    }
    assert metrics["host"]["cores"] == os.cpu_count()
    assert {"git", "device"} <= metrics.keys()
    assert metrics["evaluation"]["gallery"] == "all"
    assert metrics["evaluation"]["split"] == "test"
    assert (
        metrics["evaluation"]["captions_per_image"] == outcome()["evaluated"]["captions_per_image"]
    )
    assert {"torch", "ray", "transformers", "python"} <= set(metrics["versions"])
    assert metrics["trainable_parameters_per_task"] == 84
    assert metrics["trainable_parameters"] == 3 * 84
    assert metrics["replayed_rows"] == 0
    assert metrics["wall_seconds"] == {"start": 0.25, "evaluate": 3.625, "train": 6.0}


def test_each_average_says_over_how_many_queries_it_is(experiment: ExperimentConfig) -> None:
    """The page and the terminal read it there; without it an interval has no size beside it."""
    leave_outcome(experiment)
    metrics = finish(experiment)
    assert metrics["queries"] == dict.fromkeys(metrics["average"], 10 * len(TASKS))


def test_similarity_is_symmetric_with_ones(experiment: ExperimentConfig) -> None:
    leave_outcome(experiment)
    matrix = finish(experiment)["task_similarity"]
    for i in range(3):
        assert matrix[i][i] == 1.0
        for j in range(i):
            assert matrix[i][j] == matrix[j][i] == pytest.approx(0.1 * (i + j))


def test_the_pairs_that_attracted_are_named(experiment: ExperimentConfig) -> None:
    """A similarity alone does not say which tasks the contrast pulled together."""
    leave_outcome(experiment, similarity_centred=True)
    rows = ([True], [False, True], [True, False, True])
    committed = [p | {"attracts": row} for p, row in zip(payloads(), rows, strict=True)]
    metrics = finish(experiment, committed)
    assert metrics["attracting_tasks"] == [["animal", "sports"]]
    assert metrics["task_similarity_centred"] is True


def test_a_method_that_compares_no_tasks_attracts_none(experiment: ExperimentConfig) -> None:
    """Nor is it known of a run from before pairs were recorded."""
    leave_outcome(experiment)
    for committed in (payloads(), [p | {"attracts": None} for p in payloads()]):
        assert finish(experiment, committed)["attracting_tasks"] is None


def test_files_hold_what_is_returned(experiment: ExperimentConfig) -> None:
    leave_outcome(experiment)
    metrics = finish(experiment)
    folder = run_folder(experiment)
    assert Folder.of(folder).read_json(METRICS) == metrics
    matrix = AccuracyMatrix.from_columns([matrix_columns(pq.read_table(folder / ACCURACY_MATRIX))])
    assert matrix.tasks == TASKS
    assert [row.__dict__ for row in matrix.rows] == [r for p in payloads() for r in p["rows"]]
    assert pq.read_table(folder / ACCESS_LOG).equals(access_log())
    log = pq.read_table(folder / TRAINING_LOG).to_pylist()
    assert [(r["task"], r["epoch"]) for r in log] == [(t, e) for t in TASKS for e in range(2)]
    assert [r["loss_task_contrast"] for r in log] == [None] * 2 + [0.1] * 4


def test_undefined_figures_are_null_with_a_reason(experiment: ExperimentConfig) -> None:
    """0 in their place would be read as a result."""
    committed = copy.deepcopy(payloads())
    reason = "recall at 1 is always 100 on task 'food'"
    for payload in committed:
        for entry in payload["rows"]:
            if entry["evaluated_index"] == 1 and entry["metric"] in ("t2i_r1", "route_text"):
                entry |= {"value": None, "reason": reason}
    leave_outcome(experiment)
    metrics = finish(experiment, committed)
    for section in ("average", "forgetting", "published_average", "forward_transfer"):
        assert metrics[section]["t2i_r1"] is None
        assert reason in metrics["undefined"][f"{section}.t2i_r1"]
        assert metrics[section]["i2t_r1"] is not None
    assert metrics["rsum"]["average"] is None
    assert metrics["zero_shot"]["average"]["t2i_r1"] is None
    assert metrics["zero_shot"]["per_task"]["food"]["t2i_r1"] is None
    assert metrics["undefined"]["zero_shot.per_task.food.t2i_r1"] == reason
    assert metrics["routing"]["text"]["food"] is None
    assert metrics["undefined"]["routing.text.food"] == reason
    assert metrics["routing"]["text_average"] is None
    text = (run_folder(experiment) / METRICS).read_text()
    assert "NaN" not in text


def test_growing_galleries_have_their_own_forward_transfer(experiment: ExperimentConfig) -> None:
    """The frozen model among all tasks' images is no measure for a task among a few."""
    evaluated = {"gallery": "seen", "captions_per_image": "5"}
    before = [row(metric, -1, j, value=30.0) for metric in RECALLS for j in range(len(TASKS))]
    leave_outcome(experiment, evaluated=evaluated, zero_shot_before=before)
    found = finish(experiment)["forward_transfer"]["t2i_r1"]
    expected = [value_of("t2i_r1", j - 1, j) - 30.0 for j in (1, 2)]
    assert found == pytest.approx(sum(expected) / 2)
    leave_outcome(experiment, evaluated=evaluated)  # as an earlier version left it
    metrics = finish(experiment)
    assert metrics["forward_transfer"]["t2i_r1"] is None
    reason = metrics["undefined"]["forward_transfer.t2i_r1"]
    assert "in the gallery before it was learned" in reason
    leave_outcome(experiment, evaluated={"expressions": 30})  # of boxes
    assert finish(experiment)["forward_transfer"]["t2i_r1"] is not None


def test_a_method_without_router_has_no_routing_figures(experiment: ExperimentConfig) -> None:
    leave_outcome(experiment, routed=[])
    metrics = finish(experiment)
    assert metrics["routing"] is None
    assert metrics["evaluation"]["router"] == "none"


@pytest.mark.parametrize("current", ["sports", None])
def test_a_log_with_a_replay_ends_in_an_error(
    experiment: ExperimentConfig, current: str | None
) -> None:
    """Replay-free is proved from the log alone, whatever the stream refused or did not."""
    leave_outcome(experiment)
    forged = access_log(opened("animal", "train", current, rows=7))
    with pytest.raises(ReplayRefusedError, match=r"7 rows of past tasks.*access_log\.parquet"):
        finish(experiment, log=forged)
    written = json.loads((run_folder(experiment) / METRICS).read_text())
    assert written["replayed_rows"] == 7


def test_reading_a_past_task_s_test_split_is_no_replay(experiment: ExperimentConfig) -> None:
    leave_outcome(experiment)
    log = access_log(opened("animal", "test", "sports"), opened("sports", "train", "sports"))
    assert finish(experiment, log=log)["replayed_rows"] == 0
