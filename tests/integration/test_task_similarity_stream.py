"""A run's tasks attract or repel by the similarity that its config names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.errors import ConfigError, DataError
from system.stream.given_similarity import given_similarity
from system.stream.preflight import check_experiment, prepared
from tests.integration.small_stream import TASKS, prepare_small_stream, small_experiment

ALIKE = {"animal": {"animal": 1, "food": 0.9}, "food": {"animal": 0.9, "food": 1}}
APART = {"animal": {"animal": 1, "food": -0.9}, "food": {"animal": -0.9, "food": 1}}
MATRIX = ("method.task_contrast.source=matrix", "benchmark.tasks=[animal,food]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similarity")
    prepare_small_stream(folder)
    return folder


def prepared_tasks(root: Path) -> list[str]:
    """All tasks of the benchmark in their prepared order."""
    return [task.name for task in prepared(small_experiment(root, "all")).tasks]


def given(root: Path, name: str, values: Mapping[str, Any]) -> str:
    (root / name).write_text(json.dumps(values))
    return f"benchmark.similarity={root / name}"


@pytest.mark.ray
def test_the_given_matrix_decides_what_task_contrast_does(root: Path, ray_local: None) -> None:
    """A source that is configured and not read would make its ablation a comparison of nothing."""
    metrics, losses = {}, {}
    for name, values in (("alike", ALIKE), ("apart", APART)):
        file = given(root, f"{name}.json", values)
        more = ("cluster.workers=0", "method.task_start=own", *MATRIX, file)
        carry_out(small_experiment(root, name, *more), Console(quiet=True))
        metrics[name] = json.loads((root / "runs" / name / "metrics.json").read_text())
        log = pq.read_table(root / "runs" / name / "training_log.parquet").to_pylist()
        losses[name] = [row["loss_task_contrast"] for row in log if row["task_index"] == 1]
    assert metrics["alike"]["task_similarity"][0][1] == pytest.approx(0.9)
    assert metrics["apart"]["task_similarity"][0][1] == pytest.approx(-0.9)
    assert losses["alike"][0] != pytest.approx(losses["apart"][0])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (None, ConfigError, "source=matrix needs the matrix: benchmark.similarity=FILE"),
        ({"animal": {"animal": 1}}, DataError, "has no task 'food'"),
        ({"animal": {"animal": 2}}, DataError, "give a number"),
    ],
)
def test_a_matrix_that_cannot_serve_is_named_before_the_start(
    root: Path, values: Mapping[str, Any] | None, error: type[Exception], message: str
) -> None:
    more = [] if values is None else [given(root, "bad.json", values)]
    with pytest.raises(error, match=message):
        check_experiment(small_experiment(root, "bad", *MATRIX, *more))


def test_a_matrix_without_names_is_in_the_prepared_order_whatever_the_stream_is(
    root: Path,
) -> None:
    """Of a stream of some tasks in an order of its own, rows would be mistaken for others."""
    tasks = prepared_tasks(root)
    matrix = np.eye(len(tasks))
    one, other = (tasks.index(task) for task in ("food", "person"))
    matrix[one, other] = matrix[other, one] = 0.5
    np.savetxt(root / "plain.txt", matrix)
    file = f"benchmark.similarity={root / 'plain.txt'}"
    experiment = small_experiment(root, "plain", file, "benchmark.tasks=[person,food]")
    given = given_similarity(experiment)
    assert given is not None
    assert given.between("person", "food") == 0.5
    notes = check_experiment(experiment).notes
    assert any(f"taken as {', '.join(tasks)}" in note for note in notes)


def test_a_given_matrix_orders_the_stream_too(root: Path) -> None:
    values = {one: {other: float(one == other) for other in TASKS} for one in TASKS}
    values["animal"]["person"] = values["person"]["animal"] = 0.5
    more = ("benchmark.order=similarity", given(root, "order.json", values))
    assert check_experiment(small_experiment(root, "o", *more)).tasks == (
        "animal",
        "person",
        "food",
    )
