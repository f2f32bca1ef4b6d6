"""A stream on data in which splits lack tasks, as RefCOCO's testA and testB do."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.data.prepare.dataset import DATASETS
from system.errors import ConfigError, DataError
from system.report.matrix_view import MatrixView
from system.report.pages.run_page import write_report
from system.report.terminal.tables import print_evaluation
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import check_experiment, prepared
from tests.data.refcoco_files import options, write_images, write_unc
from tests.grounders.small_glip import write_small_glip
from tests.integration.in_process import learn_experiment
from tests.integration.small_rec_stream import rec_overrides
from tests.integration.small_stream import figures

TASKS = ["animal", "food", "sports"]
SPLITS = {name: [name] for name in ("train", "val", "testA", "testB")}
#: Which tasks each split has objects of: nothing teaches sports, food is in one test split alone.
THERE = {"train": (1, 2), "val": (1, 2, 3), "testA": (1, 3), "testB": (2,)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    instances, refs = write_images(root, dict.fromkeys(SPLITS, 3), TASKS)
    write_unc(root, instances, [ref for ref in refs if ref["category_id"] in THERE[ref["split"]]])
    prepared = options(root, splits=SPLITS, tasks=TASKS)
    DATASETS.get("refcoco")("refs", str(root / "refs"), prepared, None)
    write_small_glip(root / "glip", [*TASKS, "the", "thing", "left", "no"])
    return root


def experiment(root: Path, name: str, *more: str) -> ExperimentConfig:
    return compose(
        rec_overrides(
            root,
            name,
            "benchmark=lpi_refcoco",
            "benchmark.name=refs",
            f"benchmark.options.root={root}",
            f"benchmark.options.tasks=[{','.join(TASKS)}]",
            "benchmark.tasks=null",
            "method=vpt",
            "method.prompt_length=2",
            "stage.epochs=1",
            "evaluation.split=[testA,testB]",
            "cluster.workers=0",
            *more,
        )
    )


def test_empty_tasks_are_skipped_by_name_and_leave_the_averages(root: Path) -> None:
    """LPI's released code skips them: one empty task may neither end a run nor undo its figures."""
    run = experiment(root, "run")
    checked = check_experiment(run)
    assert checked.tasks == ("animal", "food")
    assert checked.notes == (
        "skipped, as they have nothing to train on: tasks 'sports'",
        "not judged by split 'testA', as they have nothing there: tasks 'food'",
        "not judged by split 'testB', as they have nothing there: tasks 'animal'",
    )
    metrics: dict[str, Any] = learn_experiment(run)
    rows = figures(root, "run")
    assert rows[1, 1, "rec_ub"] == -1  # as `figures` has what is undefined
    assert metrics["average"]["rec_ub"] == rows[1, 0, "rec_ub"]
    assert metrics["zero_shot"]["average"]["rec_ub"] == rows[-1, 0, "rec_ub"]
    apart = metrics["splits"]
    assert apart["testA"]["per_task"]["food"]["rec_ub"] is None
    assert apart["testB"]["per_task"]["animal"]["rec_ub"] is None
    assert apart["testB"]["average"] == apart["testB"]["per_task"]["food"] == apart["testB"]["all"]
    reason = metrics["undefined"]["splits.testA.per_task.food"]
    assert reason == "task 'food' has no expression in split 'testA'"
    view = MatrixView.from_tables(
        [pq.read_table(root / "runs" / "run" / "accuracy_matrix.parquet")]
    )
    assert view.average_so_far("rec_ub", 1, 1) == metrics["average"]["rec_ub"]
    write_report(root / "runs" / "run")
    shown = StringIO()
    print_evaluation(
        evaluate_adapters(run, prepared(run)), Console(file=shown, width=120, color_system=None)
    )
    average = next(line for line in shown.getvalue().splitlines() if "average" in line)
    assert "-" not in average, "one empty task takes the others' average away"
    assert "food rec_r1: no expression" in shown.getvalue()


def test_a_task_that_was_asked_for_is_not_skipped(root: Path) -> None:
    """Who names a task means it: to leave it out silently would be another experiment."""
    with pytest.raises(DataError, match="task 'sports' has 0 training expressions"):
        check_experiment(experiment(root, "asked", "benchmark.tasks=[animal,sports]"))


def test_a_split_that_judges_nothing_or_is_not_there_is_an_error(root: Path) -> None:
    named = experiment(root, "nothing", "benchmark.tasks=[food]", "evaluation.split=testA")
    with pytest.raises(DataError, match="no task has anything to judge by in split 'testA'"):
        check_experiment(named)
    with pytest.raises(ConfigError) as caught:
        check_experiment(experiment(root, "joined", "evaluation.split=test"))
    assert str(caught.value) == (
        "evaluation.split=test: benchmark 'refs' has no such split, only val, testA, testB; set "
        "one of them, or several, such as evaluation.split=[val,testA,testB]: the first one leads, "
        "the others are judged once at the end"
    )
